"""`runbooks incidents`, `ack` and `close`: an incident that no alert ends is ended by hand."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from blocks.audit_log import AuditLog
from blocks.incidents import Opened, open_incident, read_incident
from tests.conftest import PrefectServer

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, server: PrefectServer | None, home: Path) -> tuple[int, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= server.env if server else {}
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        cwd=ROOT,
        capture_output=True,
        env={**env, "RUNBOOKS_HOME": str(home), "COLUMNS": "200", "NO_COLOR": "1"},
        timeout=120,
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


@pytest.fixture
async def opened(prefect_server: PrefectServer) -> Opened:
    one = Opened(
        id=uuid4().hex[:8],
        stack=f"t-{uuid4().hex[:8]}",
        service="chat",
        severity="P1",
        title="[bold]slow[/] since noon",
        source="slack",
        at=datetime.now(UTC),
    )
    assert await open_incident(one)
    return one


async def test_listed_taken_and_closed(
    prefect_server: PrefectServer, home: Path, opened: Opened
) -> None:
    code, said = run("incidents", "--stack", opened.stack, server=prefect_server, home=home)
    assert code == 0 and opened.id in said and "[bold]slow[/] since noon" in said
    assert "nobody" in said
    code, said = run("ack", opened.id.upper(), server=prefect_server, home=home)
    assert (code, said) == (0, f"{opened.id} is yours; nobody else is called\n")
    code, said = run("ack", opened.id, server=prefect_server, home=home)
    assert code == 3 and "is acknowledged already" in said
    code, said = run("close", opened.id, server=prefect_server, home=home)
    assert (code, said) == (0, f"{opened.id} is closed\n")
    code, said = run("close", opened.id, server=prefect_server, home=home)
    assert code == 0 and "is over already: closed" in said
    code, said = run("ack", opened.id, server=prefect_server, home=home)
    assert code == 3 and "is over already: closed" in said
    code, said = run("incidents", "--json", server=prefect_server, home=home)
    assert opened.id not in {i["opened"]["id"] for i in json.loads(said)}
    found = await read_incident(opened.id)
    assert found and found.ended and found.ended.how == "closed"
    assert found.acknowledged and found.acknowledged.source == "cli"
    lines = "".join(f.read_text() for f in AuditLog().folder.rglob("*.jsonl")).splitlines()
    said_of = [line for line in lines if opened.id in line]
    assert len(said_of) == 2 and "acknowledged" in said_of[0] and "closed" in said_of[1]


def test_what_is_no_incident_is_said(prefect_server: PrefectServer, home: Path) -> None:
    code, said = run("close", "everything", server=None, home=home)
    assert code == 2 and "'everything' is no incident: 8 hex digits" in said
    code, said = run("close", "0" * 8, server=prefect_server, home=home)
    assert code == 3 and "there is no incident 00000000; see: runbooks incidents" in said
