"""Other ways to reach people, by apprise to a server of our own: what went out, what did not."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from blocks.errors import Permanent, Transient
from blocks.notify import notify

# apprise loads every plug-in it has, and one of them a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
SECRET = "tok3n-not-to-be-seen"  # noqa: S105


class Hook:
    """Receives JSON."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.hold: threading.Event | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.received.append((self.path, body))
                if outer.hold:
                    outer.hold.wait(20)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    one = Hook()
    monkeypatch.setenv("TEST_HOOK", f"json://ops:{SECRET}@127.0.0.1:{one.port}/{SECRET}")
    yield one
    one.close()


async def test_title_and_text_arrive_as_they_are(hook: Hook) -> None:
    await notify("mattermost", "${TEST_HOOK}", "P0: chat", "chat *is* down <now>\n\\n & so on")
    [(path, body)] = hook.received
    assert SECRET in path
    assert (body["title"], body["message"]) == ("P0: chat", "chat *is* down <now>\n\\n & so on")


async def test_the_persons_address_is_put_into_the_url(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_HOOK", f"json://127.0.0.1:{hook.port}/to/{{email}}")
    await notify("email", "${TEST_HOOK}", "t", "b", email="ada+ops@example.net")
    assert hook.received[0][0].rstrip("/") in (
        "/to/ada%2Bops%40example.net",
        "/to/ada+ops@example.net",
    )
    with pytest.raises(Permanent, match="email: the person has no email"):
        await notify("email", "${TEST_HOOK}", "t", "b")
    assert len(hook.received) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Permanent), (404, Permanent), (429, Transient), (500, Transient)]
)
async def test_a_refusal_is_told_by_its_status_and_never_by_the_url(
    hook: Hook, status: int, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = status
    with caplog.at_level(logging.DEBUG), pytest.raises(kind) as e:
        await notify("mattermost", "${TEST_HOOK}", "t", "b")
    assert f"(HTTP {status})" in str(e.value) and "mattermost" in str(e.value)
    assert SECRET not in str(e.value) and SECRET not in caplog.text
    assert e.value.__cause__ is None


async def test_nobody_there_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK", f"json://127.0.0.1:9/{SECRET}")
    with pytest.raises(Transient, match="mattermost: the service did not take") as e:
        await notify("mattermost", "${TEST_HOOK}", "t", "b")
    assert SECRET not in str(e.value)


@pytest.mark.parametrize(
    "url", [f"nonsense-{SECRET}", f"json://h/{SECRET}, json://h/b", "mmost://"]
)
async def test_what_is_not_one_url_is_refused_without_repeating_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_HOOK", url)
    with pytest.raises(Permanent, match="not one apprise URL") as e:
        await notify("mattermost", "${TEST_HOOK}", "t", "b")
    assert SECRET not in str(e.value) and "json://h" not in str(e.value)


async def test_a_service_that_hangs_holds_up_nobody(hook: Hook) -> None:
    hook.hold = threading.Event()
    with pytest.raises(Transient, match="not sent within 0.3 s"):
        await notify("mattermost", "${TEST_HOOK}", "t", "b", timeout_s=0.3)
    hook.hold.set()
