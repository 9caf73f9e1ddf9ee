"""People are told up the path until somebody has it; killed and started twice, nobody is lost."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.states import Crashed

from blocks.incidents import (
    Acknowledged,
    Ended,
    Heard,
    Incident,
    Led,
    Opened,
    Telling,
    Told,
    add,
    heard,
    lead,
    open_incident,
    open_incidents,
    read_incident,
    read_lead,
    read_told,
    tell_once,
)
from blocks.journal import home as home_folder
from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.sandbox.slack_server import SlackServer
from deployments.scenarios import SERVICE
from flows.escalate_incident import escalate_incident
from flows.escalation_state import Escalation
from flows.escalation_telling import words_of
from flows.report import Options, Report
from tests.blocks.pagerduty_events import Events
from tests.conftest import PrefectServer
from tests.flows.conftest import Build
from tests.flows.support import artifacts

ROOT = Path(__file__).resolve().parents[2]
TITLE = "chat answers no request"
LONG, SHORT = 30, 0.02  # minutes until the next one is told


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TEST_PD", "0" * 32)
    monkeypatch.setenv("TEST_PD_BOSS", "1" * 32)
    one = Events()
    yield one
    one.close()


@pytest.fixture
def incident() -> str:
    return uuid4().hex[:8]


@pytest.fixture(autouse=True)
def _needs(prefect_server: PrefectServer, home: Path) -> None:
    """A server, and a home of its own."""


async def stack(
    slack: SlackServer | None = None, events: Events | None = None, **row: Any
) -> StackSpec:
    """A registered stack whose P0 goes ada, bob, eve."""
    ways = (["slack"] if slack else []) + (["pagerduty"] if events else [])
    page = {"routing_key": "${TEST_PD}", "by_role": {"boss": "${TEST_PD_BOSS}"}, "timeout_s": 10}
    p0 = {"path": ["primary", "secondary", "boss"], "via": ways, "respond_min": SHORT, **row}
    spec = StackSpec.model_validate(
        {
            "name": f"t-{uuid4().hex[:8]}",
            "services": {
                "chat": {
                    "engine": "http",
                    "url": "http://127.0.0.1:9",
                    "runtime": {
                        "kind": "command",
                        "restart": ["false"],
                        "stop": ["false"],
                        "status": ["cat", str(home_folder() / "status.json")],
                        "status_format": "json",
                        "logs": ["false"],
                    },
                    "serving": {"kind": "none"},
                }
            },
            "slack": slack.spec(timeout_s=10) if slack else None,
            "people": {"members": {"ada": {"slack": "U1"}, "bob": {"slack": "U2"}, "eve": {}}},
            "escalation": {
                "severities": {"P0": p0, "P2": {**p0, "path": ["boss"], "via": ["slack"]}}
                if slack
                else {"P0": p0},
                "rotations": {"primary": {"people": ["ada"], "starts": "2026-01-05"}},
                "contacts": {"secondary": "bob", "boss": "eve"},
                "pagerduty": {**page, "url": events.url} if events else None,
            },
        }
    )
    await register(spec)
    return spec


async def escalated(spec: StackSpec, incident: str = "", **more: Any) -> Report:
    options = Options(actor="ada", source="alert", incident=incident, **more.pop("flags", {}))
    names = {"stack": spec.name, "service": "chat", "severity": "P0", "title": TITLE}
    state = await escalate_incident(
        **{**names, "poll_s": 0.1, **more}, options=options, return_state=True
    )
    report = await state.result(raise_on_failure=False)
    assert isinstance(report, Report), state.message
    return report


async def told(incident: str, count: int) -> tuple[Telling, ...]:
    """Wait until so many were told."""
    for _ in range(1200):
        found = await read_told(incident)
        if sum(bool(t.heard and t.heard.sent) for t in found) >= count:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {count} told: {await read_told(incident)}")


def ack() -> Acknowledged:
    return Acknowledged(by="bob", source="slack", at=datetime.now(UTC))


def end() -> Ended:
    return Ended(by="alertmanager", how="resolved", at=datetime.now(UTC))


def who(found: tuple[Telling, ...]) -> list[tuple[str, str]]:
    return [(t.told.person, t.told.way) for t in found if t.heard and t.heard.sent]


async def test_an_acknowledgement_stops_the_path_and_the_end_is_passed_on(
    slack: SlackServer, events: Events, incident: str
) -> None:
    spec = await stack(slack, events, respond_min=LONG)
    run = asyncio.create_task(escalated(spec, incident))
    assert who(await told(incident, 2)) == [("ada", "slack"), ("ada", "pagerduty")]
    [checklist] = [m for m in slack.messages() if not m.thread_ts]
    assert "<@U1>" in slack.replies(checklist)[0].mentions
    await add(incident, ack())
    await add(incident, end())
    report = await run
    assert (report.verdict, report.incident) == ("passed", incident)
    assert "bob had it" in report.message
    assert len(who(await read_told(incident))) == 2, "nobody else was told"
    assert [e["event_action"] for e in events.received] == ["trigger", "resolve"]
    assert {e["dedup_key"] for e in events.received} == {incident}
    [checklist] = [m for m in slack.messages() if not m.thread_ts]
    assert "☑ Acknowledged (bob" in checklist.words
    assert "☑ Incident report drafted" in checklist.words
    assert "☐ Diagnosed" in checklist.words, "nobody saw a diagnosis"
    assert "xoxb" not in report.model_dump_json()


async def test_the_report_is_an_artifact_and_a_file(incident: str, slack: SlackServer) -> None:
    spec = await stack(slack, respond_min=LONG)
    run = asyncio.create_task(escalated(spec, incident))
    await told(incident, 1)
    await add(incident, ack())
    await add(incident, end())
    report = await run
    opened = await read_incident(incident)
    assert opened and opened.opened.title == TITLE
    file = home_folder() / "incidents" / f"{opened.opened.at:%Y-%m-%d}-{incident}.md"
    text = file.read_text()
    assert "ada (primary) told by slack" in text and "acknowledged by bob" in text
    found = await artifacts(report.run_id)
    assert found["incident-report"] == text
    assert "escalate-incident-data" in found
    assert await open_incidents(spec.name) == []


async def test_nobody_answers_and_everybody_hears_of_it(
    slack: SlackServer, events: Events, incident: str
) -> None:
    spec = await stack(slack, events)
    report = await escalated(spec, incident)
    assert report.verdict == "failed"
    assert "NOBODY ANSWERED P0" in report.message
    assert "ada (primary), bob (secondary), eve (boss)" in report.message
    found = await read_told(incident)
    order = [t.told.person for t in found]
    assert order == ["ada", "ada", "bob", "bob", "eve", "eve"]
    times = [t.told.at for t in found]
    assert min(times[2:4]) > max(times[:2]) and min(times[4:]) > max(times[2:4])
    boss = [e for e in events.received if e["routing_key"] == "1" * 32]
    assert len(boss) == 1 and len(events.received) == 3
    [checklist] = [m for m in slack.messages() if not m.thread_ts]
    assert "NOBODY ANSWERED" in checklist.words
    assert "<!channel>" in slack.replies(checklist)[-1].mentions
    [file] = (home_folder() / "incidents").iterdir()
    assert "whether anybody worked on it: nobody acknowledged" in file.read_text()
    assert (await open_incidents(spec.name))[0].opened.id == incident


async def test_a_person_whom_no_way_reaches_is_not_waited_for(
    slack: SlackServer, events: Events, incident: str
) -> None:
    bad = {"status": "invalid event", "errors": ["no such key"]}
    events.reply = (400, bad, {})
    spec = await stack(None, events, respond_min=LONG)
    report = await escalated(spec, incident, watch_s=1)
    assert report.verdict == "error"
    assert "NOBODY COULD BE TOLD" in report.message
    found = await read_told(incident)
    assert [t.told.person for t in found] == ["ada", "bob", "eve"]
    assert all(t.heard and not t.heard.sent and "no such key" in t.heard.problem for t in found)
    assert not [n for n in report.notes if "0" * 32 in n]


async def test_slack_is_down_and_the_pager_still_rings(
    slack: SlackServer, events: Events, incident: str
) -> None:
    spec = await stack(slack, events, respond_min=LONG)
    await slack.stop()
    run = asyncio.create_task(escalated(spec, incident))
    assert who(await told(incident, 1)) == [("ada", "pagerduty")]
    await add(incident, ack())
    await add(incident, end())
    report = await run
    assert report.verdict == "passed"
    assert any("ada (primary) NOT reached by slack" in n for n in report.notes)
    assert [e["event_action"] for e in events.received] == ["trigger", "resolve"]


async def test_a_second_run_for_the_same_incident_ends_at_once(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack, respond_min=LONG)
    first = asyncio.create_task(escalated(spec, incident))
    await told(incident, 1)
    second = await escalated(spec, incident)
    assert (second.verdict, second.blocked_by) == ("blocked", "locked")
    assert "already being escalated" in second.message
    await add(incident, end())
    assert (await first).verdict == "passed"
    assert len(await read_told(incident)) == 1


async def test_of_runs_at_the_same_instant_one_escalates(slack: SlackServer, incident: str) -> None:
    spec = await stack(slack, respond_min=LONG)
    runs = {asyncio.create_task(escalated(spec, incident)) for _ in range(3)}
    refused: set[asyncio.Task[Report]] = set()
    while len(refused) < 2:
        done, runs = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        refused |= done
    assert {r.result().blocked_by for r in refused} == {"locked"}
    await told(incident, 1)
    await add(incident, end())
    assert [(await run).verdict for run in runs] == ["passed"]
    assert [m.mentions for m in slack.messages() if m.thread_ts] == [["<@U1>"]]


RUN = """
import asyncio, sys
from flows.escalate_incident import escalate_incident
from flows.escalation_state import Escalation
from flows.escalation_telling import words_of
from flows.report import Options
asyncio.run(escalate_incident(stack=sys.argv[1], service="chat", severity="P0", title="x",
    poll_s=0.1, options=Options(incident=sys.argv[2])))
"""


async def test_after_a_kill_the_next_run_goes_on_and_tells_nobody_twice(
    slack: SlackServer, incident: str, prefect_server: PrefectServer
) -> None:
    spec = await stack(slack, respond_min=LONG)
    env = {**os.environ, **prefect_server.env, **slack.env}
    argv = [sys.executable, "-c", RUN, spec.name, incident]
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await told(incident, 1)
        [before] = await read_told(incident)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with get_client() as client:  # what a worker says of the killed process
        await client.set_flow_run_state(UUID(before.told.run_id), Crashed(), force=True)
    half = Told(role="secondary", person="bob", way="slack", at=datetime.now(UTC))
    await tell_once(incident, 20, half)  # and this one was killed between the fact and the act
    quick = spec.model_dump(mode="json")
    quick["escalation"]["severities"]["P0"]["respond_min"] = SHORT
    await register(StackSpec.model_validate(quick))
    report = await escalated(spec, incident)
    assert report.verdict == "failed"
    assert any("continues where run" in n for n in report.notes)
    assert any("bob told by slack again" in n for n in report.notes)
    assert [t.told.person for t in await read_told(incident)] == ["ada", "bob", "eve"]
    assert (await read_told(incident))[0] == before
    calls = [m for m in slack.messages() if m.thread_ts and "you are" in m.words]
    assert [m.mentions for m in calls] == [["<@U1>"], ["<@U2>"], []]


async def begun(spec: StackSpec, incident: str, **values: Any) -> None:
    """An incident that was opened by somebody else."""
    fact = {"id": incident, "stack": spec.name, "service": "chat", "severity": "P0"}
    more = {"title": "t", "source": "alert", "at": datetime.now(UTC), **values}
    assert await open_incident(Opened.model_validate({**fact, **more}))


async def test_the_time_to_answer_begins_with_the_call_and_not_with_the_incident(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack, respond_min=LONG)
    await begun(spec, incident, at=datetime.now(UTC) - timedelta(days=1))
    run = asyncio.create_task(escalated(spec, incident))
    await told(incident, 1)
    await add(incident, ack())
    await add(incident, end())
    assert (await run).verdict == "passed"
    assert who(await read_told(incident)) == [("ada", "slack")], "nobody else was told"


async def test_a_run_that_goes_on_keeps_the_time_that_a_dead_one_began(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack, respond_min=LONG)
    await begun(spec, incident)
    dead = Led(run_id=str(uuid4()), at=datetime.now(UTC) - timedelta(minutes=LONG), severity="P0")
    await lead(incident, 0, dead)  # the server knows no such run (any more)
    run = asyncio.create_task(escalated(spec, incident))
    assert who(await told(incident, 2)) == [("ada", "slack"), ("bob", "slack")]
    await add(incident, end())
    assert (await run).verdict == "passed"
    assert [(led.run_id == dead.run_id, led.round) for led in (await read_lead(incident)).runs] == [
        (True, 0),
        (False, 0),
    ]


async def test_who_starts_it_anew_after_nobody_answered_has_people_told_again(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack, path=["primary"])
    for count in (1, 2):
        report = await escalated(spec, incident)
        assert "NOBODY ANSWERED" in report.message
        assert who(await read_told(incident)) == [("ada", "slack")] * count
    assert [led.round for led in (await read_lead(incident)).runs] == [0, 1]


async def test_a_worse_severity_takes_over_and_a_milder_one_does_not(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack, respond_min=LONG)
    mild = asyncio.create_task(escalated(spec, incident, severity="P2"))
    await told(incident, 1)
    bad = asyncio.create_task(escalated(spec, incident))
    first = await mild
    assert (first.verdict, first.blocked_by) == ("blocked", "locked")
    assert "escalates it now, as P0" in first.message
    assert sorted(who(await told(incident, 2))) == [("ada", "slack"), ("eve", "slack")]
    second = await escalated(spec, incident, severity="P2")
    assert (second.verdict, second.blocked_by) == ("blocked", "locked")
    assert not [m for m in slack.messages() if "<!channel>" in m.mentions]
    await add(incident, end())
    report = await bad
    assert report.verdict == "passed" and any("P2 became P0" in n for n in report.notes)


async def test_what_an_alert_says_is_text_to_every_way_of_telling(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack)
    alert = {
        "summary": "![x](http://evil/p.png) <!channel> \\[a](http://evil)",
        "url": "http://prom/g?x=[1]!@here",
    }
    opened = Opened(
        id=incident, stack=spec.name, service="chat", severity="P0", title="@all [down](http://e)",
        source="alert", at=datetime.now(UTC), alert=alert,
    )  # fmt: skip
    run = Escalation(spec, "chat", "P0", Options(), "r", Incident(opened=opened), poll_s=1)
    _, body = words_of(run, run.planned.steps[0])
    assert "@\u200ball \\[down\\](http://e)" in body
    assert "\\!\\[x\\](" in body and "<\u200b\\!channel>" in body and "\\\\\\[a\\](" in body
    assert "url: http://prom/g?x=%5B1%5D%21%40here" in body
    run.incident = Incident(opened=opened.model_copy(update={"alert": {"url": "javascript:x"}}))
    assert "javascript" not in words_of(run, run.planned.steps[0])[1]


async def test_an_incident_that_is_over_is_only_written_up(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack)
    at = datetime.now(UTC)
    await open_incident(
        Opened(id=incident, stack=spec.name, service="chat", severity="P0", title="t",
               source="alert", at=at)
    )  # fmt: skip
    await add(incident, Ended(by="ada", how="closed", at=at))
    report = await escalated(spec, incident)
    assert report.verdict == "passed" and "nobody had acknowledged it" in report.message
    assert await read_told(incident) == ()
    assert not [m for m in slack.messages() if m.mentions]


async def test_acknowledged_and_not_over_is_inconclusive(slack: SlackServer, incident: str) -> None:
    spec = await stack(slack, respond_min=LONG)
    await open_incident(
        Opened(id=incident, stack=spec.name, service="chat", severity="P0", title="t",
               source="alert", at=datetime.now(UTC))
    )  # fmt: skip
    await add(incident, ack())
    report = await escalated(spec, incident, watch_s=0.5)
    assert report.verdict == "inconclusive" and "acknowledged by bob" in report.message


async def test_a_dry_run_says_whom_it_would_tell_and_does_nothing(slack: SlackServer) -> None:
    spec = await stack(slack, respond_min=15)
    report = await escalated(spec, flags={"dry_run": True})
    assert report.verdict == "planned" and "3 roles" in report.message
    assert [n.split(": ", 1)[1] for n in report.notes] == [
        "ada (primary) by slack",
        "bob (secondary) by slack",
        "eve (boss) by slack",
    ]
    assert slack.messages() == [] and await open_incidents(spec.name) == []
    assert await read_told(report.incident) == ()


async def test_without_a_matrix_or_its_row_the_run_says_that_nobody_was_told(
    slack: SlackServer, incident: str
) -> None:
    spec = await stack(slack)
    report = await escalated(spec, incident, severity="P1")
    assert report.verdict == "error" and "no P1 (known: P0, P2)" in report.message
    await register(spec.model_copy(update={"escalation": None}))
    report = await escalated(spec, uuid4().hex[:8])
    assert report.verdict == "error" and "no section escalation" in report.message
    assert "by hand" in report.next_step


async def test_a_new_incident_is_opened_where_none_is_named(slack: SlackServer) -> None:
    spec = await stack(slack)
    report = await escalated(spec)
    found = await read_incident(report.incident)
    assert found and (found.opened.title, found.opened.source) == (TITLE, "alert")


async def test_a_telling_is_written_once(incident: str) -> None:
    now = datetime.now(UTC)
    one = Told(role="primary", person="ada", way="slack", at=now)
    assert await tell_once(incident, 0, one)
    assert not await tell_once(incident, 0, one.model_copy(update={"person": "bob"}))
    assert await heard(incident, 0, Heard(sent=False, problem="no", at=now))
    assert not await heard(incident, 0, Heard(sent=True, at=now))
    [entry] = await read_told(incident)
    assert entry.told.person == "ada" and entry.heard and not entry.heard.sent


async def test_what_a_procedure_did_is_ticked_watched_and_reported(
    build: Build, slack: SlackServer, incident: str
) -> None:
    scene = await build()
    row = {"path": ["primary"], "via": ["slack"], "respond_min": LONG, "watch_min": 0.01}
    await scene.edit(
        slack=slack.spec(timeout_s=10),
        people={"members": {"ada": {"slack": "U1"}}},
        escalation={"severities": {"P0": row}, "contacts": {"primary": "ada"}},
    )
    run = asyncio.create_task(escalated(scene.spec, incident, service=SERVICE))
    await told(incident, 1)
    healed = await scene.run("remediate-oom", flags={"incident": incident})
    assert healed.verdict == "passed"
    await add(incident, ack())
    await add(incident, end())
    report = await run
    assert report.verdict == "passed", report.message
    [text] = [p.read_text() for p in (home_folder() / "incidents").iterdir()]
    for box in ("Diagnosed", "Fixed or rolled back", "Watched for 0.01 minutes", "Resolved"):
        assert f"[x] {box}" in text
    assert "| max_model_len | 16384 | 8192 |" in text
    assert "oom_kv_cache" in text and "remediate-oom: passed" in text
    cards = [m for m in slack.messages() if not m.thread_ts and "☑ Diagnosed" in m.words]
    assert len(cards) == 1 and "☑ Watched" in cards[0].words


EXITED = '{"phase": "exited", "exit_code": 1, "oom_killed": false, "restarts": 0}'


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [(EXITED, "failed", "not healthy"), ("", "inconclusive", "could not be watched")],
)
async def test_resolved_and_not_seen_healthy_is_no_success(
    slack: SlackServer, incident: str, status: str, verdict: str, words: str
) -> None:
    spec = await stack(slack, respond_min=LONG, watch_min=SHORT)
    if status:
        home_folder().mkdir(exist_ok=True)
        (home_folder() / "status.json").write_text(status)
    run = asyncio.create_task(escalated(spec, incident))
    await told(incident, 1)
    await add(incident, end())
    report = await run
    assert report.verdict == verdict and words in report.message
    [checklist] = [m for m in slack.messages() if not m.thread_ts]
    assert "☐ Watched" in checklist.words and "☑ Resolved" in checklist.words
