"""The card of a run in Slack: one message, from the plan that waits to the verdict."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from blocks.incidents import Opened, open_incident
from deployments.approvals import answer, waiting
from deployments.sandbox.slack_server import SlackServer
from tests.flows.conftest import Build
from tests.flows.support import SERVICE

OOM = "remediate-oom"


@pytest.fixture
async def people(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


async def shown(people: SlackServer, word: str) -> Any:
    """The one card, once it says something."""
    for _ in range(600):
        found = [m for m in people.messages("C1") if not m.thread_ts]
        if found and word in found[0].words:
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError([m.words for m in people.messages()])


def buttons(message: Any) -> dict[str, Any]:
    rows = [b["elements"] for b in message.blocks if b["type"] == "actions"]
    return {e["action_id"]: e for row in rows for e in row}


async def test_from_the_plan_to_the_verdict_in_one_message(
    build: Build, people: SlackServer
) -> None:
    scene = await build(policy={"autonomy": "approve"}, slack=people.spec())
    opened = Opened(
        id=uuid4().hex[:8],
        stack=scene.spec.name,
        service=SERVICE,
        severity="P0",
        title="wintermute is down",
        source="alert",
        at=datetime.now(UTC),
    )
    assert await open_incident(opened)
    flags = {"wait": True, "incident": opened.id, "source": "alert"}
    run = asyncio.create_task(scene.run(OOM, flags=flags))
    asked = await shown(people, "waits for approval")
    offered = buttons(asked)
    assert {"approve", "reject", "show-log", "ack"} <= set(offered) and "P0" in asked.words
    assert "oom_kv_cache" in asked.words and "16384" in asked.words and "8192" in asked.words
    value = json.loads(offered["approve"]["value"])
    (waits,) = await waiting(scene.spec.name)
    assert (value["run"], value["digest"]) == (waits.run_id, waits.digest)
    assert waits.incident == opened.id
    given = await answer(
        value["run"], "approve", actor="eve", source="slack", digest=value["digest"]
    )
    assert given.status == "resumed"
    report = await run
    assert report.verdict == "passed"
    last = await shown(people, "PASSED")
    assert last.ts == asked.ts and "approved by eve" in last.words
    assert not {"approve", "reject"} & set(buttons(last))
    assert [f.title for f in people.files] == ["what was verified"]


async def test_slack_that_is_away_holds_nothing_up_and_is_said(
    build: Build, people: SlackServer
) -> None:
    scene = await build(slack=people.spec())
    await people.stop()
    report = await scene.run(OOM)
    assert report.verdict == "passed" and await scene.health() == "healthy"
    assert any("Slack could not be published" in note for note in report.notes)


async def test_the_people_on_call_are_told_although_the_first_channel_fails(
    build: Build, people: SlackServer
) -> None:
    scene = await build(
        policy={"autonomy": "approve"},
        slack=people.spec(channel="C404"),
        service={"escalate_to": "C2"},
    )
    report = await scene.run(OOM)
    assert report.blocked_by == "not-approved"
    assert any("Slack could not be published" in note for note in report.notes)
    assert [m.channel for m in people.messages()] == ["C2"]
