"""export-audit of 10,000 ended runs: time, peak memory against that of 100, runs held at once.

The runs are copies, in the server's own database, of one that went through the API: with its
states and its data artifact. Aim: memory does not grow with their number (under 30 MiB more).
"""

import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.conftest import PrefectServer

SIZES = (100, 10_000)
ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


async def _seed() -> str:
    """One ended run with a report."""
    from prefect import flow, get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.states import Completed, Pending, Running

    @flow(name="remediate-oom")
    async def stand_in() -> None:
        """Only its run is of interest."""

    evidence = [f"(EngineCore pid=7) ERROR line {n} of what decided" for n in range(12)]
    data = {
        "procedure": "remediate-oom",
        "verdict": "passed",
        "message": "stepped down",
        "diagnosis": {"label": "oom_kv_cache", "evidence": evidence},
    }
    async with get_client() as client:
        tags = ["procedure:remediate-oom", "stack:bench"]
        run = await client.create_flow_run(stand_in, tags=tags, state=Pending())
        for state in (Running(), Completed(name="Passed")):
            await client.set_flow_run_state(run.id, state, force=True)
        made = ArtifactCreate(
            key="remediate-oom-data", type="result", data=json.dumps(data), flow_run_id=run.id
        )
        await client.create_artifact(made)
    return str(run.id)


def copies(database: Path, run: str, count: int) -> None:
    """As many of it, a minute apart, a third of them at one instant."""
    with sqlite3.connect(database, timeout=60) as db:
        db.row_factory = sqlite3.Row
        one = dict(db.execute("select * from flow_run where id = ?", (run,)).fetchone())
        key = "select * from {} where flow_run_id = ?"
        states = [dict(r) for r in db.execute(key.format("flow_run_state"), (run,))]
        (artifact,) = [dict(r) for r in db.execute(key.format("artifact"), (run,))]
        began = datetime.now(UTC) - timedelta(days=20)
        for number in range(count):
            end = began + timedelta(minutes=number if number % 3 else count // 2)
            _copy(db, one, states, artifact, end)
    db.close()


def _copy(db: Any, one: Any, states: Any, artifact: Any, end: datetime) -> None:
    new, own = str(uuid4()), {s["id"]: str(uuid4()) for s in states}
    values = {**one, "id": new, "idempotency_key": None, "state_id": None}
    _insert(db, "flow_run", values | {"end_time": end.strftime("%Y-%m-%d %H:%M:%S.%f")})
    for state in states:
        _insert(db, "flow_run_state", {**state, "id": own[state["id"]], "flow_run_id": new})
    db.execute("update flow_run set state_id = ? where id = ?", (own[one["state_id"]], new))
    _insert(db, "artifact", {**artifact, "id": str(uuid4()), "flow_run_id": new})


def _insert(db: Any, table: str, values: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(values))
    db.execute(f"insert into {table} ({', '.join(values)}) values ({marks})", list(values.values()))


async def _measure() -> dict[str, Any]:
    from blocks import prefect_runs
    from blocks.audit_log import AuditLog
    from flows.export_audit import export_audit
    from flows.report import Options

    whole, held = prefect_runs._whole, [0]

    async def counts(client: Any, runs: Any) -> Any:
        held.append(len(runs))
        return await whole(client, runs)

    prefect_runs._whole = counts  # type: ignore[assignment]
    began = time.monotonic()
    state: Any = await export_audit(
        "*", "", Options(actor="bench", source="cli"), return_state=True
    )
    took = time.monotonic() - began
    verified = AuditLog().verify()
    assert state.name == "Passed" and verified.first_broken is None, state.message
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"s": took, "mib": peak, "held": max(held), "records": verified.records}


def _child(server: PrefectServer, home: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.benchmarks.bench_audit", "--measure"]
    env = {**server.env, "RUNBOOKS_HOME": home, "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500)
    if done.returncode:
        raise AssertionError(done.stderr[-1500:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run() -> Rows:
    """Rows {name, value, unit, note}."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    got: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for size in SIZES:
            server = PrefectServer(Path(folder) / f"prefect-{size}")
            server.start()
            try:
                with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
                    seed = asyncio.run(_seed())
                copies(server.folder / "prefect.db", seed, size - 1)
                got[size] = _child(server, f"{folder}/home-{size}")
            finally:
                server.stop()
            assert got[size]["records"] == size, got
    return _rows(*(got[size] for size in SIZES))


def _rows(few: dict[str, Any], many: dict[str, Any]) -> Rows:
    def row(what: str, value: float, unit: str, note: str) -> dict[str, Any]:
        name = f"export-audit, {SIZES[1]:,} runs{what}"
        return {"name": name, "value": round(value, 1), "unit": unit, "note": note}

    each = f"{1000 * many['s'] / SIZES[1]:.1f} ms each; {SIZES[0]} runs took {few['s']:.1f} s"
    return [
        row("", many["s"], "s", each),
        row(": peak RSS", many["mib"], "MiB", f"{SIZES[0]} runs: {few['mib']:.0f} MiB"),
        row(": more than for 100", many["mib"] - few["mib"], "MiB", "aim < 30"),
        row(": held at once", many["held"], "runs", "aim <= 50"),
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(asyncio.run(_measure())))
    else:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
        print(json.dumps(run(), indent=1))
