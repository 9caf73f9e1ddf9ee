"""Socket Mode: acknowledged at once, acted on once, connected again by itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from blocks.slack_blocks import actions, button, section
from blocks.slack_card import show
from blocks.stack import StackSpec
from deployments.gateway import slack_dispatch, slack_socket
from deployments.gateway.slack_modals import CALLBACK
from deployments.gateway.slack_socket import listen
from deployments.gateway.state import Gateway
from deployments.sandbox.slack_server import SlackServer
from tests.deployments.slack_support import inventory
from tests.flows.support import until


class Line:
    """A gateway that listens, and what reached its work."""

    def __init__(self, slack: SlackServer, gateway: Gateway) -> None:
        self.slack, self.gateway = slack, gateway
        self.got: list[tuple[tuple[str, ...], Any]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def handle(self, gateway: Gateway, stacks: tuple[str, ...], payload: Any) -> None:
        await self.hold.wait()
        self.got.append((stacks, payload))

    def serve(self, *specs: StackSpec) -> None:
        self.gateway._stacks = {s.name: s for s in specs}
        self.gateway._loaded_at = self.gateway._tried_at = float("inf")

    async def send(self, envelope: str, text: str) -> None:
        """An envelope with an id of our choice, as Slack delivers it again."""
        payload = {"command": "/runbook", "text": text, "user_id": "U1", "channel_id": "C1"}
        frame = {"envelope_id": envelope, "type": "slash_commands", "payload": payload}
        [ws, *_] = self.slack._sockets.open
        await self.slack._within(ws.send_text(json.dumps(frame)))

    def texts(self) -> list[str]:
        return [payload["text"] for _, payload in self.got]


@pytest.fixture
async def line(
    home: Path, prefect_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    async with SlackServer() as slack:
        for name, value in slack.env.items():
            monkeypatch.setenv(name, value)
        gateway = Gateway(tmp_path / "inbox.db")
        made = Line(slack, gateway)
        made.serve(inventory(slack))
        monkeypatch.setattr(slack_socket, "handle", made.handle)
        monkeypatch.setattr(slack_socket, "LOOK_S", 0.2)
        listening = asyncio.create_task(listen(gateway))
        yield made
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await gateway.inbox.close()


async def test_it_is_acknowledged_before_the_work(line: Line) -> None:
    line.hold.clear()
    ack = await line.slack.command("/runbook", "help", user="U1", channel="C1")
    assert ack.acked and line.got == []
    status = await line.slack.command("/runbook", "status", user="U1", channel="C1")
    assert status.payload["text"] == "Looking…"
    line.hold.set()
    await until(lambda: line.texts() == ["help", "status"])


async def test_an_envelope_that_comes_twice_is_acted_on_once(line: Line) -> None:
    await line.slack.connected()
    for text in ("one", "one", "one"):
        await line.send("envelope-1", text)
    await line.send("envelope-2", "two")
    await until(lambda: "two" in line.texts())
    assert sorted(line.texts()) == ["one", "two"]


async def test_what_is_no_work_of_ours_is_acknowledged(line: Line) -> None:
    await line.slack.connected()
    ack = await line.slack._deliver("events_api", {"type": "event_callback"}, "", 30)
    assert ack.acked and line.got == []


async def test_a_click_that_cannot_be_worked_is_answered(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await line.slack.connected()
    (spec,) = line.gateway.stacks().values()
    assert spec.slack
    value = json.dumps({"stack": spec.name, "run": "r", "digest": "d"})
    blocks = [section("a plan waits"), actions([button("Approve", "approve", value)])]
    await show(spec.slack, "card", blocks, "a plan waits")
    monkeypatch.setattr(slack_dispatch, "MOST_AT_ONCE", 0)
    await line.slack.click(line.slack.messages("C1")[-1], "approve", user="U1")
    await until(lambda: any(slack_dispatch.BUSY in m.words for m in line.slack.ephemerals))
    assert line.got == []
    typed = await line.slack.command("/runbook", "help", user="U1", channel="C1")
    assert typed.payload["text"] == slack_dispatch.BUSY


def test_a_form_that_cannot_be_worked_stays_open() -> None:
    view = {"callback_id": CALLBACK, "state": {"values": {"service": {}}}}
    payload = {"type": "view_submission", "view": view}
    said = slack_dispatch.busy(cast(Gateway, None), (), payload)
    assert said == {"response_action": "errors", "errors": {"service": slack_dispatch.BUSY}}


@pytest.mark.parametrize("how", ["asked", "dropped", "away"])
async def test_it_connects_again(line: Line, how: str) -> None:
    await line.slack.connected()
    if how == "asked":
        await line.slack.disconnect()
    elif how == "dropped":
        await line.slack.drop()
    else:
        await line.slack.stop()
        await line.slack.start()
    await line.slack.connected(within_s=60)
    ack = await line.slack.command("/runbook", "help", user="U1", channel="C1")
    assert ack.acked
    await until(lambda: line.texts() == ["help"])


async def test_slack_is_away_at_the_start(line: Line) -> None:
    await line.slack.stop()
    line.serve()
    await asyncio.sleep(0.3)
    line.serve(inventory(line.slack))
    await asyncio.sleep(0.5)
    await line.slack.start()
    await line.slack.connected(within_s=60)


async def test_stacks_of_one_app_share_its_connection(line: Line) -> None:
    await line.slack.connected()
    first = next(iter(line.gateway.stacks().values()))
    second = inventory(line.slack)
    line.serve(first, second)
    for _ in range(200):
        await line.slack.command("/runbook", "help", user="U1", channel="C1")
        if line.got and set(line.got[-1][0]) == {first.name, second.name}:
            break
        await asyncio.sleep(0.05)
    assert set(line.got[-1][0]) == {first.name, second.name}
    assert len(line.slack._sockets.open) == 1


async def test_a_stack_that_goes_takes_its_connection_along(line: Line) -> None:
    await line.slack.connected()
    line.serve()
    await until(lambda: not line.slack._sockets.open, 60)
