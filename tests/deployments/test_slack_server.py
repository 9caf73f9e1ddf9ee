"""The stand-in for Slack, driven by slack-sdk itself: its WebClient and Socket Mode client."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient

from deployments.sandbox.slack_rules import faults_of_blocks, faults_of_view
from deployments.sandbox.slack_server import SlackServer
from tests.flows.support import until


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        yield server


def web(slack: SlackServer, token: str = "") -> WebClient:
    return WebClient(token or slack.bot_token, base_url=slack.api_url, timeout=5, retry_handlers=[])


async def call(slack: SlackServer, method: str, **args: Any) -> dict[str, Any]:
    client = web(slack)
    return dict((await asyncio.to_thread(getattr(client, method), **args)).data)


async def refused(slack: SlackServer, method: str, **args: Any) -> SlackApiError:
    with pytest.raises(SlackApiError) as e:
        await call(slack, method, **args)
    return e.value


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def button(action_id: str, **more: Any) -> dict[str, Any]:
    text = {"type": "plain_text", "text": action_id}
    return {"type": "button", "action_id": action_id, "text": text, **more}


MODAL = {
    "type": "modal",
    "callback_id": "run",
    "title": {"type": "plain_text", "text": "Run"},
    "submit": {"type": "plain_text", "text": "Run"},
    "private_metadata": "{}",
    "blocks": [
        {
            "type": "input",
            "block_id": "service",
            "label": {"type": "plain_text", "text": "Service"},
            "element": {
                "type": "static_select",
                "action_id": "value",
                "options": [
                    {"text": {"type": "plain_text", "text": s}, "value": s} for s in ("a", "b")
                ],
            },
        },
        {
            "type": "input",
            "block_id": "why",
            "optional": True,
            "label": {"type": "plain_text", "text": "Why"},
            "element": {"type": "plain_text_input", "action_id": "value"},
        },
    ],
}


class App:
    """slack-sdk's own Socket Mode client; answers as told and keeps what came."""

    def __init__(self, slack: SlackServer, **answers: Any) -> None:
        self.came: list[SocketModeRequest] = []
        self.answers, self.held = answers, threading.Event()
        self.held.set()
        self.slack = slack
        self.client = SocketModeClient(slack.app_token, web_client=web(slack), ping_interval=0.5)
        self.client.socket_mode_request_listeners.append(self._listen)

    def _listen(self, client: SocketModeClient, request: SocketModeRequest) -> None:
        self.came.append(request)
        self.held.wait(20)
        payload = self.answers.get(request.payload.get("type", request.type))
        client.send_socket_mode_response(SocketModeResponse(request.envelope_id, payload))

    async def __aenter__(self) -> "App":
        await asyncio.to_thread(self.client.connect)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.held.set()
        self.client.auto_reconnect_enabled = False
        await self.slack.drop()  # its close() waits for a read of 3 s otherwise,
        await until(lambda: not self.client.is_connected())  # and races with its own reader
        await asyncio.to_thread(self.client.close)


async def test_messages_are_kept_with_their_edits(slack: SlackServer) -> None:
    assert (await call(slack, "auth_test"))["team_id"] == "T1"
    posted = await call(slack, "chat_postMessage", channel="#llm-incidents", text="one")
    assert posted["channel"] == "C1", "a name is answered with the id"
    ts = posted["ts"]
    await call(slack, "chat_postMessage", channel="C1", text="reply", thread_ts=ts)
    await call(slack, "chat_update", channel="C1", ts=ts, text="two", blocks=[section("<!here>")])
    first, reply = slack.messages("C1")
    assert (first.text, [t for t, _ in first.edits], first.mentions) == (
        "two",
        ["one"],
        ["<!here>"],
    )
    assert slack.replies(first) == [reply]
    slack.delete(first)
    assert (await refused(slack, "chat_update", channel="C1", ts=ts, text="x")).response[
        "error"
    ] == "message_not_found"
    gone = await refused(slack, "chat_update", channel="#llm-incidents", ts=ts, text="x")
    assert gone.response["error"] == "channel_not_found", "an update takes an id only"
    await call(slack, "chat_postEphemeral", channel="C1", user="U1", text="only you")
    assert [(m.user, m.text) for m in slack.ephemerals] == [("U1", "only you")]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"text": ""}, "no_text"),
        ({"text": "x" * 4001}, "msg_too_long"),
        ({"text": "x", "blocks": [section("x" * 3001)]}, "invalid_blocks"),
        ({"text": "x", "blocks": [section("x" * 3000)] * 5}, "msg_blocks_too_long"),
        ({"text": "x", "channel": "C9"}, "channel_not_found"),
    ],
)
async def test_a_bad_message_is_refused(
    slack: SlackServer, args: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIP_SLACK_SDK_WARNING", "1")  # it warns of a missing text, too
    answer = (await refused(slack, "chat_postMessage", **{"channel": "C1", **args})).response
    assert answer["error"] == error and not slack.messages()
    if error == "invalid_blocks":
        assert "json-pointer:/blocks/0/text/text" in answer["errors"][0]


async def test_tokens_are_checked(slack: SlackServer) -> None:
    for token, method in (("xoxb-wrong", "auth_test"), (slack.bot_token, "apps_connections_open")):
        client, args = web(slack, token), {"app_token": token} if "apps" in method else {}
        with pytest.raises(SlackApiError, match="invalid_auth"):
            await asyncio.to_thread(getattr(client, method), **args)


BAD_BLOCKS = {
    "type": {"type": "sction"},
    "no text": {"type": "section"},
    "empty text": section(""),
    "unknown field": section("x") | {"colour": "red"},
    "header mrkdwn": {"type": "header", "text": {"type": "mrkdwn", "text": "x"}},
    "header long": {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
    "no button": {"type": "actions", "elements": []},
    "26 buttons": {"type": "actions", "elements": [button(str(i)) for i in range(26)]},
    "value": {"type": "actions", "elements": [button("a", value="x" * 2001)]},
    "style": {"type": "actions", "elements": [button("a", style="default")]},
    "same id": {"type": "actions", "elements": [button("a"), button("a")]},
    "field": {"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]},
    "confirm": {"type": "actions", "elements": [button("a", confirm={"title": "x"})]},
    "context": {"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11},
    "select": {"type": "actions", "elements": [{"type": "static_select", "action_id": "a"}]},
}


@pytest.mark.parametrize("case", BAD_BLOCKS)
def test_a_block_that_slack_would_refuse(case: str) -> None:
    assert faults_of_blocks([BAD_BLOCKS[case]])


def test_blocks_and_views_that_slack_takes() -> None:
    confirm = {
        "title": {"type": "plain_text", "text": "Sure?"},
        "text": {"type": "mrkdwn", "text": "really"},
    }
    actions = {"type": "actions", "elements": [button("a", style="danger", confirm=confirm)]}
    assert faults_of_blocks([section("x"), {"type": "divider"}, actions]) == []
    assert faults_of_blocks([section("x")] * 51) and faults_of_blocks("x")
    assert faults_of_view(MODAL) == []
    for wrong in ({"title": {"type": "plain_text", "text": "x" * 25}}, {"submit": None}):
        assert faults_of_view({**MODAL, **wrong})


async def test_faults(slack: SlackServer) -> None:
    slack.fail("chat.postMessage", status=429, retry_after_s=7, times=1)
    e = await refused(slack, "chat_postMessage", channel="C1", text="x")
    assert e.response.status_code == 429 and e.response.headers["Retry-After"] == "7"
    slack.fail(status=500, times=1)
    with pytest.raises(SlackApiError):
        await call(slack, "auth_test")
    slack.fail("chat.postMessage", status=503, times=1, lost=True)
    await refused(slack, "chat_postMessage", channel="C1", text="kept")
    assert [m.text for m in slack.messages()] == ["kept"], "only the answer was lost"
    await slack.stop()
    with pytest.raises(OSError):  # noqa: PT011 - refused
        await call(slack, "auth_test")
    await slack.start()
    assert (await call(slack, "auth_test"))["ok"]


async def test_command_modal_submission_over_the_socket(slack: SlackServer) -> None:
    errors = {"response_action": "errors", "errors": {"why": "say why"}}
    async with App(slack, slash_commands={"text": "hi"}, view_submission=errors) as app:
        ack = await slack.command("/runbook", "status", user="U1", channel="C1")
        assert ack.acked and not ack.late and slack.ephemerals[-1].text == "hi"
        command = app.came[0].payload
        assert (command["text"], command["user_id"]) == ("status", "U1")
        trigger = command["trigger_id"]
        await call(slack, "views_open", trigger_id=trigger, view=MODAL)
        again = await refused(slack, "views_open", trigger_id=trigger, view=MODAL)
        assert again.response["error"] == "invalid_trigger_id", "good for one view"
        view = slack.views[-1]
        with pytest.raises(LookupError, match="required"):
            await slack.submit(view, {})
        await slack.submit(view, {"service": "b"})
        assert view.open and view.errors == {"why": "say why"}
        app.answers["view_submission"] = None
        await slack.submit(view, {"service": "b", "why": "because"})
        assert not view.open
        sent = app.came[-1].payload["view"]
        assert sent["state"]["values"]["service"]["value"]["selected_option"]["value"] == "b"
        assert sent["state"]["values"]["why"]["value"]["value"] == "because"


async def test_a_click_and_what_is_answered_to_its_response_url(slack: SlackServer) -> None:
    blocks = [{"type": "actions", "elements": [button("approve", value="v1")]}]
    await call(slack, "chat_postMessage", channel="C1", text="x", blocks=blocks)
    message = slack.messages()[0]
    async with App(slack) as app:
        with pytest.raises(LookupError, match="approve"):
            await slack.click(message, "reject", user="U2")
        assert (await slack.click(message, "approve", user="U2")).acked
        came = app.came[0].payload
    assert came["actions"][0]["value"] == "v1" and came["user"]["id"] == "U2"
    assert came["container"] == {
        "type": "message",
        "message_ts": message.ts,
        "channel_id": "C1",
        "is_ephemeral": False,
    }
    async with httpx.AsyncClient() as client:
        for n in range(6):
            answer = await client.post(came["response_url"], json={"text": f"no {n}"})
            assert answer.status_code == (200 if n < 5 else 404)
    assert [(m.user, m.text) for m in slack.ephemerals] == [("U2", f"no {n}") for n in range(5)]


async def test_a_late_acknowledgement_is_seen(slack: SlackServer) -> None:
    async with App(slack) as app:
        app.held.clear()
        ack = await slack.command("/runbook", "", user="U1", channel="C1", wait_s=0.1)
        assert not ack.acked and ack.late
        app.held.set()
        await until(lambda: ack.acked)


async def test_the_app_connects_anew_when_asked_and_when_dropped(slack: SlackServer) -> None:
    async with App(slack) as app:
        await slack.connected()
        await slack.disconnect()
        await slack.connected()
        assert (await slack.command("/runbook", "1", user="U1", channel="C1")).acked
        await slack.drop()
        await slack.connected()
        assert (await slack.command("/runbook", "2", user="U1", channel="C1")).acked
        assert [r.payload["text"] for r in app.came] == ["1", "2"]


async def test_requests_over_http_are_signed(slack: SlackServer) -> None:
    came: list[tuple[dict[str, str], bytes]] = []

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in head)}
        came.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(gateway, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        ack = await slack.command("/runbook", "why 1", user="U1", channel="C1", url=url)
    (headers, body) = came[0]
    verifier = SignatureVerifier(slack.signing_secret)
    assert verifier.is_valid_request(body, headers) and b"text=why+1" in body
    assert ack.acked and ack.status == 200 and slack.ephemerals[-1].text == "hi"
    assert not verifier.is_valid_request(body, slack.sign(body, secret="another"))
    assert not verifier.is_valid_request(body, slack.sign(body, at=1))
    assert not verifier.is_valid_request(body + b"x", headers)


async def test_files_groups_and_users(slack: SlackServer) -> None:
    slack.groups["S1"] = ["U1", "U2"]
    await call(
        slack,
        "files_upload_v2",
        filename="a.md",
        content=b"# a",
        title="A",
        channel="C1",
        thread_ts="1.1",
    )
    file = slack.files[0]
    assert (file.name, file.content, file.title, file.channel, file.thread_ts) == (
        "a.md",
        b"# a",
        "A",
        "C1",
        "1.1",
    )
    groups = (await call(slack, "usergroups_list", include_users=True))["usergroups"]
    assert [(g["id"], g["users"]) for g in groups] == [("S1", ["U1", "U2"])]
    assert (await call(slack, "usergroups_users_list", usergroup="S1"))["users"] == ["U1", "U2"]
    assert (await call(slack, "users_info", user="U1"))["user"]["name"] == "ada"
    assert "token" not in json.dumps(slack.calls)
