"""`make bench`: every benchmark in a process of its own, one table, `out/results.json`.

python -m tests.benchmarks [NAME...]   (recovery boot trigger diagnose; none: all)
"""

import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = HERE / "out" / "results.json"
LIMIT_S = 240
INTO = "--into"


def known() -> list[str]:
    """The names that can be asked for."""
    return sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))


def measure(name: str, file: Path) -> None:
    """Write the rows of one benchmark."""
    rows = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
    file.write_text(json.dumps(rows), encoding="utf-8")


def isolated(name: str) -> list[dict[str, Any]]:
    """Measure in a fresh interpreter: settings and imports of one must not touch the next."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "rows.json", Path(folder) / "log"
        argv = [sys.executable, "-m", "tests.benchmarks", INTO, str(file), name]
        with log.open("wb") as out:
            try:
                code = subprocess.run(
                    argv, cwd=ROOT, stdout=out, stderr=out, timeout=LIMIT_S
                ).returncode
                problem = log.read_text(errors="replace").strip()[-300:] if code else ""
            except subprocess.TimeoutExpired:
                problem = f"not done within {LIMIT_S} s"
        rows = [_failed(name, problem)] if problem else json.loads(file.read_text())
    took = round(time.monotonic() - began, 1)
    return [{**row, "bench": name, "took_s": took} for row in rows]


def _failed(name: str, problem: str) -> dict[str, Any]:
    return {"name": name, "value": None, "unit": "", "note": problem, "failed": True}


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
        table.add_row(row["name"], value, row["unit"], row["note"].replace("[", r"\["))
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
    console.print(f"written to {OUT.relative_to(ROOT)}")
    return int(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [INTO]:
        measure(sys.argv[3], Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
