"""Pings: what may be pinged, and that a ping never raises, never hangs, never tells the address."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from blocks import dead_man
from blocks.dead_man import DeadMan, ping

SECRET = "4f1c-not-to-be-seen"


class Checks:
    """A service such as healthchecks on loopback: answers in turn, the last one for ever."""

    def __init__(self, *answers: int, pause_s: float = 0, body: bytes = b"OK") -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers = list(answers) or [200]
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.command, self.path))
                outer.let_go.wait(pause_s)
                status = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/login")
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/ping/{SECRET}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def checks(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make such services; all are closed."""
    made: list[Checks] = []

    def make(*answers: int, **more: Any) -> Checks:
        made.append(Checks(*answers, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_man, "PAUSE_S", 0.01)


# ---- what may be written down -------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://hc-ping.com/5f0c9d2e/start",
        "http://checks.internal:8000/ping/x?create=1",
        "${HEALTHCHECKS_URL}",
        "secret:nightly-check",
    ],
)
def test_usable(url: str) -> None:
    assert DeadMan(start=url, success=url).success == url


@pytest.mark.parametrize(
    "url",
    [
        "hc-ping.com/5f0c9d2e",
        "ftp://hc-ping.com/x",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://h:99999/x",
        "https://hc-ping.com/a b",
        "https://[::1/x",
        "${not a name}",
        "secret:UPPER",
        "javascript:alert(1)",
    ],
)
def test_unusable_names_field_value_and_remedy(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DeadMan(success=url)
    error = caught.value.errors()[0]
    assert error["loc"] == ("success",)
    assert "secret:PREFECT-SECRET-NAME" in error["msg"]


def test_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        DeadMan(start=f"https://ada:{SECRET}@hc-ping.com/x")
    assert "use ${ENV_NAME} or secret:NAME" in caught.value.errors()[0]["msg"]
    assert SECRET not in caught.value.errors()[0]["msg"]


# ---- the ping -----------------------------------------------------------------------------------


async def test_one_get_when_it_is_heard(checks: Any) -> None:
    there = checks(200)
    assert await ping(there.url) == ""
    assert there.asked == [("GET", f"/ping/{SECRET}")]


async def test_nothing_is_asked_without_an_address() -> None:
    assert await ping("") == ""


@pytest.mark.parametrize("first", [429, 500, 503])
async def test_asked_once_more_after_what_may_pass(checks: Any, first: int) -> None:
    there = checks(first, 200)
    assert await ping(there.url) == ""
    assert len(there.asked) == 2


async def test_given_up_after_the_second(checks: Any) -> None:
    there = checks(503)
    note = await ping(there.url)
    assert note == "the dead-man ping to 127.0.0.1 failed: it answered 503"
    assert len(there.asked) == 2


@pytest.mark.parametrize("status", [404, 410, 302])
async def test_what_will_not_pass_is_not_asked_again(checks: Any, status: int) -> None:
    there = checks(status)
    assert f"answered {status}" in await ping(there.url)
    assert len(there.asked) == 1, "a redirect is no ping, and is not followed"


async def test_slow_one_is_given_up_in_time(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_man, "TIMEOUT_S", 0.2)
    there = checks(pause_s=60)
    began = time.monotonic()
    note = await ping(there.url)
    assert "no answer within 0.2 s" in note
    assert time.monotonic() - began < 30
    assert SECRET not in note


async def test_huge_answer_is_not_read(checks: Any) -> None:
    assert await ping(checks(200, body=b"x" * 20_000_000).url) == ""


async def test_nobody_there_and_no_http_are_notes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    note = await ping(f"http://127.0.0.1:{port}/ping/{SECRET}")
    assert note == "the dead-man ping to 127.0.0.1 failed: connection refused"
    listener = await asyncio.start_server(_garbage, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/{SECRET}"
        note = await ping(url)
    assert note.startswith("the dead-man ping to 127.0.0.1 failed: ")
    assert SECRET not in note


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"220 smtp here\r\n")
    await writer.drain()
    writer.close()


async def test_reference_is_resolved_when_it_pings(
    checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = checks(200)
    monkeypatch.setenv("TEST_CHECK", there.url)
    assert await ping("${TEST_CHECK}") == ""
    assert len(there.asked) == 1
    monkeypatch.setenv("TEST_CHECK", f"no url {SECRET}")
    note = await ping("${TEST_CHECK}")
    assert "no dead-man ping" in note and SECRET not in note
    monkeypatch.delenv("TEST_CHECK")
    assert "TEST_CHECK is not set" in await ping("${TEST_CHECK}")
