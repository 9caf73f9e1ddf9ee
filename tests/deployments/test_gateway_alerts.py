"""Alerts through the gateway, against a real Prefect server: what is started, and what is not."""

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from blocks.audit_log import AuditLog
from blocks.errors import Transient
from blocks.incidents import Ended, Opened, add, open_incident, open_incidents, read_incident
from deployments.gateway import dispatcher as dispatching
from deployments.gateway.app import build, working
from deployments.gateway.state import Gateway
from tests.deployments.gateway_support import (
    TOKEN,
    TOKEN_ENV,
    alert,
    deployed,
    group,
    inventory,
    runs_of,
)

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Front:
    """A gateway in this process."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.gateway, self.client = gateway, client

    async def post(self, stack, *alerts, headers=BEARER, **changes):
        body = json.dumps(group(*alerts, **changes))
        path = f"/alerts/{stack}" if stack else "/alerts"
        return await self.client.post(path, content=body, headers=headers)

    async def rows(self, stack):
        """Every row of a stack, once nothing waits."""
        for _ in range(1200):
            rows = [r for r in await self.gateway.inbox.all() if r.stack == stack]
            if all(r.outcome for r in rows):
                return rows
            await asyncio.sleep(0.05)
        raise AssertionError(rows)


@contextlib.asynccontextmanager
async def opened(file, works=True):
    gateway = Gateway(file)
    transport = httpx.ASGITransport(app=build(gateway))
    async with contextlib.AsyncExitStack() as stack:
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        front = Front(gateway, await stack.enter_async_context(client))
        if works:
            await stack.enter_async_context(working(gateway))
        await gateway.refresh(0)
        try:
            yield front
        finally:
            await stack.aclose()
            await gateway.inbox.close()


@pytest.fixture
def inbox(tmp_path, home, prefect_server, monkeypatch) -> Path:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    return tmp_path / "inbox.db"


@pytest.fixture
async def front(inbox):
    async with opened(inbox) as one:
        yield one


async def ready(front, spec, *procedures):
    await deployed(spec, *procedures)
    await front.gateway.refresh(0)
    return spec.name


async def test_firing_alert_starts_its_procedure_once(front):
    stack = await ready(front, inventory())
    first = await front.post(stack, alert("s0"))
    again = await front.post(stack, alert("s0"))
    assert (first.status_code, first.json()) == (
        202,
        {"accepted": 1, "duplicates": 0, "truncated": 0},
    )
    assert again.json() == {"accepted": 0, "duplicates": 1, "truncated": 0}
    (row,) = await front.rows(stack)
    (run,) = await runs_of(stack)
    assert (row.outcome, row.run_id) == ("started", str(run.id))
    assert run.parameters == {
        "stack": stack,
        "service": "s0",
        "options": {"actor": "alertmanager", "source": "alert", "incident": row.incident},
    }
    wanted = {f"incident:{row.incident}", f"stack:{stack}", "service:s0"}
    wanted |= {"procedure:remediate-outage", "source:alert", "actor:alertmanager"}
    assert wanted <= set(run.tags)
    (incident,) = await open_incidents(stack)
    assert incident.opened.severity == "P0"
    assert incident.opened.title == "VllmDown on s0"
    page = (await front.client.get("/metrics")).text
    assert f'received_total{{outcome="started",stack="{stack}"}} 1.0' in page
    assert f'received_total{{outcome="deduplicated",stack="{stack}"}} 1.0' in page
    assert 'runs_started_total{procedure="remediate-outage",source="alert"} 1.0' in page
    assert "runbooks_trigger_seconds_count 1.0" in page


async def test_captured_notifications_of_a_real_alertmanager(front):
    stack = await ready(front, inventory())
    spec = front.gateway.stacks()[stack]
    firing, resolved = (
        json.loads(Path(f"tests/deployments/alertmanager/webhook-{k}.json").read_text())
        for k in ("firing", "resolved")
    )
    for body in (firing, resolved):  # its service is not ours
        body["alerts"][0]["labels"]["service"] = next(iter(spec.services))
    assert (await front.post(stack, *firing["alerts"])).status_code == 202
    (row,) = await front.rows(stack)
    assert row.outcome == "started"
    await front.post(stack, *resolved["alerts"])
    assert [r.outcome for r in await front.rows(stack)] == ["started", "resolved"]
    ended = await read_incident(row.incident)
    assert ended and ended.ended and ended.ended.how == "resolved"
    assert len(await runs_of(stack)) == 1


async def test_resolved_alert_starts_nothing_ever(front):
    stack = await ready(front, inventory())
    over = alert("s0", status="resolved")
    assert (await front.post(stack, over)).status_code == 202
    await front.rows(stack)
    await front.post(stack, alert("s0"))  # late: its end was told before
    assert [r.outcome for r in await front.rows(stack)] == ["nothing-open", "resolved"]
    assert await runs_of(stack) == []
    assert await open_incidents(stack) == []


async def test_incident_ends_with_the_last_of_its_alerts(front):
    stack = await ready(front, inventory())
    one, two = alert("s0"), alert("s0", n=1)
    await front.post(stack, one, two)
    rows = await front.rows(stack)
    assert [r.outcome for r in rows] == ["started", "joined"]
    assert {r.member for r in rows} == {rows[0].incident}
    await front.post(stack, {**one, "status": "resolved"})
    await front.rows(stack)
    assert len(await open_incidents(stack, "s0")) == 1
    await front.post(stack, {**two, "status": "resolved"})
    await front.rows(stack)
    assert await open_incidents(stack, "s0") == []
    assert len(await runs_of(stack)) == 1


async def test_other_procedure_joins_the_incident_and_is_started(front):
    routes = [
        {"match": {"alertname": "VllmDown"}, "procedure": "remediate-outage"},
        {"match": {"alertname": "~Slow.*"}, "procedure": "remediate-latency"},
    ]
    stack = await ready(front, inventory(routes=routes), "remediate-outage", "remediate-latency")
    await front.post(stack, alert("s0"), alert("s0", name="SlowAnswers"))
    rows = await front.rows(stack)
    assert [r.outcome for r in rows] == ["started", "started"]
    assert rows[1].member == rows[0].incident != rows[1].incident
    runs = await runs_of(stack)
    assert {r.parameters["options"]["incident"] for r in runs} == {rows[0].incident}
    assert len(await open_incidents(stack)) == 1


@pytest.mark.parametrize(
    ("wrong", "reason", "incident"),
    [
        ({"labels": {"alertname": "Odd", "service": "s0"}}, "no route of the stack matches", True),
        ({"labels": {"alertname": "VllmDown", "service": "s9"}}, "'s9' is not in the stack", False),
        ({"labels": {"alertname": "VllmDown"}}, "no label 'service'", False),
        ({"labels": {"alertname": "Gone", "service": "s0"}}, "there is no such procedure", True),
        ({"labels": {"alertname": "Late", "service": "s0"}}, "is not deployed", True),
    ],
)
async def test_alert_that_cannot_be_routed_is_kept_and_people_are_told(
    front, wrong, reason, incident
):
    routes = [
        {"match": {"alertname": "VllmDown"}, "procedure": "remediate-outage"},
        {"match": {"alertname": "Gone"}, "procedure": "no-such-procedure"},
        {"match": {"alertname": "Late"}, "procedure": "rollback-serving"},
    ]
    stack = await ready(front, inventory(routes=routes))
    await front.post(stack, alert("s0", **wrong))
    (row,) = await front.rows(stack)
    assert row.outcome == "unrouted"
    assert reason in row.reason
    assert row.card
    assert bool(await open_incidents(stack)) is incident
    assert await runs_of(stack) == []


async def test_storm_is_bounded_and_what_was_dropped_is_written_down(front):
    storm = {"per_service": 1, "total": 2, "window_s": 3600}
    stack = await ready(front, inventory(3, storm=storm))
    await front.post(stack, *(alert(f"s{n}") for n in range(3)))
    rows = await front.rows(stack)
    assert [r.outcome for r in rows] == ["started", "started", "dropped"]
    assert "alerts may start 2 (alerts.storm.total)" in rows[2].reason
    assert rows[2].card.startswith(f"storm-{stack}-")
    assert len(await runs_of(stack)) == 2
    records = [r for r in AuditLog().records() if r["kind"] == "incident"]
    assert [(r["what"], r["stack"], r["service"]) for r in records] == [("dropped", stack, "s2")]
    page = (await front.client.get("/metrics")).text
    assert f'received_total{{outcome="dropped",stack="{stack}"}} 1.0' in page


@pytest.mark.parametrize("repeated", [True, False])
async def test_dropped_alert_that_still_fires_after_the_storm_is_taken_up(front, repeated):
    storm = {"per_service": 1, "total": 1, "window_s": 3600}
    stack = await ready(front, inventory(2, storm=storm))
    await front.post(stack, alert("s0"), alert("s1"))
    started, dropped = await front.rows(stack)
    inbox = front.gateway.inbox
    await inbox.update(dropped, again_at=time.time())  # the window is over
    await inbox.update(started, decided_at=time.time() - 3601)
    if repeated:
        await front.post(stack, alert("s1"))
    for _ in range(1200):
        if (await inbox.firing(dropped.key)).outcome != "dropped":
            break
        await asyncio.sleep(0.05)
    assert [r.outcome for r in await front.rows(stack)] == ["started", "started"]
    assert len(await runs_of(stack)) == 2


async def test_alert_that_waited_for_an_hour_starts_nothing_until_it_is_sent_again(inbox):
    spec = await deployed(inventory())
    async with opened(inbox, works=False) as front:
        await front.post(spec.name, alert("s0"))
        (row,) = await front.gateway.inbox.all()
        # It is repeated all the time: that makes it no younger.
        long_ago = row.received_at - dispatching.TOO_OLD_S - 1
        await front.gateway.inbox.update(row, received_at=long_ago)
    async with opened(inbox) as front:
        (row,) = await front.rows(spec.name)
        assert row.outcome == "too-old"
        assert await runs_of(spec.name) == []
        # Sent again, it still fires.
        assert (await front.post(spec.name, alert("s0"))).json()["accepted"] == 1
        (row,) = await front.rows(spec.name)
        assert row.outcome == "started"
    assert len(await runs_of(spec.name)) == 1


async def test_run_that_was_made_before_a_kill_is_found_again(inbox):
    spec = await deployed(inventory())
    async with opened(inbox) as front:
        await front.post(spec.name, alert("s0"))
        (row,) = await front.rows(spec.name)
        # As it stood between the start and its note.
        await front.gateway.inbox.update(row, outcome="", run_id="")
        front.gateway.inbox.arrived.set()
        (again,) = await front.rows(spec.name)
    assert (again.outcome, again.run_id) == ("started", row.run_id)
    assert len(await runs_of(spec.name)) == 1


async def test_incident_that_was_closed_by_hand_is_not_ended_twice(front):
    stack = await ready(front, inventory())
    await front.post(stack, alert("s0"))
    (row,) = await front.rows(stack)
    await add(row.incident, Ended(by="ada", how="closed", at=datetime.now(UTC)))
    await front.post(stack, alert("s0", status="resolved"))
    assert [r.outcome for r in await front.rows(stack)] == ["started", "nothing-open"]
    found = await read_incident(row.incident)
    assert found and found.ended and found.ended.by == "ada"


async def test_accepted_while_prefect_is_away_and_started_when_it_is_back(
    inbox, prefect_server, monkeypatch
):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    spec = await deployed(inventory())
    async with opened(inbox, works=False) as front:
        away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(away):
            async with working(front.gateway):
                assert (await front.post(spec.name, alert("s0"))).status_code == 202
                health = await front.client.get("/healthz")
                assert health.status_code == 503
                assert health.json()["prefect"] == "does not answer"
                assert health.json()["inbox"] == "ok"
        assert await front.gateway.inbox.pending() == 1
    async with opened(inbox) as front:
        (row,) = await front.rows(spec.name)
        assert row.outcome == "started"
        for _ in range(600):
            if (await front.client.get("/healthz")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert (await front.client.get("/healthz")).json()["status"] == "ok"


async def test_wrong_token_and_unknown_stack_are_one_answer(front):
    stack = await ready(front, inventory())
    answers = [
        await front.post(stack, alert("s0"), headers={"Authorization": "Bearer wrong"}),
        await front.post("no-such-stack", alert("s0")),
        await front.post("no-such-stack", alert("s0"), headers={}),
        await front.post(stack, alert("s0"), headers={"Authorization": TOKEN}),
        await front.post("", alert("s0"), headers={"Authorization": "Bearer wrong"}),
    ]
    assert {a.status_code for a in answers} == {401}
    assert len({a.text for a in answers}) == 1
    assert len({tuple(a.headers.items()) for a in answers}) == 1
    assert await front.gateway.inbox.pending() == 0
    front.gateway._refused_at = float("-inf")  # the watch may have kept some of them already
    await front.gateway.audit_refused()
    refused = [r["refused"] for r in AuditLog().records() if r["kind"] == "access"]
    counts = [sum(r.get(name, 0) for r in refused) for name in (stack, "other")]
    # Two asked for the stack itself; what else was asked for is no name of ours.
    assert counts == [2, 3]
    assert "no-such-stack" not in str(refused)


async def test_stack_is_taken_from_its_label(front):
    one = await ready(front, inventory())
    await ready(front, inventory())  # the same token, so it alone does not tell
    unlabelled = await front.post("", alert("s0"))
    assert unlabelled.status_code == 422
    assert unlabelled.json()["error"][0]["field"] == "alerts.0.labels.stack"
    labelled = alert("s0")
    labelled["labels"]["stack"] = one
    assert (await front.post("", labelled)).status_code == 202
    (row,) = await front.rows(one)
    assert row.stack == one


@pytest.mark.parametrize(
    ("body", "status", "field", "words"),
    [
        ("{", 400, None, "no JSON"),
        ("[" * 100_000, 400, None, "no JSON"),
        ("[]", 422, "body", "object"),
        (json.dumps(group(version="3")), 422, "version", "'3'"),
        (json.dumps(group(alert("s0", fingerprint="a b"))), 422, "alerts.0.fingerprint", "'a b'"),
        (json.dumps(group(alert("s0", startsAt="then"))), 422, "alerts.0.startsAt", "'then'"),
        (json.dumps(group(alert("s0", status="flapping"))), 422, "alerts.0.status", "'flapping'"),
        (json.dumps(group(alert("s0", labels={"a": 1}))), 422, "alerts.0.labels.a", "1"),
        (
            json.dumps(group(alert("s0", startsAt="0001-01-01T00:00:00+14:00"))),
            422,
            "alerts.0.startsAt",
            "outside the years",
        ),
    ],
)
async def test_malformed_notification_is_refused_by_name(front, body, status, field, words):
    stack = await ready(front, inventory())
    answer = await front.client.post(f"/alerts/{stack}", content=body, headers=BEARER)
    assert answer.status_code == status
    said = answer.json()["error"]
    if field is not None:
        assert said[0]["field"] == field
        assert said[0]["remedy"]
    assert words in json.dumps(said, ensure_ascii=False)
    assert await front.gateway.inbox.pending() == 0


async def test_too_large_a_body_is_refused(front):
    stack = await ready(front, inventory())
    large = await front.client.post(
        f"/alerts/{stack}", content=b" " * (1 << 20) + b"{}", headers=BEARER
    )
    assert large.status_code == 413

    async def drip():
        for _ in range(1100):
            yield b" " * 1024

    undeclared = await front.client.post(f"/alerts/{stack}", content=drip(), headers=BEARER)
    assert undeclared.status_code == 413


async def test_group_is_kept_as_a_whole_or_not_at_all(front):
    stack = await ready(front, inventory())
    answer = await front.post(stack, alert("s0"), alert("s0", fingerprint=""))
    assert answer.status_code == 422
    assert await front.rows(stack) == []


async def test_worse_alert_is_an_incident_of_its_own(front):
    routes = [
        {"match": {"alertname": "Slow"}, "procedure": "remediate-latency", "severity": "P2"},
        {"match": {"alertname": "VllmDown"}, "procedure": "remediate-outage", "severity": "P0"},
    ]
    stack = await ready(front, inventory(routes=routes), "remediate-outage", "remediate-latency")
    for name in ("Slow", "VllmDown", "Slow"):
        await front.post(stack, alert("s0", name=name, n=len(await front.rows(stack))))
        await front.rows(stack)
    slow, down, again = await front.rows(stack)
    assert down.member == down.incident != slow.member == again.member
    assert {i.opened.severity for i in await open_incidents(stack)} == {"P0", "P2"}
    runs = {r.parameters["options"]["incident"] for r in await runs_of(stack)}
    assert runs == {slow.incident, down.incident}


async def test_incident_of_another_stack_is_not_ended(inbox):
    spec = await deployed(inventory())
    async with opened(inbox, works=False) as front:
        await front.post(spec.name, alert("s0", status="resolved"))
        (row,) = await front.gateway.inbox.all()
    theirs = Opened(
        id=row.incident,
        stack=f"not-{spec.name}",
        service="s0",
        severity="P1",
        title="theirs",
        source="cli",
        at=datetime.now(UTC),
    )
    assert await open_incident(theirs)
    async with opened(inbox) as front:
        assert [r.outcome for r in await front.rows(spec.name)] == ["nothing-open"]
    found = await read_incident(row.incident)
    assert found and found.ended is None


async def test_alert_full_of_emoji_opens_its_incident(front):
    stack = await ready(front, inventory())
    large = alert("s0", annotations={"summary": "\U0001f600" * 3000})
    large["generatorURL"] = "http://monitor/" + "\U0001f600" * 3000
    await front.post(stack, large)
    assert [r.outcome for r in await front.rows(stack)] == ["started"]
    (incident,) = await open_incidents(stack)
    assert incident.opened.title.startswith("\U0001f600" * 20)


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_alert_that_keeps_failing_lets_the_others_go_first(inbox, monkeypatch, how):
    """No parameters are known for which a Prefect server fails for ever: one step is replaced."""
    begin = dispatching.start_run

    async def started(procedure, parameters, **more):
        if parameters["service"] != "s0":
            return await begin(procedure, parameters, **more)
        if how == "hangs":
            await asyncio.sleep(600)
        raise Transient("the run: the Prefect server answers 500")

    monkeypatch.setattr(dispatching, "start_run", started)
    monkeypatch.setattr(dispatching, "STEP_S", 5.0)
    spec = await deployed(inventory(2))
    async with opened(inbox) as front:
        await front.post(spec.name, alert("s0"), alert("s1"))
        for _ in range(1200):
            bad, good = await front.gateway.inbox.all()
            if good.outcome and bad.later_at:
                break
            await asyncio.sleep(0.05)
        assert (good.outcome, bad.outcome) == ("started", "")
        assert "answers 500" in bad.reason or "no end within 5 s" in bad.reason
        assert bad.later_at > time.time()
        assert bad.card == bad.incident
        monkeypatch.setattr(dispatching, "start_run", begin)  # it is not given up
        await front.gateway.inbox.update(bad, later_at=time.time())
        front.gateway.inbox.arrived.set()
        assert [r.outcome for r in await front.rows(spec.name)] == ["started", "started"]
