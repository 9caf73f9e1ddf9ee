"""People are called when nobody watches and nothing helped: once, and whatever the server does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed, Failed

from blocks.errors import Permanent
from blocks.incidents import (
    Acknowledged,
    Opened,
    add,
    incident_of,
    open_incident,
    read_incident,
)
from blocks.stack import StackSpec
from blocks.target import target_of
from deployments.bootstrap import register
from deployments.sandbox.slack_server import SlackServer
from flows import calling
from flows.calling import call_people
from flows.report import Options, Report
from flows.run import Run
from tasks.escalations import begin_escalation, resume_escalation
from tests.conftest import PrefectServer, free_port
from tests.deployments.gateway_support import runs_of
from tests.deployments.slack_support import deploy

ESCALATE = "escalate-incident"


@pytest.fixture(autouse=True)
async def _deployed(prefect_server: PrefectServer, home: Path) -> None:
    """A server with the deployment that is started, and that nobody executes."""
    await deploy(ESCALATE)


async def platform(slack: SlackServer | None = None, **rows: Any) -> StackSpec:
    """A registered stack with one service and a matrix."""
    row = {"path": ["primary"], "via": ["mail"], "respond_min": 30}
    service = {
        "engine": "http",
        "url": "http://127.0.0.1:9",
        "runtime": {"kind": "docker", "container": "chat"},
        "serving": {"kind": "none"},
    }
    spec = StackSpec.model_validate(
        {
            "name": f"t-{uuid4().hex[:8]}",
            "services": {"chat": service},
            "slack": slack.spec(timeout_s=10) if slack else None,
            "people": {"members": {"ada": {}}},
            "escalation": {
                "severities": rows or {"P0": row, "P1": row},
                "contacts": {"primary": "ada"},
                "notify": {"mail": "${MAIL}"},
            },
        }
    )
    await register(spec)
    return spec


async def called(
    spec: StackSpec, verdict: str = "failed", procedure: str = "remediate-latency", **more: Any
) -> Report:
    """What a run of that outcome does about people."""
    flags = {"actor": "alertmanager", "source": "alert", **more.pop("flags", {})}
    words = more.pop("message", "nothing helped")

    @flow(name="calls")
    async def calls() -> Report:
        run_id, target = str(flow_run.id), target_of(spec, "chat")
        run = Run(procedure, target, Options(**flags), run_id=run_id, spec=spec)
        return await call_people(run, run.report(verdict, words, **more))

    return await calls()


async def incident(spec: StackSpec, severity: str) -> str:
    name = uuid4().hex[:8]
    at = datetime.now(UTC)
    one = {"id": name, "stack": spec.name, "service": "chat", "severity": severity, "at": at}
    assert await open_incident(Opened.model_validate({**one, "title": "t", "source": "alert"}))
    return name


async def begin(spec: StackSpec, key: str, severity: str = "P0", **options: Any) -> str:
    return await begin_escalation(spec.name, "chat", severity, "down", key, options)


async def end(run_id: str, state: Any) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(UUID(run_id), state, force=True)


async def read(run_id: str) -> FlowRun:
    async with get_client() as client:
        return await client.read_flow_run(UUID(run_id))


# ---- the call ----


async def test_an_alert_that_was_not_cured_calls_once_and_at_the_worse_severity() -> None:
    spec = await platform()
    name = await incident(spec, "P0")
    first = await called(spec, flags={"incident": name})
    second = await called(spec, "blocked", blocked_by="frozen", flags={"incident": name})
    [run] = await runs_of(spec.name)
    assert first.notes == second.notes
    assert first.notes == (f"people are called (P0): escalate-incident, run {str(run.id)[:8]}",)
    assert run.parameters["severity"] == "P0" and run.idempotency_key == f"escalate:{name}:P0"
    assert run.parameters["options"]["incident"] == name
    assert not run.parameters["options"]["dry_run"] and not run.parameters["options"]["approval"]


async def test_a_procedure_that_is_worse_than_its_incident_decides() -> None:
    spec = await platform()
    name = await incident(spec, "P1")
    await called(spec, procedure="remediate-outage", flags={"incident": name})
    await called(spec, procedure="remediate-latency", flags={"incident": name})
    keys = {run.idempotency_key for run in await runs_of(spec.name)}
    assert keys == {f"escalate:{name}:P0", f"escalate:{name}:P1"}


async def test_a_severity_without_a_row_calls_nobody_and_says_so() -> None:
    spec = await platform()
    report = await called(spec, procedure="restore-context")
    assert report.notes == ("nobody is called: the matrix has no row P2",)
    assert await runs_of(spec.name) == []


async def test_who_needs_nobody_calls_nobody() -> None:
    spec = await platform()
    by = "eve, from slack rejected the plan abcdef (not now)"
    for verdict, more in [
        ("passed", {}),
        ("failed", {"flags": {"source": "cli"}}),
        ("failed", {"flags": {"dry_run": True}}),
        ("blocked", {"blocked_by": "not-approved", "message": by}),
        ("blocked", {"blocked_by": "locked"}),
    ]:
        assert (await called(spec, verdict, **more)).notes == ()
    none = spec.model_copy(update={"escalation": None})
    assert (await called(none)).notes == ()
    assert await runs_of(spec.name) == []


async def test_an_incident_that_somebody_has_is_said_to_be_theirs() -> None:
    spec = await platform()
    name = await incident(spec, "P0")
    await add(name, Acknowledged(by="bob", source="slack", at=datetime.now(UTC)))
    report = await called(spec, flags={"incident": name})
    assert report.notes == ("nobody else is called: bob has it",)


# ---- the server is away ----


class Line:
    """The way to the server, which can be cut."""

    def __init__(self, url: str) -> None:
        self._there, self.port = urlsplit(url), free_port()
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._server:
            self._server.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*self._pipes)
        self._ends.clear()
        self._pipes.clear()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, back = await asyncio.open_connection(self._there.hostname, self._there.port)
        self._ends |= {writer, back}
        for pipe in (self._pipe(reader, back), self._pipe(far, writer)):
            self._pipes.add(asyncio.create_task(pipe))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def line(prefect_server: PrefectServer) -> AsyncIterator[Line]:
    """This process talks to the server over it, and does not insist."""
    one = Line(prefect_server.url)
    await one.join()
    there = {PREFECT_API_URL: f"http://127.0.0.1:{one.port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(there):
        yield one
    await one.cut()


async def test_a_server_that_comes_back_gets_the_call(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(calling, "PAUSE_S", 0.1)
    spec = await platform()
    tries: list[str] = []
    begun = calling._call

    async def counted(run: Run, report: Report) -> str:
        tries.append("begun")
        if len(tries) == 3:  # twice it was away
            await line.join()
        return await begun(run, report)

    monkeypatch.setattr(calling, "_call", counted)

    @flow(name="calls")
    async def calls() -> Report:
        options = Options(source="alert")
        run = Run("remediate-oom", target_of(spec, "chat"), options, str(flow_run.id), spec)
        await line.cut()
        return await call_people(run, run.report("failed", "no"))

    report = await calls()
    [run] = await runs_of(spec.name)
    assert len(tries) >= 3
    assert report.notes == (f"people are called (P1): escalate-incident, run {str(run.id)[:8]}",)


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


async def test_a_server_that_stays_away_is_told_to_slack(
    line: Line, slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "GIVE_UP_S", 0.5)
    monkeypatch.setattr(calling, "PAUSE_S", 0.1)
    spec = await platform(slack)

    @flow(name="calls")
    async def calls() -> Report:
        options = Options(source="alert")
        run = Run("remediate-oom", target_of(spec, "chat"), options, str(flow_run.id), spec)
        await line.cut()
        try:
            return await call_people(run, run.report("failed", "no <!channel> can help"))
        finally:
            await line.join()

    report = await calls()
    assert len(report.notes) == 1 and "NOBODY COULD BE CALLED" in report.notes[0]
    [message] = slack.messages()
    assert "NOBODY COULD BE CALLED" in message.words and "can help" in message.words
    assert message.mentions == ["<!channel>"], "what a report says mentions nobody"
    assert await runs_of(spec.name) == []


async def test_what_trying_again_cannot_cure_is_told_at_once(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "PAUSE_S", 3600)  # one more try, and this test never ends
    spec = await platform(slack)
    async with get_client() as client:
        there = await client.read_deployment_by_name(f"{ESCALATE}/{ESCALATE}")
        await client.delete_deployment(there.id)
    report = await called(spec)
    assert "escalate-incident is not deployed; restart `runbooks up`" in report.notes[0]
    [message] = slack.messages()
    assert "NOBODY COULD BE CALLED" in message.words


# ---- who ended is followed ----


async def test_a_dead_escalation_is_followed_once_by_another() -> None:
    spec = await platform()
    name = await incident(spec, "P0")
    first = await begin(spec, name, incident=name)
    assert await begin(spec, name, incident=name) == first
    await end(first, Crashed())
    both = await asyncio.gather(*(begin(spec, name, incident=name) for _ in range(2)))
    assert both[0] == both[1] != first
    assert await begin(spec, name, incident=name) == both[0]
    await end(both[0], Failed(name="Failed"))
    third = await begin(spec, name, incident=name)
    assert third not in (first, both[0])
    await end(third, Crashed())
    await add(name, Acknowledged(by="bob", source="slack", at=datetime.now(UTC)))
    assert await begin(spec, name, incident=name) in (first, both[0], third), "bob has it"
    assert len(await runs_of(spec.name)) == 3


async def test_without_an_incident_the_follower_goes_on_with_the_one_it_opened() -> None:
    spec = await platform()
    first = await begin(spec, str(uuid4()))
    await end(first, Crashed())
    second = await resume_escalation(first)
    assert second != first
    assert (await read(second)).parameters["options"]["incident"] == incident_of(first)
    assert await resume_escalation(second) == second, "it has not ended"
    await end(second, Failed(name="Failed"))
    assert await resume_escalation(second) == second, "it did not crash"


async def test_only_an_escalation_is_resumed() -> None:
    @flow(name="calls")
    async def calls() -> str:
        return str(flow_run.id)

    with pytest.raises(Permanent, match="none of escalate-incident"):
        await resume_escalation(await calls())


async def test_an_alert_too_long_for_prefect_still_opens_its_incident() -> None:
    name = uuid4().hex[:8]
    words = "größer 🔥 " * 2000
    opened = Opened(
        id=name, stack="lab", service="chat", severity="P0", title=words, source="alert",
        at=datetime.now(UTC), alert={"name": "Down", "summary": words, "url": "a" * 9000},
    )  # fmt: skip
    assert await open_incident(opened)
    found = await read_incident(name)
    assert found and found.opened.title.startswith("größer 🔥") and found.opened.at == opened.at
    assert found.opened.alert["name"] == "Down" and found.opened.alert["summary"].endswith("…")
