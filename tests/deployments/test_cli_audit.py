"""`runbooks audit`: what is shown is what stands there, and no cell is a formula."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from blocks.audit_export import Exported, save_exported
from blocks.audit_log import AuditLog
from blocks.errors import Transient
from deployments.audit_text import COLUMNS, row, safe, write
from deployments.cli import app
from deployments.doctor_audit import audit_lines, facts_of
from flows.decisions.since import parse_since
from flows.decisions.vacuum import VacuumFacts, judge_events, judge_vacuum
from tests.conftest import PrefectServer

NOW = datetime.now(UTC)


def run_record(**more: Any) -> dict[str, Any]:
    changes = {"max_model_len": [16384, 8192], "enforce_eager": [None, True]}
    plan = {"digest": "abcdef123456", "how": "apply", "changes": changes}
    return {
        "run": "0f1e2d3c-0000-0000-0000-000000000000",
        "procedure": "remediate-oom",
        "stacks": ["prod"],
        "services": ["chat"],
        "who": {"actor": "ada", "source": "slack", "approver": "bob, from slack"},
        "why": {"diagnosis": "oom_kv_cache", "alert": {"name": "VLLMDown"}, "incident": "1a2b3c4d"},
        "approvals": ["an answer of eve, from slack did not count: not a member"],
        "reports": [
            {"message": "stepped | down", "plan": plan, "attempts": [{"plan": plan, "kept": True}]}
        ],
        "ended": (NOW - timedelta(hours=1)).isoformat(),
        "verdict": "passed",
        "state": {"name": "Passed"},
        **more,
    }


@pytest.fixture
def trail(home: Path) -> AuditLog:
    log = AuditLog()
    log.append("run", run_record())
    log.append("run", run_record(ended=(NOW - timedelta(days=40)).isoformat(), verdict="failed"))
    log.append("access", {"actor": "=HYPERLINK(1)", "source": "slack", "refused": "not a member"})
    return log


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["audit", *words])


def test_jsonl_is_the_chain_itself(trail: AuditLog) -> None:
    shown = invoke("--format", "jsonl", "--since", "90d")
    assert shown.exit_code == 0
    assert shown.stdout.encode() == b"".join(p.read_bytes() for p, _ in trail.snapshot().files)


def test_since_leaves_out_what_ended_before(trail: AuditLog) -> None:
    found = [json.loads(x) for x in invoke("--format", "jsonl").stdout.splitlines()]
    assert [r["seq"] for r in found] == [1, 3]
    assert invoke("--since", "last week").exit_code != 0


def test_csv_is_a_table_without_formulas(trail: AuditLog, tmp_path: Path) -> None:
    out = tmp_path / "trail.csv"
    assert "2 records" in invoke("--format", "csv", "--out", str(out)).stdout
    with out.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["change"] == "enforce_eager (default) -> true, max_model_len 16384 -> 8192"
    assert rows[0]["approvals"] == "an answer of eve, from slack did not count: not a member"
    assert rows[0]["approver"] == "bob, from slack" and rows[0]["alert"] == "VLLMDown"
    assert rows[0]["hash"] == next(trail.records())["hash"]
    assert rows[1]["actor"] == "'=HYPERLINK(1)" and "not a member" in rows[1]["message"]


@given(st.text())
def test_no_text_becomes_a_formula(text: str) -> None:
    file = io.StringIO()
    record = {"kind": "access", "at": NOW.isoformat(), "actor": text, "message": text}
    write(file, [record], NOW - timedelta(days=1), "csv")
    (_, cells) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    for cell in cells[1:]:
        assert not cell.lstrip(" \n").startswith(("=", "+", "-", "@", "\t", "\r")), cell
    assert safe("plain, text") == "plain, text"


def test_md_is_one_row_each(trail: AuditLog) -> None:
    trail.append("access", {"actor": "eve|\n| <b>x", "message": "[a](http://b) `c`"})
    lines = invoke("--format", "md").stdout.splitlines()
    assert lines[0] == "# Audit trail" and len(lines) == 4 + 3
    assert "remediate-oom prod/chat" in lines[4]
    assert "ada, from slack; approved by bob, from slack" in lines[4]
    assert "16384 -\\> 8192" in lines[4]
    assert lines[-1].count(" | ") == lines[2].count(" | ") and "eve\\|" in lines[-1]


@pytest.mark.parametrize(
    "record",
    [{}, {"kind": "run", "reports": None, "who": 3, "why": []}, {"kind": "run", "reports": [{}]}],
)
def test_odd_records_are_shown_all_the_same(record: dict[str, Any]) -> None:
    assert set(row(record)) == set(COLUMNS)
    for form in ("jsonl", "csv", "md"):
        assert write(io.StringIO(), [record], NOW, form) == 1


def test_verify_names_the_first_broken_record(trail: AuditLog) -> None:
    well = invoke("verify")
    assert well.exit_code == 0 and "3 records in 1 files are whole" in well.stdout
    assert json.loads(invoke("verify", "--json").stdout)["records"] == 3
    ((path, _),) = trail.snapshot().files
    path.write_bytes(path.read_bytes().replace(b'"verdict":"failed"', b'"verdict":"passed"'))
    broken = invoke("verify")
    assert broken.exit_code == 1 and f"{path.name}:2: was changed" in broken.stderr
    shown = invoke("--format", "csv")
    assert shown.exit_code == 1 and ":2: was changed" in shown.stderr
    assert invoke("verify", "--folder", str(path)).exit_code == 2


@pytest.mark.parametrize("how", ["removed", "written anew", "the end cut off"])
def test_what_the_last_export_proved_must_be_there(trail: AuditLog, how: str) -> None:
    """What is left is a whole chain of its own."""
    found = trail.verify()
    save_exported(Exported(at=NOW, run_id="r", seq=found.seq, hash=found.hash))
    assert invoke("verify").exit_code == 0 and invoke("--format", "csv").exit_code == 0
    trail.append("access", {"actor": "later"})
    assert invoke("verify").exit_code == 0
    for path in (*(p for p, _ in trail.snapshot().files), trail.folder / "head.json"):
        path.unlink()
    if how != "removed":
        trail.extend("access", [{"actor": "eve"}] * (2 if how == "the end cut off" else 5))
    assert trail.verify().first_broken is None
    said = "is another one now" if how == "written anew" else "is gone"
    for words in (["verify"], ["--format", "csv"]):
        broken = invoke(*words)
        assert broken.exit_code == 1
        assert "export.json:1: names record 3" in broken.stderr and said in broken.stderr
    assert invoke("verify", "--folder", str(trail.folder)).exit_code == 1


def test_an_export_of_nothing_asks_for_nothing(home: Path) -> None:
    save_exported(Exported(at=NOW, run_id="r", seq=0, hash="0" * 64))
    shown = invoke("verify")
    assert shown.exit_code == 0 and "nothing to prove" in shown.stdout
    AuditLog().append("access", {"actor": "ada"})
    assert invoke("verify").exit_code == 0


def test_an_empty_trail_says_so(home: Path) -> None:
    shown = invoke("--format", "jsonl")
    assert shown.exit_code == 0 and "runbooks audit export" in shown.stderr
    assert invoke("--format", "xml").exit_code == 2


def test_export_needs_a_server_or_local(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments import connection

    monkeypatch.setattr(connection, "find_server", lambda: None)
    refused = invoke("export")
    assert refused.exit_code == 3 and "add --local" in refused.stderr


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("2w", timedelta(weeks=2))],
)
def test_spans(text: str, ago: timedelta) -> None:
    assert parse_since(text, NOW) == NOW - ago
    assert parse_since("2026-01-02", NOW) == datetime(2026, 1, 2, tzinfo=UTC)


# ---- what Prefect may forget --------------------------------------------------------------------

FACTS = VacuumFacts(flow_runs=False, keeps_runs=timedelta(days=90), keeps_events=timedelta(days=7))


@pytest.mark.parametrize(
    ("on", "age_days", "vacuum", "events"),
    [
        (False, None, "ok", "warn"),
        (False, 1, "ok", "ok"),
        (False, 6.5, "ok", "warn"),
        (True, None, "fail", "warn"),
        (True, 1, "ok", "ok"),
        (True, 89, "ok", "warn"),
        (True, 90, "fail", "warn"),
    ],
)
def test_forgetting_needs_a_verified_export(
    on: bool, age_days: float | None, vacuum: str, events: str
) -> None:
    facts = FACTS.model_copy(update={"flow_runs": on})
    exported = None if age_days is None else NOW - timedelta(days=age_days)
    found = judge_vacuum(facts, exported, NOW), judge_events(facts, exported, NOW)
    assert [x[0] for x in found] == [vacuum, events]
    assert all(fix for status, _, fix in found if status != "ok")


async def test_doctor_reads_the_servers_own_settings(
    home: Path, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """The session's server as it comes: vacuum of flow runs off, events kept 7 days."""
    log = AuditLog()
    told = log.append("access", {"actor": "ada"})
    save_exported(Exported(at=NOW, run_id="r", seq=1, hash=told))
    vacuum, events, trail = await audit_lines()
    assert [vacuum.status, events.status, trail.status] == ["ok", "ok", "ok"]
    assert "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs" in vacuum.message
    assert "RETENTION_PERIOD=7776000" in vacuum.message
    save_exported(Exported(at=NOW, run_id="r", seq=2, hash=told))
    gone = (await audit_lines())[2]
    assert gone.status == "fail" and "names record 2" in gone.message
    (log.folder / "head.json").write_text("{}")
    assert (await audit_lines())[2].status == "fail"


@pytest.mark.parametrize(
    ("value", "on"),
    [
        ("events,flow_runs", True),
        ("true", True),
        ("events", False),
        ("false", False),
        (None, False),
    ],
)
def test_the_settings_are_read_as_a_server_gives_them(
    value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/admin/settings` answers this very model."""
    from prefect.settings import Settings

    if value is not None:
        monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", value)
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD", "172800")
    facts = facts_of(Settings().model_dump(mode="json"))
    assert facts.flow_runs is on and facts.keeps_runs == timedelta(days=2)
    assert facts.keeps_events == timedelta(days=7)
    status, said, fix = judge_vacuum(facts, None, NOW)
    assert status == ("fail" if on else "ok")
    assert not on or ("deletes flow runs 2 d after" in said and "ENABLED=events and" in fix)
    with pytest.raises(Transient, match="version"):
        facts_of({"server": {}})
