"""One message per key on a real Prefect server and the stand-in for Slack, from many processes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from prefect import get_client

from blocks import slack_card
from blocks.errors import Permanent, Transient
from blocks.slack_blocks import section
from blocks.slack_card import read_card, show, thread
from blocks.slack_spec import SlackSpec
from deployments.sandbox.slack_server import SlackServer
from tests.conftest import PrefectServer
from tests.flows.support import until

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def key() -> str:
    return str(uuid4())


def spec(slack: SlackServer) -> SlackSpec:
    return SlackSpec.model_validate(slack.spec(channel="#llm-incidents", timeout_s=5))


async def put(slack: SlackServer, key: str, text: str, channel: str | None = None):
    return await show(spec(slack), key, [section(text)], text, channel)


async def dead_claim(key: str) -> None:
    """A claim of somebody who died: a Variable without a time stamp."""
    async with get_client() as client:
        body = {"name": slack_card._name(key, 1), "value": {}, "tags": [slack_card._tag(key)]}
        await client._client.post("/variables/", json=body)


async def test_it_is_posted_once_and_then_updated_where_it_is(slack: SlackServer, key: str) -> None:
    assert await read_card(key) is None
    ref = await put(slack, key, "one", "C2")
    assert ref.channel == "C2" and await read_card(key) == ref
    assert await put(slack, key, "two", "C1") == ref, "it stays where it is"
    (message,) = slack.messages()
    assert (message.text, [t for t, _ in message.edits]) == ("two", ["one"])
    reply = await thread(spec(slack), ref, [section("more")], "more")
    assert [m.ts for m in slack.replies(message)] == [reply.ts]
    await put(slack, str(uuid4()), "of another")
    assert len(slack.messages("C1")) == 1


async def test_many_at_once_make_one_message(slack: SlackServer, key: str) -> None:
    slack.fail("chat.postMessage", delay_s=0.3)
    refs = await asyncio.gather(*(put(slack, key, f"by {i}") for i in range(6)))
    assert len(set(refs)) == 1 and len(slack.messages()) == 1


async def test_two_processes_at_once_make_one_message(
    slack: SlackServer, key: str, prefect_server: PrefectServer
) -> None:
    slack.fail("chat.postMessage", delay_s=0.5)
    program = (
        "import asyncio, sys\n"
        "from blocks.slack_blocks import section\n"
        "from blocks.slack_card import show\n"
        "from blocks.slack_spec import SlackSpec\n"
        "spec, key, text = SlackSpec.model_validate_json(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "print(asyncio.run(show(spec, key, [section(text)], text)).ts)\n"
    )
    env = {**os.environ, "PREFECT_API_URL": prefect_server.url, "PYTHONPATH": os.getcwd()}
    argv = [sys.executable, "-c", program, spec(slack).model_dump_json(), key]
    writers = [
        subprocess.Popen([*argv, f"by {i}"], env=env, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    said = [(await asyncio.to_thread(w.communicate, timeout=120))[0].strip() for w in writers]
    (message,) = slack.messages()
    assert said == [message.ts] * 2


async def test_a_dead_writers_claim_is_taken_over(
    slack: SlackServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead_claim(key)
    monkeypatch.setattr(slack_card, "STALE_S", 1000)
    waiting = asyncio.create_task(put(slack, key, "alive"))
    await asyncio.sleep(1)
    assert not waiting.done() and not slack.messages(), "it may still be posting"
    waiting.cancel()
    await asyncio.wait([waiting])
    real = slack_card._last

    async def later(key: str):
        found = await real(key)
        return found and found.model_copy(update={"age_s": found.age_s + 2000})

    monkeypatch.setattr(slack_card, "_last", later)
    refs = await asyncio.gather(*(put(slack, key, f"by {i}") for i in range(3)))
    assert len(set(refs)) == 1 and len(slack.messages()) == 1
    assert await read_card(key) == refs[0]


async def test_a_slow_writer_that_was_taken_for_dead_gives_way(
    slack: SlackServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = slack.fail("chat.postMessage", delay_s=3, times=1)
    slow = asyncio.create_task(put(slack, key, "slow"))
    await until(lambda: fault not in slack.state.faults)  # it is posting
    assert await slack_card._claim(key, 2, replaces=False)
    ref = await slack_card._post(
        await slack_card.open_slack(spec(slack)), key, 2, [section("new")], "new", "C1"
    )
    assert await slow == ref == await read_card(key)
    texts = {m.ts: m.text for m in slack.messages()}
    assert texts.pop(ref.ts) == "new" and list(texts.values()) == [slack_card.SUPERSEDED]


async def test_a_deleted_message_is_posted_anew_and_says_so(slack: SlackServer, key: str) -> None:
    first = await put(slack, key, "one")
    slack.delete(slack.messages()[0])
    refs = await asyncio.gather(*(put(slack, key, f"two {i}") for i in range(3)))
    assert len(set(refs)) == 1 and refs[0] != first
    await put(slack, key, "three")
    (message,) = slack.messages()
    assert message.text == "three" and "was deleted" in json.dumps(message.blocks)


async def test_while_slack_is_down_it_raises_and_afterwards_it_is_posted(
    slack: SlackServer, key: str
) -> None:
    await slack.stop()
    for _ in range(2):
        with pytest.raises(Transient, match="does not answer"):
            await put(slack, key, "lost")
    assert await read_card(key) is None
    await slack.start()
    ref = await put(slack, key, "there")
    await slack.stop()
    with pytest.raises(Transient):
        await put(slack, key, "an update")
    assert await read_card(key) == ref
    await slack.start()
    await put(slack, key, "later")
    (message,) = slack.messages()
    assert message.text == "later" and "was deleted" not in json.dumps(message.blocks)
    async with get_client() as client:
        body = {"variables": {"tags": {"all_": [slack_card._tag(key)]}}}
        kept = (await client._client.post("/variables/filter", json=body)).json()
    assert len(kept) == 1, "failed claims are cleared away"


async def test_a_refused_message_holds_nobody_up(slack: SlackServer, key: str) -> None:
    fault = slack.fail("chat.postMessage", error="is_archived", times=1)
    with pytest.raises(Permanent, match="is_archived"):
        await put(slack, key, "x")
    assert fault not in slack.state.faults
    await put(slack, key, "y")
    assert [m.text for m in slack.messages()] == ["y"]


async def test_a_claim_that_cannot_be_had_is_named(
    slack: SlackServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with get_client() as client:  # its tag was taken away in the UI
        name = slack_card._name(key, 1)
        await client._client.post("/variables/", json={"name": name, "value": {}, "tags": []})
    monkeypatch.setattr(slack_card, "STALE_S", 0)
    monkeypatch.setattr(slack_card, "GIVE_UP_S", -18)  # of the 20 s that a claim is waited for
    with pytest.raises(Transient, match=name):
        await put(slack, key, "x")
