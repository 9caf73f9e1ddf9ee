"""Seconds from the POST of a run to its body: `runbooks up`'s way against Prefect's own."""

import contextlib
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import PrefectServer
from tests.real.zygote_site import Deployment, Site, said, sync_client

RUNS = 8
SETTLE_S = 6


def _trigger(deployment: Deployment, site: Site) -> float:
    out = site.out()
    began = time.time()
    run = deployment.run(out)
    seconds = float(said(out, 120)["body"]) - began
    deployment.ended(run)
    return seconds


def _row(name: str, value: float, unit: str, note: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "note": note}


def _start_seconds(command: list[str]) -> float:
    """An interpreter that has loaded the launcher and built its request."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import launch; launch.request()"
    argv = [*command[:-1], "-c", code, str(Path(command[-1]).parent)]
    times = []
    for _ in range(15):
        began = time.monotonic()
        subprocess.run(argv, check=True)
        times.append(time.monotonic() - began)
    return statistics.median(times)


def _memory(pid: int) -> dict[str, float]:
    """RSS and private memory in MB, from /proc."""
    got = dict.fromkeys(("Rss", "Private_Dirty", "Private_Clean"), 0.0)
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in got:
                got[key] = int(rest.split()[0]) / 1024
    return got


def _measure(site: Site, row: Callable[..., None]) -> None:
    with sync_client() as client:
        fast, slow = "PREFECT_WORKER_QUERY_SECONDS", ("1", "10")
        ways = {
            "zygote": (shlex.join(site.command), {fast: slow[0]}),
            "fallback": (shlex.join(site.command), {fast: slow[0], "RUNBOOKS_ZYGOTE": ""}),
            "prefect 1 s poll": ("", {fast: slow[0]}),
            "prefect default": ("", {fast: slow[1]}),
        }
        deployments, workers = {}, []
        for way, (command, env) in ways.items():
            pool = "bench-" + way.replace(" ", "-")
            deployments[way] = Deployment(client, pool, site.code, command)
            workers.append(site.start_worker(pool, **env))
        time.sleep(SETTLE_S)
        for deployment in deployments.values():
            _trigger(deployment, site)  # its worker may still be starting
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(RUNS):  # in turn, so that other load on the machine meets all of them
            for way, deployment in deployments.items():
                seconds[way].append(_trigger(deployment, site))
        for worker in workers:
            worker.terminate()
            worker.wait(30)
        medians = {way: statistics.median(got) for way, got in seconds.items()}
        for way, got in seconds.items():
            spread = f"median of {RUNS}, {min(got):.2f} to {max(got):.2f}"
            row(f"trigger: POST to body, {way}", medians[way], "s", spread)
        ratio = medians["prefect default"] / medians["zygote"]
        row("trigger: Prefect's default / runbooks up", ratio, "x", "same run, same server")
        row("trigger: launcher start", _start_seconds(site.command), "s", "median of 15")
        row("trigger: zygote RSS", _memory(site.zygote.pid)["Rss"], "MB", "all flows imported")
        deployment = Deployment(client, "memory", site.code, "")
        for name, env in (("forked", {}), ("fresh", {"RUNBOOKS_ZYGOTE": ""})):
            out = site.out()
            launcher = site.launch(deployment.run(out, seconds=2), **env)
            memory = _memory(int(said(out, 120)["pid"]))
            launcher.wait(60)
            private = memory["Private_Dirty"] + memory["Private_Clean"]
            row(
                f"trigger: private memory of a {name} run",
                private,
                "MB",
                f"RSS {memory['Rss']:.0f}",
            )


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, note}."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="trigger-") as folder:
        server = PrefectServer(Path(folder) / "prefect")
        server.start()
        site = Site(Path(folder) / "site", server.env)
        try:
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
                site.start_zygote()
                _measure(site, lambda *cells: rows.append(_row(*cells)))
        finally:
            site.close()
            server.stop()
    return rows


if __name__ == "__main__":
    for line in run():
        print(line)
