"""Throughput and memory of `diagnose` on generated 200 MB logs; each in a process of its own."""

import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.decisions.diagnosis import diagnose

MEGABYTE = 1_000_000
SIZE_MB = 200
START = (
    "(APIServer pid=1) INFO 01-01 00:00:00 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  "
    "version 0.32.0\n"
)
SERVING = (
    "(APIServer pid=1) INFO 01-01 00:00:{0:02} [loggers.py:123] Engine 000: Avg prompt throughput: "
    "12.{0} tokens/s, Running: {0} reqs, Waiting: 0 reqs, GPU KV cache usage: {0}.1%\n"
    'INFO:     172.17.0.1:{0} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
    "INFO 01-01 00:00:{0:02} [logger.py:39] Received request chatcmpl-{0}: prompt: 'You are a "
    "helpful assistant.', params: SamplingParams(n=1, temperature=0.7, max_tokens=512)\n"
)
END = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


def write_log(path: Path, kind: str) -> None:
    """A log of SIZE_MB; every kind ends with the same cause."""
    block = {
        "info": "".join(SERVING.format(n % 60) for n in range(2000)),
        "warnings": "WARNING 01-01 00:00:00 scheduler.py:1099] Sequence group {0} is preempted by "
        "PreemptionMode.RECOMPUTE mode because there is not enough KV cache space.\n" * 4000,
        "tiny": "ok\n" * 300_000,
        "one_line": "x" * MEGABYTE,
    }[kind].encode()
    with path.open("wb") as file:
        file.write(START.encode())
        written = 0
        while written < SIZE_MB * MEGABYTE:
            written += file.write(block)
        file.write(b"\n" + END.encode())


def measure(path: str) -> dict[str, Any]:
    """Seconds and peak RSS of this process for one file."""
    started = time.process_time()
    with open(path, "rb") as file:
        label = diagnose(file).label
    seconds = time.process_time() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"label": label, "seconds": seconds, "peak_mib": peak_kib / 1024}


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, note}."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("info", "warnings", "tiny", "one_line"):
            path = Path(folder) / f"{kind}.log"
            write_log(path, kind)
            size = path.stat().st_size / MEGABYTE
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                result = pool.apply(measure, (str(path),))
            note = f"{size:.0f} MB, one core, verdict {result['label']}"
            speed = round(size / result["seconds"], 1)
            rows.append({"name": f"diagnose {kind}", "value": speed, "unit": "MB/s", "note": note})
            rows.append(
                {
                    "name": f"diagnose {kind} peak RSS",
                    "value": round(result["peak_mib"], 1),
                    "unit": "MiB",
                    "note": "whole interpreter",
                }
            )
            path.unlink()
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
