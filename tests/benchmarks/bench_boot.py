"""How long a newcomer waits: `Platform.start` until ready, and the whole demo."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNBOOKS = Path(sys.executable).with_name("runbooks")
BOOT = """
import asyncio, os, sys, time
from deployments.up import Platform

async def boot():
    began = time.monotonic()
    platform = Platform(port=4300, say=lambda s: None)
    try:
        await platform.start()
        print(time.monotonic() - began, flush=True)
    finally:
        await platform.stop()

asyncio.run(boot())
"""


def _environment(home: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RUNBOOKS_"))}
    return {**kept, "RUNBOOKS_HOME": home, "RUNBOOKS_DEMO_HOME": home, "COLUMNS": "80"}


def _run(*argv: str | Path, home: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=_environment(home), capture_output=True, text=True, timeout=180, check=True
    )


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, note}."""
    rows: list[dict[str, Any]] = []

    def row(name: str, seconds: float, note: str) -> None:
        rows.append({"name": name, "value": round(seconds, 1), "unit": "s", "note": note})

    with tempfile.TemporaryDirectory(prefix="runbooks-bench-") as home:
        for name, note in (
            ("boot, first", "Platform.start until ready; database made, flows deployed"),
            ("boot, again", "the same home once more"),
        ):
            row(name, float(_run(sys.executable, "-c", BOOT, home=home).stdout), note)
    with tempfile.TemporaryDirectory(prefix="runbooks-bench-") as home:
        began = time.monotonic()
        _run(RUNBOOKS, "demo", "--exit", home=home)
        row("demo --exit", time.monotonic() - began, "boot, failure, remedy, record, stop")
    return rows


if __name__ == "__main__":
    print(run())
