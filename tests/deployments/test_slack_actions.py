"""Buttons: the very plan is approved, once, by whom may; the log has no secrets."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from blocks.incidents import Opened, open_incident, read_incident
from blocks.slack_blocks import actions, button, section
from blocks.slack_card import show
from deployments.approvals import Waiting
from deployments.gateway.slack_actions import carried
from deployments.sandbox.slack_server import Message, SlackServer
from tests.deployments.slack_support import DIGEST, World, world


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
async def place(
    prefect_server: Any, home: Path, tmp_path: Path, slack: SlackServer
) -> AsyncIterator[World]:
    async with world(tmp_path, slack) as made:
        yield made


async def card(world: World, key: str, **value: str) -> Message:
    """An incident's message with its buttons, in the channel."""
    text = json.dumps({"stack": world.spec.name, "service": "wintermute", **value})
    buttons = [button(name, name, text) for name in ("approve", "reject", "show-log", "ack")]
    await show(world.spec.slack, key, [section("it is down"), actions(buttons)], "it is down")
    return world.slack.messages("C1")[-1]


async def about(world: World, one: Waiting, **value: str) -> Message:
    return await card(world, one.run_id, **{"run": one.run_id, "digest": one.digest, **value})


def answers(world: World, *words: str) -> list[Message]:
    return [m for m in world.slack.ephemerals if any(w in m.words for w in words)]


async def test_approved_once_however_many_click(place: World) -> None:
    async with place.waits() as (one, run):
        message = await about(place, one)
        acks = await asyncio.gather(
            *(place.slack.click(message, "approve", user="U2") for _ in range(3))
        )
        assert all(a.acked for a in acks)
        given = await asyncio.wait_for(run, 60)
        await place.told("You approved", user="U2")
        await place.told("Nothing was done", user="U2")
    assert (given["decision"], given["digest"]) == ("approve", DIGEST)
    assert (given["actor"], given["source"]) == ("bob", "slack")
    trail = [json.loads(line) for line in place.audit().splitlines()]
    outcomes = sorted(r["outcome"] for r in trail if r["kind"] == "approval")
    assert outcomes.count("resumed") == 1 and set(outcomes) == {"resumed", "not-waiting"}
    late = await place.slack.click(message, "approve", user="U2")
    assert late.acked
    await place.told("too late", user="U2")


async def test_rejected(place: World) -> None:
    async with place.waits() as (one, run):
        await place.slack.click(await about(place, one), "reject", user="U2")
        given = await asyncio.wait_for(run, 60)
        await place.told("You rejected", user="U2")
    assert (given["decision"], given["actor"]) == ("reject", "bob")


async def test_another_plan_is_not_approved(place: World) -> None:
    async with place.waits() as (one, run):
        message = await about(place, one, digest="0123456789ab")
        await place.slack.click(message, "approve", user="U2")
        await place.told("another plan now", user="U2")
        await place.slack.click(await card(place, "x", run=one.run_id), "approve", user="U2")
        await place.told("names no plan", user="U2")
        assert not run.done()


async def test_who_is_no_approver_resumes_nothing(place: World) -> None:
    async with place.waits() as (one, run):
        message = await about(place, one)
        await place.slack.click(message, "approve", user="U1")
        await place.told("You may not approve", user="U1")
        await place.type(f"approve {one.run_id[:8]} {one.digest}", user="U3")
        await place.told("You may not approve", user="U3")
        assert not run.done()
    trail = [json.loads(line) for line in place.audit().splitlines()]
    assert [r["allowed"] for r in trail if r["kind"] == "access"] == [False, False]
    assert not [r for r in trail if r["kind"] == "approval"]


async def test_a_run_of_another_stack_is_out_of_reach(place: World) -> None:
    async with place.waits(stack=f"other-{uuid4().hex[:6]}") as (one, run):
        await place.slack.click(await about(place, one), "approve", user="U2")
        await place.told("There is no run", user="U2")
        await place.slack.click(await about(place, one, stack=one.stack), "approve", user="U2")
        await place.told("There is no stack", user="U2")
        assert not run.done()


async def test_four_eyes(
    prefect_server: Any, home: Path, tmp_path: Path, slack: SlackServer
) -> None:
    people = {
        "members": {"ada": {"slack": "U1"}, "bob": {"slack": "U2"}},
        "roles": {"approver": ["ada", "bob"]},
    }
    rule = {"four_eyes": True}
    async with world(tmp_path, slack, people=people, approval=rule) as place:
        async with place.waits(actor="ada") as (one, run):
            message = await about(place, one)
            await place.slack.click(message, "approve", user="U1")
            await place.told("may not approve it", user="U1")
            assert not run.done()
            await place.slack.click(message, "approve", user="U2")
            assert (await asyncio.wait_for(run, 60))["actor"] == "bob"


async def test_the_commands_answer_too(place: World) -> None:
    async with place.waits() as (one, run):
        shown = await place.ask(f"approve {one.run_id[:8]}", one.digest, user="U2")
        assert not run.done()  # the plan is shown first
        await place.slack.click(shown, "approve", user="U2")
        await asyncio.wait_for(run, 60)
    await place.ask(f"approve {one.run_id[:8]}", "does not wait", user="U2")
    await place.ask(f"reject {one.run_id}", "too late", user="U2")


async def test_the_log_has_no_secrets_and_is_private(place: World) -> None:
    message = await card(place, "k")
    await place.slack.click(message, "show-log", user="U3")
    await place.told("You may not", "read a log", "operator", user="U3")
    await place.slack.click(message, "show-log", user="U1")
    said = await place.told("Log of", "last line", user="U1")
    assert "hf_verysecretvalue" not in said.words and not said.mentions
    assert said.words.count("```") == 2
    assert place.slack.messages() == [message]
    await place.slack.click(await card(place, "l", service="nowhere"), "show-log", user="U1")
    await place.told("There is no service", user="U1")


async def test_an_incident_is_taken_by_its_button(place: World) -> None:
    incident = uuid4().hex[:8]
    await open_incident(
        Opened(
            id=incident,
            stack=place.spec.name,
            service="wintermute",
            severity="P1",
            title="down",
            source="alert",
            at=datetime.now(UTC),
        )
    )
    message = await card(place, incident, incident=incident)
    await place.slack.click(message, "ack", user="U3")
    await place.told("You may not", user="U3")
    await place.slack.click(message, "ack", user="U1")
    await place.told("You have", user="U1")
    found = await read_incident(incident)
    assert found and found.acknowledged and found.acknowledged.by == "ada"
    assert [m.text for m in place.slack.replies(message)] == ["`ada` has it."]
    await place.ask(f"close {incident}", "You may not", "close", user="U3")
    await place.ask("close", "Which incident?")
    await place.ask("close ffffffff", "There is no incident")
    await place.ask(f"close {incident}", "is closed", "down")
    found = await read_incident(incident)
    assert found and found.ended and (found.ended.by, found.ended.how) == ("ada", "closed")
    assert [m.text for m in place.slack.replies(message)][-1] == "`ada` closed it."
    await place.ask(f"close {incident}", "is over already (closed)")
    assert place.audit().count('"what":"closed"') == 1


@pytest.mark.parametrize("value", ["", "null", "[]", "5", "{", '{"run": {"a": 1}}', "[" * 99])
def test_a_value_that_is_not_ours_says_nothing(value: str) -> None:
    assert carried(value) == {}
