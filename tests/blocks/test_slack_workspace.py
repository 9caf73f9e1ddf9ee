"""Slack messages against a stand-in of chat.postMessage; the token is in no message."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from blocks.errors import Permanent, Transient
from blocks.slack_workspace import SECTION_LIMIT, SlackSpec, post
from tests.conftest import free_port

TOKEN = "xoxb-1234-hunter2"


class Slack:
    """What the stand-in answers, and what it received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status, self.headers = 200, {}
        self.body: Any = {"ok": True, "ts": "1.2"}
        self.received: list[dict[str, Any]] = []
        self.tokens: list[str] = []

    def spec(self, **more: Any) -> SlackSpec:
        return SlackSpec.model_validate(
            {"token": "${RB_SLACK}", "channel": "#ops", "api_url": self.url, "timeout_s": 2, **more}
        )


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    monkeypatch.setenv("RB_SLACK", TOKEN)
    port = free_port()
    one = Slack(f"http://127.0.0.1:{port}/api")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            one.tokens.append(self.headers.get("Authorization", ""))
            if "json" in self.headers["Content-Type"]:
                one.received.append(json.loads(raw))
            else:
                fields = {k: v[0] for k, v in parse_qs(raw.decode()).items()}
                one.received.append({**fields, "blocks": json.loads(fields["blocks"])})
            assert self.path == "/api/chat.postMessage"
            body = one.body if isinstance(one.body, bytes) else json.dumps(one.body).encode()
            self.send_response(one.status)
            for key, value in one.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield one
    server.shutdown()
    thread.join()
    server.server_close()


def section(slack: Slack) -> str:
    return str(slack.received[-1]["blocks"][1]["text"]["text"])


async def test_a_message_arrives_with_title_body_and_channel(slack: Slack) -> None:
    assert await post(slack.spec(), "title", "*body*") == "1.2"
    got = slack.received[0]
    assert (got["channel"], got["text"]) == ("#ops", "title") and section(slack) == "*body*"
    assert slack.tokens == [f"Bearer {TOKEN}"] and TOKEN not in json.dumps(got)
    await post(slack.spec(), "t" * 500, "", channel="#other")
    got = slack.received[1]
    assert got["channel"] == "#other" and section(slack) == "-"
    assert len(got["blocks"][0]["text"]["text"]) == 150


@pytest.mark.parametrize("body", ["x" * 10_000, "&" * 3_000, "<" * 2_999, "é" * 3_001])
async def test_a_long_body_is_cut_below_the_limit_with_a_note(slack: Slack, body: str) -> None:
    await post(slack.spec(), "t", body)
    text = section(slack)
    assert len(text) <= SECTION_LIMIT and text.endswith("(cut; see the record)")
    assert "&" not in text.replace("&amp;", "").replace("&lt;", ""), "no half of an escape"


async def test_a_body_at_the_limit_is_whole(slack: Slack) -> None:
    await post(slack.spec(), "t", "x" * SECTION_LIMIT)
    assert section(slack) == "x" * SECTION_LIMIT


async def test_a_log_line_mentions_nobody(slack: Slack) -> None:
    await post(slack.spec(), "<!here>", "> <!channel> a & b")
    assert section(slack) == "> &lt;!channel&gt; a &amp; b"
    assert slack.received[0]["text"] == "&lt;!here&gt;"


REFUSED: dict[str, tuple[int, Any, dict[str, str], type[Exception], str]] = {
    "token": (200, {"ok": False, "error": "invalid_auth"}, {}, Permanent, "invalid_auth"),
    "channel": (200, {"ok": False, "error": "channel_not_found"}, {}, Permanent, "invite the app"),
    "429": (
        429,
        {"ok": False, "error": "ratelimited"},
        {"Retry-After": "7"},
        Transient,
        "ratelimited",
    ),
    "429 HTML": (429, b"<html>slow down</html>", {}, Transient, "HTTP 429"),
    "500": (500, b"oops", {}, Transient, "HTTP 500"),
    "503 JSON": (503, {"ok": False, "error": "service_unavailable"}, {}, Transient, "service_un"),
    "200 HTML": (200, b"<html>login</html>", {}, Transient, "Slack"),
    "internal": (200, {"ok": False, "error": "internal_error"}, {}, Transient, "internal_error"),
    "echo": (200, {"ok": False, "error": "x" * 500}, {}, Transient, "HTTP 200"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_slack_refuses_is_named_without_the_token(slack: Slack, case: str) -> None:
    slack.status, slack.body, slack.headers, kind, words = REFUSED[case]
    with pytest.raises(kind, match=".") as e:
        await post(slack.spec(), "t", "b")
    assert words in str(e.value) and TOKEN not in str(e.value) and len(str(e.value)) < 250
    assert e.value.__cause__ is None, "the SDK's own text may repeat what was sent"
    assert len(slack.received) == 1, "who calls decides whether to try again"
    if case == "429":
        assert isinstance(e.value, Transient) and e.value.retry_after_s == 7


async def test_nobody_listens(slack: Slack) -> None:
    spec = slack.spec(api_url=f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(Transient, match="Slack does not answer") as e:
        await post(spec, "t", "b")
    assert TOKEN not in str(e.value)


async def test_a_missing_token_is_named(slack: Slack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RB_SLACK")
    with pytest.raises(Permanent, match="RB_SLACK is not set"):
        await post(slack.spec(), "t", "b")
