"""The export against a real Prefect server: every ended run once, in order, in a whole chain."""

import asyncio
import gc
import inspect
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from prefect import flow, get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import MissingResult
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running

from blocks import prefect_runs
from blocks.audit_chain import MAX_LINE, canonical
from blocks.audit_export import exporting, read_exported
from blocks.audit_log import AuditLog
from blocks.audit_models import EndedRun, StateChange
from blocks.incidents import Opened, open_incident
from blocks.models import ServingConfig
from blocks.prefect_runs import ended_runs, last_end
from blocks.stack import StackSpec
from deployments.bootstrap import register
from flows import approval
from flows import export_audit as module
from flows.decisions.audit_record import record_of
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.plan import Plan
from flows.export_audit import export_audit
from flows.report import Attempt, Options, Report, Verification
from tasks.audit import add_runs
from tests.conftest import PrefectServer, free_port
from tests.flows.support import Slack, artifacts

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@flow(name="remediate-oom")
async def stand_in() -> None:
    """Only its runs are of interest."""


@pytest.fixture
def stack(home: Path, prefect_server: PrefectServer) -> str:
    return f"t-{uuid4().hex[:8]}"


async def ended(
    stack: str,
    *states: Any,
    tags: tuple[str, ...] = ("procedure:remediate-oom",),
    **parameters: Any,
) -> str:
    """A run that went through these states; its id."""
    async with get_client() as client:
        run = await client.create_flow_run(
            stand_in,
            parameters={"stack": stack, "service": "wintermute", **parameters},
            tags=[f"stack:{stack}", "actor:ada", "source:alert", *tags],
            state=Pending(),
        )
        for state in states or (Running(), Completed()):
            await client.set_flow_run_state(run.id, state, force=True)
    return str(run.id)


def move(server: PrefectServer, run: str, at: datetime) -> None:
    """Another end, as of a run of another day: the server takes no time from a client."""
    with sqlite3.connect(server.folder / "prefect.db", timeout=30) as db:
        text = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        done = db.execute("update flow_run set end_time = ? where id = ?", (text, run))
    db.close()
    assert done.rowcount == 1


def a_report(stack: str, run: str, **more: Any) -> Report:
    plan = Plan(
        procedure="remediate-oom",
        stack=stack,
        service="wintermute",
        before=ServingConfig(max_model_len=16384),
        after=ServingConfig(max_model_len=8192),
        reason="oom_kv_cache",
    )
    attempt = Attempt(plan=plan, verification=Verification(outcome="passed", reason="r"), kept=True)
    values = {
        "procedure": "remediate-oom",
        "stack": stack,
        "service": "wintermute",
        "run_id": run,
        "actor": "ada",
        "source": "alert",
        "started_at": datetime.now(UTC),
        "duration_s": 3,
        "verdict": "passed",
        "message": "stepped down",
        "diagnosis": Diagnosis(label="oom_kv_cache", evidence=("a line",)),
        "plan": plan,
        "attempts": (attempt,),
        "approver": "bob, from slack",
    }
    return Report.model_validate({**values, **more})


async def says(run: str, data: Any) -> str:
    """The run's data artifact; its id."""
    value = data.model_dump(mode="json") if isinstance(data, Report) else data
    made = Artifact(key="remediate-oom-data", type="result", data=value)
    async with get_client() as client:
        found = await client.create_artifact(
            ArtifactCreate(
                key=made.key, type=made.type, data=json.dumps(value), flow_run_id=UUID(run)
            )
        )
    return str(found.id)


async def export(stack: str, since: str = "", **flags: Any) -> Report:
    options = Options(actor="ada", source="cli", **flags)
    state: Any = await export_audit(stack, since, options, return_state=True)
    try:
        report = await state.result(raise_on_failure=False)
    except MissingResult:
        found = await artifacts(str(state.state_details.flow_run_id))
        return Report.model_validate_json(found["export-audit-data"])
    assert isinstance(report, Report), state.message
    assert state.name == report.verdict.capitalize()
    return report


def added(report: Report) -> int:
    return int(report.message.split(" run")[0])


def records() -> dict[str, dict[str, Any]]:
    """run id -> record; each only once."""
    found = [r for r in AuditLog().records() if r["kind"] == "run"]
    ids = [r["run"] for r in found]
    assert len(ids) == len(set(ids))
    return dict(zip(ids, found, strict=True))


@pytest.fixture
async def registered_stack(stack: str) -> StackSpec:
    argv = ["true"]
    runtime = {"kind": "command", "restart": argv, "stop": argv, "status": argv, "logs": argv}
    service = {
        "engine": "http",
        "url": "http://127.0.0.1:9",
        "health_path": "/up",
        "runtime": {**runtime, "status_format": "json"},
        "serving": {"kind": "none"},
    }
    spec = StackSpec.model_validate({"name": stack, "services": {"ui": service}})
    await register(spec)
    return spec


async def test_a_record_says_who_what_why_and_when(registered_stack: StackSpec) -> None:
    stack = registered_stack.name
    incident, began = uuid4().hex[:8], datetime.now(UTC)
    alert = {"name": "VLLMDown", "fingerprint": "f00", "starts_at": "2026-11-21T00:00:00Z"}
    await open_incident(
        Opened(
            id=incident,
            stack=stack,
            service="wintermute",
            severity="P1",
            title="down",
            source="alert",
            at=began,
            alert=alert,
        )
    )
    run = await ended(stack, Running(), Completed(name="Passed", message="PASSED"), max_len=8192)
    artifact = await says(run, a_report(stack, run, incident=incident))
    silent = await ended(stack, Running(), Crashed(message="gone"), options={"actor": "eve"})
    foreign = await ended(stack, tags=())
    async with get_client() as client:
        alive = await client.create_flow_run(
            stand_in, tags=["procedure:remediate-oom"], state=Running()
        )

    report = await export(stack)
    assert report.verdict == "passed" and added(report) >= 2, report.message
    found = records()
    assert foreign not in found and str(alive.id) not in found and report.run_id not in found
    one = found[run]
    assert one["who"] == {"actor": "ada", "source": "alert", "approver": "bob, from slack"}
    assert one["procedure"] == "remediate-oom" and one["stacks"] == [stack]
    (told,) = one["reports"]
    assert told["plan"]["changes"] == {"max_model_len": [16384, 8192]}
    assert told["plan"]["digest"] == a_report(stack, run).plan.digest  # type: ignore[union-attr]
    assert told["attempts"][0]["kept"] and told["artifact"] == artifact
    assert one["why"]["incident"] == incident and one["why"]["alert"] == alert
    assert one["why"]["diagnosis"] == "oom_kv_cache" and len(one["why"]["evidence_sha256"]) == 64
    assert [s["name"] for s in one["states"]] == ["Pending", "Running", "Passed"]
    assert all(datetime.fromisoformat(s["at"]) for s in one["states"])
    assert one["verdict"] == "passed" and one["state"]["type"] == "COMPLETED"
    assert one["links"] == {"run": f"/runs/flow-run/{run}", "artifacts": [artifact]}
    assert '"max_len":8192' in one["asked"]
    lost = found[silent]
    assert lost["verdict"] == "unknown" and lost["state"]["name"] == "Crashed"
    assert lost["who"]["actor"] == "ada" and lost["stacks"] == [stack] and lost["reports"] == []
    assert lost["states"][-1]["message"] == "gone"

    exported = read_exported()
    verified = AuditLog().verify()
    assert exported and exported.run_id == report.run_id and exported.seq == verified.records
    assert exported.hash == verified.hash and verified.first_broken is None
    assert "export-audit-data" in await artifacts(report.run_id)


async def test_twice_and_two_at_once_add_nothing_twice(registered_stack: StackSpec) -> None:
    stack = registered_stack.name
    runs = [await ended(stack) for _ in range(4)]
    first, second = await asyncio.gather(export(stack), export(stack))
    assert {first.verdict, second.verdict} == {"passed"}
    assert sorted(map(added, (first, second)))[0] == 0
    before = AuditLog().verify()
    assert set(runs) <= set(records())
    third = await export(stack)
    assert third.verdict == "passed" and added(third) == 0, third.message
    assert added(await export(stack, since="30d")) == 0
    assert AuditLog().verify() == before


async def test_missed_days_are_caught_up_in_order(
    registered_stack: StackSpec, prefect_server: PrefectServer
) -> None:
    stack, now = registered_stack.name, datetime.now(UTC)
    old = await ended(stack)
    move(prefect_server, old, now - timedelta(days=9))
    assert added(await export(stack, since="2020-01-01")) >= 1
    # Its own trail's newest record decides; so only the old one stays in it.
    seen = records()
    assert old in seen
    missed = [await ended(stack) for _ in range(5)]
    for run, days in zip(missed, (3, 7, 1, 5, 0.5), strict=True):
        move(prefect_server, run, now + timedelta(days=1) - timedelta(days=days))
    report = await export(stack, since="30d")
    assert added(report) >= 4
    mine = [r["run"] for r in records().values() if r["run"] in missed]
    wanted = [missed[i] for i in (1, 3, 0, 2)]
    assert [r for r in mine if r != missed[4]] == wanted
    ends = [r["ended"] for r in list(records().values())[len(seen) :]]
    assert ends == sorted(ends)


async def test_a_late_run_within_the_window_is_found_without_being_asked(
    registered_stack: StackSpec, prefect_server: PrefectServer
) -> None:
    """It ended before the newest record, and the server showed it only later."""
    stack = registered_stack.name
    await ended(stack)
    await export(stack)
    newest = max(r["ended"] for r in records().values())
    late, too_late = await ended(stack), await ended(stack)
    end = datetime.fromisoformat(newest)
    move(prefect_server, late, end - timedelta(days=1, hours=23))
    move(prefect_server, too_late, end - timedelta(days=4))
    await export(stack)
    assert late in records() and too_late not in records()
    assert added(await export(stack, since="30d")) == 1 and too_late in records()


async def test_since_leaves_no_hole(
    registered_stack: StackSpec, prefect_server: PrefectServer
) -> None:
    """It ended after the last run that the trail has: `since` must not pass over it for ever."""
    stack, now = registered_stack.name, datetime.now(UTC)
    AuditLog().append("run", {"run": "x", "ended": (now - timedelta(days=9)).isoformat()})
    before, missed = await ended(stack), await ended(stack)
    move(prefect_server, before, now - timedelta(days=20))
    move(prefect_server, missed, now - timedelta(days=5))
    assert (await export(stack, since="1h")).verdict == "passed"
    found = {r["run"] for r in AuditLog().records() if r["kind"] == "run"}
    assert missed in found and before not in found
    await export(stack, since="30d")
    assert before in {r["run"] for r in AuditLog().records() if r["kind"] == "run"}


async def test_a_run_that_was_taken_up_again_is_recorded_again(
    registered_stack: StackSpec,
) -> None:
    stack = registered_stack.name
    run = await ended(stack, Running(), Failed())
    await export(stack)
    async with get_client() as client:
        await client.set_flow_run_state(UUID(run), Running(), force=True)
        await client.set_flow_run_state(UUID(run), Completed(), force=True)
    assert added(await export(stack)) == 1 and added(await export(stack)) == 0
    states = [r["state"]["name"] for r in AuditLog().records() if r.get("run") == run]
    assert states == ["Failed", "Completed"]


async def test_its_own_runs_count_only_when_they_did_not_go_well(
    registered_stack: StackSpec,
) -> None:
    stack = registered_stack.name
    own = ("procedure:export-audit",)
    fine, bad = await ended(stack, Completed(), tags=own), await ended(stack, Failed(), tags=own)
    gone = await ended(stack, Cancelled(), tags=own)
    await export(stack)
    assert fine not in records() and {bad, gone} <= set(records())


async def test_data_that_nobody_expects_holds_nothing_up(registered_stack: StackSpec) -> None:
    stack = registered_stack.name
    odd: list[Any] = [
        [],
        "text",
        {"verdict": 7, "plan": {"x": 1}, "attempts": 3, "diagnosis": "none"},
        {"verdict": "passed", "attempts": [None], "message": "x" * 9000, "findings": {"a": 1}},
        {"procedure": None, "stack": ["a"], "incident": "../../x"},
    ]
    runs = [await ended(stack, options="odd", policy={"deep": ["x"] * 2000}) for _ in odd]
    for run, data in zip(runs, odd, strict=True):
        await says(run, data)
    report = await export(stack)
    assert report.verdict == "passed" and set(runs) <= set(records())
    found = records()
    assert found[runs[0]]["verdict"] == "unknown" and found[runs[3]]["verdict"] == "passed"
    assert found[runs[2]]["reports"][0]["plan"].keys() == {"unreadable"}
    assert len(found[runs[3]]["reports"][0]["message"]) == 1000
    assert found[runs[4]]["asked"].startswith("sha256:")


async def test_a_record_that_is_too_long_holds_nothing_up(registered_stack: StackSpec) -> None:
    """Each by another of its parts; and a number that JSON does not have."""
    stack = registered_stack.name
    plan = a_report(stack, "r").plan
    assert plan
    huge = plan.model_dump(mode="json")
    huge["how"], huge["service"] = "apply", "\U0001f600" * (MAX_LINE // 6)
    endless = plan.model_dump(mode="json")
    endless["after"]["gpu_memory_utilization"] = float("inf")
    long, odd, fine = await ended(stack), await ended(stack), await ended(stack)
    tagged = await ended(
        stack, tags=("procedure:remediate-oom", *(f"stack:{n}-{'x' * 30_000}" for n in range(40)))
    )
    artifact = await says(long, {**a_report(stack, long).model_dump(mode="json"), "plan": huge})
    report = {**a_report(stack, odd).model_dump(mode="json"), "attempts": [{"plan": endless}]}
    await says(odd, report)
    report_of = await export(stack)
    assert report_of.verdict == "passed", report_of.message
    found = records()
    for run in (long, tagged):
        assert "bytes; at most" in found[run]["note"] and "are left out" in found[run]["note"]
        assert found[run]["reports"] == [] and found[run]["who"]["actor"] == "ada"
    assert found[long]["links"]["artifacts"] == [artifact] and found[long]["stacks"] == [stack]
    assert len(canonical(found[tagged])) < MAX_LINE / 4
    assert "is no JSON" in found[odd]["note"] and "note" not in found[fine]
    assert AuditLog().verify().first_broken is None


async def test_who_approved_and_whose_answer_did_not_count(registered_stack: StackSpec) -> None:
    stack = registered_stack.name
    said = (
        "an answer of eve, from slack did not count: eve is not in people",
        "abcdef123456 was approved by bob, from slack (looks\nright)",
    )
    run, many = await ended(stack), await ended(stack)
    await says(run, a_report(stack, run, notes=("the cache was warm", *said, "waited 3 s")))
    flood = tuple(f"an answer of eve-{n}, from ui did not count: {'x' * 5000}" for n in range(99))
    await says(many, a_report(stack, many, notes=(*flood, said[1])))
    await export(stack)
    found = records()
    assert found[run]["approvals"] == list(said) and found[run]["approvals_left_out"] == 0
    assert len(found[many]["approvals"]) == 40 and found[many]["approvals_left_out"] == 60
    assert found[many]["approvals"][-1] == said[1]
    assert max(map(len, found[many]["approvals"])) == 1000


def test_the_notes_about_approvals_are_worded_as_the_export_looks_for_them() -> None:
    source = inspect.getsource(approval.ask)
    assert 'f"an answer of {by} did not count: ' in source
    assert 'f"{plan.digest} was approved by ' in source


def test_states_that_are_left_out_are_counted() -> None:
    now = datetime.now(UTC)
    states = tuple(StateChange(id=str(n), type="RUNNING", name=f"{n}", at=now) for n in range(45))
    run = EndedRun(
        id="r",
        name="n",
        procedure="p",
        tags=(),
        parameters={},
        created=now,
        started=now,
        ended=now,
        states=states,
    )
    record = record_of(run)
    assert [s["name"] for s in record["states"]] == [str(n) for n in range(5, 45)]
    assert record["states_left_out"] == 5
    few = record_of(run.model_copy(update={"states": states[:40]}))
    assert len(few["states"]) == 40 and few["states_left_out"] == 0


async def test_a_dry_run_adds_nothing(registered_stack: StackSpec) -> None:
    await ended(registered_stack.name)
    report = await export(registered_stack.name, dry_run=True)
    assert report.verdict == "planned" and added(report) >= 1
    assert records() == {} and read_exported() is None


async def test_nothing_is_added_to_a_broken_chain(
    registered_stack: StackSpec, slack: Slack
) -> None:
    stack = registered_stack.name
    spec = StackSpec.model_validate(
        registered_stack.model_dump(mode="json") | {"slack": slack.spec()}
    )
    await register(spec)
    await ended(stack)
    await export(stack)
    good = read_exported()
    (path,) = {p for p, _ in AuditLog().snapshot().files}
    path.write_bytes(path.read_bytes().replace(b'"actor":"ada"', b'"actor":"eve"', 1))
    bad = path.read_bytes()
    await ended(stack)
    report = await export(stack)
    assert report.verdict == "failed" and "nothing was added" in report.message
    assert f"{path.name}:1: was changed" in report.message and "S3" not in report.message
    assert path.read_bytes() == bad and read_exported() == good
    assert any("was changed" in str(m) for m in slack.messages), slack.messages


async def test_nothing_is_added_to_a_trail_that_was_removed(registered_stack: StackSpec) -> None:
    """What is left is whole, and empty."""
    stack = registered_stack.name
    await ended(stack)
    assert (await export(stack)).verdict == "passed"
    good = read_exported()
    for path in (*(p for p, _ in AuditLog().snapshot().files), AuditLog().folder / "head.json"):
        path.unlink()
    report = await export(stack)
    assert report.verdict == "failed" and "nothing was added" in report.message
    assert "export.json:1: names record" in report.message and "is gone" in report.message
    assert AuditLog().verify().records == 0 and read_exported() == good


async def test_another_export_is_waited_for(
    registered_stack: StackSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    with exporting() as alone:
        assert alone
        report = await export(registered_stack.name)
    assert (report.verdict, report.blocked_by) == ("blocked", "locked")
    assert (await export(registered_stack.name)).verdict == "passed"


@pytest.mark.parametrize("since", ["yesterday", "2999-01-01", "-3d"])
async def test_a_wrong_since_is_named(registered_stack: StackSpec, since: str) -> None:
    state: Any = await export_audit(registered_stack.name, since, return_state=True)
    assert state.type.value == "FAILED" and since in str(state.message)


# ---- copies -------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A bucket of a real S3 API: the section of the inventory."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("TEST_S3_KEY", "k")
    monkeypatch.setenv("TEST_S3_SECRET", "not-to-be-seen")
    spec = {
        "bucket": "exported",
        "endpoint_url": f"http://{host}:{port}",
        "access_key": "${TEST_S3_KEY}",
        "secret_key": "${TEST_S3_SECRET}",
        "timeout_s": 5,
    }
    client = boto3.client(
        "s3",
        endpoint_url=spec["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    client.create_bucket(Bucket="exported")
    client.close()
    yield spec
    server.stop()


async def test_the_copy_is_made_and_compared(
    registered_stack: StackSpec, bucket: dict[str, Any]
) -> None:
    stack, document = registered_stack.name, registered_stack.model_dump(mode="json")
    await register(StackSpec.model_validate(document | {"audit": {"s3": bucket}}))
    await ended(stack)
    report = await export(stack)
    assert report.verdict == "passed" and "copy in exported/audit: 1 written, 0 compared" in (
        report.notes
    )
    assert "0 written, 1 compared" in (await export(stack)).notes[0]
    exported = read_exported()
    assert exported and exported.copies == ("exported/audit",)

    shutil.rmtree(AuditLog().folder)  # with export.json: only the copy knows
    AuditLog().append("access", {"actor": "eve"})
    anew = await export(stack)
    assert anew.verdict == "failed" and "s3://exported/audit/open/" in anew.message
    assert "is there, and record" in anew.message and read_exported() is None

    bucket["bucket"] = "no-such-bucket"
    await register(StackSpec.model_validate(document | {"audit": {"s3": bucket}}))
    failed = await export(stack)
    assert failed.verdict == "error" and "make the bucket" in failed.notes[0]
    assert "not-to-be-seen" not in failed.model_dump_json()
    assert read_exported() is None, "it is no verified export"


# ---- pages --------------------------------------------------------------------------------------


async def test_pages_are_small_and_in_order(
    stack: str, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they ended far apart, close together, or all in one instant."""
    monkeypatch.setattr(prefect_runs, "PAGE", 3)
    base = datetime(2021, 3, 1, tzinfo=UTC) + timedelta(seconds=int(uuid4().int % 10**7))
    runs = [await ended(stack) for _ in range(11)]
    offsets = [0.0, 1e-6, 0.5, 0.5, 0.5, 0.5, 0.5, 3600, 7200, 7200.000001, 86399]
    for run, offset in zip(runs, offsets, strict=True):
        move(prefect_server, run, base + timedelta(seconds=offset))
    pages = [p async for p in ended_runs(base, base + timedelta(days=1))]
    assert max(len(p) for p in pages) <= 3
    found = [r for p in pages for r in p]
    assert sorted(r.id for r in found) == sorted(runs)
    assert [r.ended for r in found] == sorted(r.ended for r in found)


def held() -> int:
    """Runs that something still refers to."""
    gc.collect()
    return sum(type(x) is EndedRun for x in gc.get_objects())


async def test_no_more_than_two_pages_are_held_at_once(
    stack: str, home: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That which is written, and the next: whatever the number of runs."""
    monkeypatch.setattr(prefect_runs, "PAGE", 3)
    base = datetime(2022, 3, 1, tzinfo=UTC) + timedelta(seconds=int(uuid4().int % 10**7))
    runs = [await ended(stack) for _ in range(10)]
    for number, run in enumerate(runs):
        move(prefect_server, run, base + timedelta(seconds=min(number, 5)))
    whole, before, most = prefect_runs._whole, held(), list[int]()

    async def reads(*args: Any) -> list[EndedRun]:
        page = await whole(*args)
        most.append(held() - before)
        return page

    monkeypatch.setattr(prefect_runs, "_whole", reads)

    @flow
    async def adds() -> tuple[int, int]:
        begin, end = base - timedelta(seconds=1), base + timedelta(days=1)
        return await add_runs(begin, end, lambda _: True, lambda run, _: record_of(run), False)

    assert (await adds())[0] == 10 == len(records())
    assert len(most) >= 4 and 0 < max(most) <= 6, most


async def test_the_last_good_export_is_found_on_the_server(stack: str) -> None:
    assert await last_end(f"stack:{stack}", "Passed") is None
    await ended(stack, Completed(name="Passed"))
    await ended(stack, Failed(name="Failed"))
    found = await last_end(f"stack:{stack}", "Passed")
    assert found and abs(datetime.now(UTC) - found) < timedelta(minutes=5)
