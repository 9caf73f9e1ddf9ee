"""check-platform over 10, 100 and 500 stand-in services: time, task runs, peak memory.

One process answers for all of them. Each has a status and a log command, a config file and an API,
as a service with a `command` runtime has; one takes SLOWEST_S for its token: the slowest single
check, which the whole is held against. Bound: 1.3 times that, and 10 s; 300 MiB.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

SIZES = (10, 100, 500)
SLOWEST_S = 2.0
LOG_LINES = 2000
ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


async def serve() -> None:
    """Every service's API, on one port; its paths begin with the service's number."""
    metrics = (
        'vllm:num_requests_running{model_name="m"} 1.0\n'
        'vllm:num_requests_waiting{model_name="m"} 0.0\n'
        'vllm:kv_cache_usage_perc{model_name="m"} 0.2\n'
        'vllm:e2e_request_latency_seconds_bucket{le="1.0",model_name="m"} 90.0\n'
        'vllm:e2e_request_latency_seconds_bucket{le="+Inf",model_name="m"} 100.0\n'
        'vllm:e2e_request_latency_seconds_count{model_name="m"} 100.0\n'
        'vllm:e2e_request_latency_seconds_sum{model_name="m"} 60.0\n'
    )
    bodies = {
        "health": "",
        "models": json.dumps({"data": [{"id": "m", "max_model_len": 8192}]}),
        "completions": json.dumps({"usage": {"completion_tokens": 1}}),
        "metrics": "# TYPE vllm:num_requests_running gauge\n" + metrics,
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                _, path, _ = head.split(" ", 2)
                for line in head.lower().split("\r\n"):
                    if line.startswith("content-length:"):
                        await reader.readexactly(int(line.split(":")[1]))
                name = path.rsplit("/", 1)[1]
                if name == "completions" and path.startswith("/0/"):
                    await asyncio.sleep(SLOWEST_S)
                body = bodies[name].encode()
                begin = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                writer.write(begin + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, KeyError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def inventory(folder: Path, count: int, port: int) -> Path:
    """A stack file of so many services."""
    now = datetime.now(UTC)
    log = folder / "server.log"
    stamps = [now - timedelta(hours=20) + timedelta(seconds=30 * n) for n in range(LOG_LINES)]
    log.write_text(
        "".join(
            f"(APIServer pid=7) {'ERROR' if n % 400 == 399 else 'INFO'} {at:%m-%d %H:%M:%S} "
            f"[loggers.py:123] Engine 000: step {n} took 3.2 s, Running: 1 reqs, Waiting: 0\n"
            for n, at in enumerate(stamps)
        )
    )
    state = {"phase": "running", "pid": 7, "started_at": (now - timedelta(days=3)).isoformat()}
    services = {}
    for number in range(count):
        config = folder / f"{number}.yaml"
        config.write_text("# vLLM\nmodel: m\nmax-model-len: 8192\nmax-num-seqs: 8\n")
        services[f"s{number}"] = {
            "url": f"http://127.0.0.1:{port}/{number}",
            "served_model_name": "m",
            "runtime": {
                "kind": "command",
                "restart": ["/bin/true"],
                "stop": ["/bin/true"],
                "status": ["/bin/echo", json.dumps(state)],
                "status_format": "json",
                "logs": ["/bin/cat", str(log)],
            },
            "serving": {
                "kind": "yaml",
                "path": str(config),
                "key_map": {"max_model_len": "max-model-len", "max_num_seqs": "max-num-seqs"},
            },
        }
    path = folder / f"bench-{count}.yaml"
    path.write_text(json.dumps({"name": f"bench-{count}", "services": services}))
    return path


async def _measure(stacks: list[str]) -> dict[str, Any]:
    """The last stack is measured; those before it warm the process up."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.check_platform import check_platform
    from flows.report import Options

    for stack in stacks:
        began, busy = time.monotonic(), time.process_time()
        options = Options(actor="bench", source="cli")
        state = await check_platform(stack, options, return_state=True)
        took, busy = time.monotonic() - began, time.process_time() - busy
    report = await state.result(raise_on_failure=False)
    assert {f.status for f in report.findings if f.check == "decoding"} == {"ok"}, report.headline
    await asyncio.sleep(3)  # task runs reach the server with their events
    async with get_client() as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[report.run_id]))
        runs = await client.read_task_runs(flow_run_filter=chosen, limit=200)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"s": took, "cpu_s": busy, "tasks": len(runs), "mib": peak, "said": report.message}


def _child(stacks: list[Path]) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.benchmarks.bench_check", *map(str, stacks)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=150)
    if done.returncode:
        raise AssertionError(done.stderr[-1500:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run() -> Rows:
    """Rows {name, value, unit, note}."""
    rows: Rows = []
    argv = [sys.executable, "-m", "tests.benchmarks.bench_check", "--serve"]
    with tempfile.TemporaryDirectory(prefix="runbooks-bench-") as home:
        server = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            port, folder = int(server.stdout.readline()), Path(home)
            one = inventory(folder, 1, port)
            alone = _child([one, one])["s"]
            for count in SIZES:
                rows += _rows(count, alone, _child([one, inventory(folder, count, port)]))
        finally:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()
    return rows


def _rows(count: int, alone: float, got: dict[str, Any]) -> Rows:
    name, bound = f"check-platform, {count} services", 1.3 * alone + 10

    def row(what: str, value: float, unit: str, note: str) -> dict[str, Any]:
        return {"name": f"{name}{what}", "value": round(value, 1), "unit": unit, "note": note}

    note = f"slowest check alone {alone:.1f} s, aim < {bound:.1f} s; {got['cpu_s']:.1f} s CPU"
    return [
        row("", got["s"], "s", note),
        row(": task runs", got["tasks"], "", "aim < 100"),
        row(
            ": peak RSS", got["mib"], "MiB", "whole interpreter, Prefect's part included; aim < 300"
        ),
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve())
    elif len(sys.argv) > 1:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            os.environ["RUNBOOKS_HOME"] = own
            os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
            from deployments import connection

            connection.use_this_process()
            print(json.dumps(asyncio.run(_measure(sys.argv[1:]))))
    else:
        print(json.dumps(run(), indent=1))
