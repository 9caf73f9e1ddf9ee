"""`make bench`: every benchmark in a process of its own, one table, `out/results.json`.

python -m tests.benchmarks [NAME...]   (recovery boot trigger diagnose; none: all)
"""

import importlib
import json
import multiprocessing
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
OUT = HERE / "out" / "results.json"


def known() -> list[str]:
    """The names that can be asked for."""
    return sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))


def measure(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark."""
    rows: list[dict[str, Any]] = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
    return rows


def isolated(name: str) -> list[dict[str, Any]]:
    """Measure in a fresh interpreter: settings and imports of one must not touch the next."""
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1, _lead_no_daemon) as pool:
        try:
            rows = pool.apply(measure, (name,))
        except Exception as e:  # noqa: BLE001 - the others are measured all the same
            rows = [
                {
                    "name": name,
                    "value": None,
                    "unit": "",
                    "note": f"{type(e).__name__}: {str(e)[:300]}",
                }
            ]
            rows[0]["failed"] = True
    took = round(time.monotonic() - began, 1)
    return [{**row, "bench": name, "took_s": took} for row in rows]


def _lead_no_daemon() -> None:
    # A pool's worker is a daemon, which may not have children; a benchmark may.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


def main(names: list[str]) -> int:
    """Run them, print, write; 1 when one could not be measured."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    if unknown := set(names) - set(known()):
        console.print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known())}")
        return 2
    rows: list[dict[str, Any]] = []
    for name in names or known():
        with console.status(f"{name} ..."):
            rows += isolated(name)
    table = Table("what", "value", "unit", "note", box=None, header_style="bold")
    table.columns[1].justify = "right"
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:g}"
        table.add_row(row["name"], value, row["unit"], row["note"])
    console.print(table)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(
        f"written to {OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT}"
    )
    return int(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
