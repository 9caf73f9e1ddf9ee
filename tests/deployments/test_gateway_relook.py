"""Alerts that fire on though their run is over: started once more, then people are called, once."""

import asyncio
from datetime import UTC, datetime

import pytest
from prefect import get_client
from prefect.states import Cancelled, Completed, Crashed, Running

from blocks.incidents import Acknowledged, Ended, add
from deployments.gateway import relook
from tests.deployments.gateway_support import TOKEN, TOKEN_ENV, alert, inventory, runs_of
from tests.deployments.test_gateway_alerts import opened, ready
from tests.deployments.test_gateway_notices import with_slack
from tests.flows.conftest import slack as slack  # a fixture

ESCALATION = {
    "severities": {"P0": {"path": ["primary"], "via": ["mail"], "respond_min": 30}},
    "contacts": {"primary": "ada"},
    "notify": {"mail": "${MAIL}"},
}


@pytest.fixture
async def front(tmp_path, home, prefect_server, monkeypatch):
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    for name in ("RELOOK_S", "EVERY_S", "AFTER_S"):
        monkeypatch.setattr(relook, name, 0.0)
    async with opened(tmp_path / "inbox.db") as one:
        yield one


async def started(front, stack, name="remediate-outage"):
    """Runs of a procedure, the oldest first."""
    found = [r for r in await runs_of(stack) if f"procedure:{name}" in r.tags]
    return sorted(found, key=lambda r: r.created)


async def ends(run, state):
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        await client.set_flow_run_state(run.id, state, force=True)


async def until(what):
    for _ in range(1200):
        if found := await what():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("never")


async def count(front, stack, name, wanted):
    async def enough():
        found = await started(front, stack, name)
        return found if len(found) >= wanted else None

    return await until(enough)


async def settled(front, stack):
    async def done():
        return all(r.settled for r in await front.gateway.inbox.all() if r.kind == "firing")

    await until(done)


async def calm(front):
    """Some rounds more."""
    for _ in range(3):
        front.gateway.inbox.arrived.set()
        await asyncio.sleep(0.2)


def escalating(slack=None):
    spec = inventory() if slack is None else with_slack(slack)
    more = {"escalation": ESCALATION, "people": {"members": {"ada": {}}}} if slack is None else {}
    return type(spec).model_validate(spec.model_dump(mode="json") | more)


@pytest.mark.parametrize("state", [Crashed, Cancelled])
async def test_dead_run_is_started_once_more_and_then_people_are_called(front, state):
    stack = await ready(front, escalating(), "remediate-outage", "escalate-incident")
    await front.post(stack, alert("s0"))
    (first,) = await count(front, stack, "remediate-outage", 1)
    await front.rows(stack)
    await ends(first, state())
    _, second = await count(front, stack, "remediate-outage", 2)
    (row,) = await front.rows(stack)
    assert second.idempotency_key == f"alert:{row.incident}:2"
    assert second.parameters == first.parameters
    await ends(second, state())
    (call,) = await count(front, stack, "escalate-incident", 1)
    assert call.parameters["severity"] == "P0"
    assert call.parameters["options"]["incident"] == row.incident
    await settled(front, stack)
    await front.post(stack, alert("s0"))  # it fires on and on
    await calm(front)
    assert len(await started(front, stack)) == 2
    assert len(await started(front, stack, "escalate-incident")) == 1
    # Both starts count for the storm rule.
    assert len(await front.gateway.inbox.history(stack, 0)) == 2


async def test_run_that_ended_without_help_is_for_people(front):
    stack = await ready(front, escalating(), "remediate-outage", "escalate-incident")
    await front.post(stack, alert("s0"), alert("s0", n=1))  # the second joins
    (run,) = await count(front, stack, "remediate-outage", 1)
    assert [r.outcome for r in await front.rows(stack)] == ["started", "joined"]
    await ends(run, Completed())
    await count(front, stack, "escalate-incident", 1)
    await settled(front, stack)
    await calm(front)
    assert len(await started(front, stack)) == 1
    assert len(await started(front, stack, "escalate-incident")) == 1


async def test_without_an_escalation_slack_is_told(front, slack):
    stack = await ready(front, escalating(slack))
    await front.post(stack, alert("s0"))
    (run,) = await count(front, stack, "remediate-outage", 1)
    await front.rows(stack)
    await ends(run, Completed())
    await until(lambda: front.gateway.inbox.to_tell())
    (row,) = await front.rows(stack)
    assert row.reason == (
        f"VllmDown still fires, and remediate-outage is over (Completed, {row.run_id[:8]}); "
        "look at it yourself"
    )
    assert row.outcome == "started"


async def test_run_that_lives_is_left_alone(front):
    stack = await ready(front, escalating(), "remediate-outage", "escalate-incident")
    await front.post(stack, alert("s0"))
    (run,) = await count(front, stack, "remediate-outage", 1)
    await ends(run, Running())
    (before,) = await front.rows(stack)

    async def looked():
        (row,) = await front.rows(stack)
        return row.looked_at > before.looked_at

    await until(looked)
    assert len(await runs_of(stack)) == 1
    (row,) = await front.rows(stack)
    assert row.settled == 0


@pytest.mark.parametrize("how", ["acknowledged", "closed", "resolved"])
async def test_what_somebody_has_or_is_over_calls_nobody(front, how):
    stack = await ready(front, escalating(), "remediate-outage", "escalate-incident")
    await front.post(stack, alert("s0"))
    (run,) = await count(front, stack, "remediate-outage", 1)
    (row,) = await front.rows(stack)
    now = datetime.now(UTC)
    if how == "acknowledged":
        await add(row.incident, Acknowledged(by="ada", source="cli", at=now))
    elif how == "closed":
        await add(row.incident, Ended(by="ada", how="closed", at=now))
    else:
        await front.post(stack, alert("s0", status="resolved"))
        await front.rows(stack)
    await ends(run, Crashed())
    if how != "resolved":
        await settled(front, stack)
    await calm(front)
    assert len(await runs_of(stack)) == 1


async def test_storm_rule_holds_for_the_second_start(front):
    storm = {"per_service": 1, "total": 5, "window_s": 3600}
    stack = await ready(front, inventory(storm=storm))
    await front.post(stack, alert("s0"))
    (run,) = await count(front, stack, "remediate-outage", 1)
    (before,) = await front.rows(stack)
    await ends(run, Crashed())

    async def looked():
        (row,) = await front.rows(stack)
        return row.looked_at > before.looked_at + 1

    await until(looked)
    assert len(await runs_of(stack)) == 1
    # Later than that it is no matter of storms: people are told.
    inbox = front.gateway.inbox
    (row,) = await front.rows(stack)
    await inbox.update(row, done_at=row.done_at - relook.STORM_S - 1)
    await settled(front, stack)
    assert len(await runs_of(stack)) == 1
