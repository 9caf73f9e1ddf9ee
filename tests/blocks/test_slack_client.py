"""The way to Slack, against the stand-in that speaks its wire format."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from blocks.errors import Permanent, Transient
from blocks.slack_blocks import Mrkdwn, actions, button, section
from blocks.slack_client import Gone, SlackClient, open_slack
from blocks.slack_spec import SlackSpec
from deployments.sandbox.slack_server import SlackServer

SECRET_TEXT = "the-words-that-were-sent"


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


async def client_of(slack: SlackServer, **more: Any) -> SlackClient:
    return await open_slack(SlackSpec.model_validate(slack.spec(**{"timeout_s": 5, **more})))


def approve() -> list[dict[str, Any]]:
    return [section("*what*"), actions([button("Approve", "approve", "v")])]


async def test_post_update_thread_and_ephemeral(slack: SlackServer) -> None:
    client = await client_of(slack)
    sent = await client.send("#llm-incidents", approve(), "<!here> a & b")
    assert sent.channel == "C1", "an update needs the id"
    await client.update(sent.channel, sent.ts, [section("done")], "done")
    await client.post("C1", [section("reply")], "reply", sent.ts)
    await client.ephemeral("C1", "U1", [], "only you, not <!channel>")
    message, reply = slack.messages("C1")
    assert message.edits[0][0] == "&lt;!here&gt; a &amp; b" and message.text == "done"
    assert "approve" not in message.buttons and slack.replies(message) == [reply]
    (private,) = slack.ephemerals
    assert private.user == "U1" and not private.mentions
    assert private.blocks[0]["text"]["text"] == "only you, not &lt;!channel&gt;"


async def test_a_mention_that_is_meant_arrives(slack: SlackServer) -> None:
    await (await client_of(slack)).post("C1", [section(Mrkdwn("<@U1> look"))], "look")
    assert slack.messages()[0].mentions == ["<@U1>"]


async def test_what_is_over_a_limit_is_cut_before_it_is_sent(slack: SlackServer) -> None:
    raw = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 9000}}
    await (await client_of(slack)).post("C1", [raw] * 60, "t" * 9000)
    assert len(slack.messages()) == 1


async def test_a_deleted_message_is_gone(slack: SlackServer) -> None:
    client = await client_of(slack)
    sent = await client.send("C1", approve(), "t")
    slack.delete(slack.messages()[0])
    with pytest.raises(Gone, match="message_not_found"):
        await client.update(sent.channel, sent.ts, approve(), "t")


async def test_a_modal_opens_once(slack: SlackServer) -> None:
    client, trigger = await client_of(slack), slack.state.new_trigger("U1")
    title = {"type": "plain_text", "text": "T"}
    view = {"type": "modal", "title": title, "blocks": [section("x")]}
    assert await client.open_view(trigger, view) == slack.views[0].id
    with pytest.raises(Permanent, match="the modal: invalid_trigger_id"):
        await client.open_view(trigger, view)


async def test_a_file_lands_in_the_thread(slack: SlackServer) -> None:
    client = await client_of(slack)
    await client.upload("C1", "1.000001", "chart.png", b"\x89PNG\x00", "what was seen")
    await client.upload("C1", "", "empty.txt", b"", "nothing")
    file, empty = slack.files
    assert (file.content, file.title) == (b"\x89PNG\x00", "what was seen")
    assert (file.channel, file.thread_ts) == ("C1", "1.000001") and empty.channel == "C1"


async def test_groups_are_asked_for_once_a_minute(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.groups |= {"S1": ["U1", "U2"], "S2": ["U2"]}
    client = await client_of(slack)
    assert await client.groups_of("U2") == ("S1", "S2")
    slack.groups["S1"] = ["U1"]
    assert await (await client_of(slack)).groups_of("U2") == ("S1", "S2"), "kept by the process"
    assert [m for m, _ in slack.calls] == ["usergroups.list"]
    monkeypatch.setattr("blocks.slack_client.GROUPS_S", -1)
    assert await client.groups_of("U2") == ("S2",)
    slack.fail("usergroups.list", status=500)
    with pytest.raises(Transient):  # not the old ones: who was put out must not act
        await client.groups_of("U2")


async def test_an_answer_to_a_command(slack: SlackServer) -> None:
    client = await client_of(slack)
    url = f"{slack.url}/actions/{slack.state.new_url('C1', 'U1')}"
    await client.respond(url, {"text": "hi", "blocks": [section("x" * 9000)]})
    assert [(m.user, m.text) for m in slack.ephemerals] == [("U1", "hi")]
    for _ in range(4):
        await client.respond(url, {"text": "again"})
    with pytest.raises(Permanent, match="used_url.*used up"):
        await client.respond(url, {"text": "once too often"})


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://hooks.slack.com.evil.example/actions/1",
        "http://hooks.slack.com/actions/1",
        "https://user@evil.example/hooks.slack.com",
        "file:///etc/passwd",
        "",
    ],
)
async def test_an_answer_goes_to_slack_only(slack: SlackServer, url: str) -> None:
    with pytest.raises(Permanent, match="none of Slack's"):
        await (await client_of(slack)).respond(url, {"text": SECRET_TEXT})


FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "429": ({"status": 429, "retry_after_s": 7}, Transient, "ratelimited"),
    "500": ({"status": 500}, Transient, "HTTP 500"),
    "ratelimited": ({"error": "ratelimited"}, Transient, "ratelimited"),
    "auth": ({"error": "invalid_auth"}, Permanent, "invalid_auth"),
    "slow": ({"delay_s": 3}, Transient, "does not answer"),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_a_failure_is_told_without_the_token_and_the_words(
    slack: SlackServer, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault, kind, words = FAULTS[case]
    slack.fail(**fault)
    caplog.set_level("DEBUG")
    client = await client_of(slack, timeout_s=1)
    url = f"{slack.url}/actions/{slack.state.new_url('C1', 'U1')}"
    for act in (
        lambda: client.post("C1", [section(SECRET_TEXT)], SECRET_TEXT),
        lambda: client.upload("C1", "", "f.txt", SECRET_TEXT.encode(), SECRET_TEXT),
        lambda: client.respond(url, {"text": SECRET_TEXT}),
    ):
        with pytest.raises(kind) as e:
            await act()
        told = f"{e.value!r} {e.value.__cause__} {caplog.text}"
        assert words in told and SECRET_TEXT not in told and slack.bot_token not in told
        if case == "429":
            assert isinstance(e.value, Transient) and e.value.retry_after_s == 7
    assert [m for m, _ in slack.calls].count("chat.postMessage") <= 1, "nothing is tried twice"


async def test_slack_is_down(slack: SlackServer) -> None:
    client = await client_of(slack)
    await slack.stop()
    for act in (client.post("C1", approve(), "t"), client.groups_of("U1")):
        with pytest.raises(Transient, match="does not answer"):
            await act
