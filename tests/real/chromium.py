"""A headless Chromium over the DevTools protocol: enough to look at a page as a person does."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import urlopen

from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-extensions --disable-dev-shm-usage --remote-debugging-port=0"
).split()
# Whatever is not on this machine does not exist: a page that needs the Internet shows it.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


def find() -> str | None:
    """The browser's path, where there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Browser:
    """One window; `requests` holds every URL that it asked for."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1440, 1100)) -> None:
        binary = find()
        assert binary, "no chromium"
        self.requests: list[str] = []
        self._number = 0
        self._log = (profile.parent / f"{profile.name}.log").open("wb")
        argv = [binary, *FLAGS, OFFLINE, f"--user-data-dir={profile}"]
        argv += [f"--window-size={size[0]},{size[1]}", "about:blank"]
        self.process = subprocess.Popen(
            argv, stdout=self._log, stderr=self._log, start_new_session=True
        )
        port = self._port(profile / "DevToolsActivePort")
        with urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as got:
            page = next(t for t in json.load(got) if t["type"] == "page")
        self._socket = connect(
            page["webSocketDebuggerUrl"],
            proxy=None,
            max_size=None,
            compression=None,
            ping_interval=None,  # a test may leave the page alone for minutes
        )
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")
        self.resize(*size)

    def _port(self, file: Path) -> int:
        for _ in range(300):
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"chromium did not start, see {self._log.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._log.close()

    def call(self, method: str, timeout_s: float = 30, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        deadline = time.monotonic() + timeout_s
        while True:
            message = json.loads(self._socket.recv(timeout=max(0.1, deadline - time.monotonic())))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The size of the window's inside."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def open(self, url: str, *texts: str) -> str:
        """Go to a page and wait until it shows all of `texts`."""
        self.call("Page.navigate", url=url)

        def shown() -> bool:
            text = self.text().lower()
            if "unable to connect to prefect server" in text:  # it was busy for a moment
                time.sleep(1)
                self.call("Page.navigate", url=url)
            return all(t.lower() in text for t in texts)

        self.wait(repr(texts), shown, 90)
        return self.text()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise's outcome included."""
        got = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def text(self) -> str:
        """What a person can read on the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait(self, what: str, ready: Callable[[], Any], timeout_s: float = 20) -> Any:
        """Poll until `ready` returns something true."""
        deadline = time.monotonic() + timeout_s
        while not (found := ready()):
            assert time.monotonic() < deadline, f"no {what} on the page:\n{self.text()[:3000]}"
            time.sleep(0.1)
        return found

    def wait_text(self, *texts: str, timeout_s: float = 20) -> str:
        """Wait until all of `texts` can be read; returns everything that can."""
        for text in texts:
            self.wait(repr(text), lambda text=text: text.lower() in self.text().lower(), timeout_s)
        return self.text()

    def click(self, words: str, *, inside: str = "button, a, [role=tab], [role=menuitem]") -> None:
        """Click the visible element that reads `words`."""
        found = (
            f"[...document.querySelectorAll({json.dumps(inside)})]"
            f".find(e => e.innerText.trim() === {json.dumps(words)} && e.offsetParent)"
        )
        self.wait(f"{words!r} to click", lambda: self.run(f"!!{found}"))
        self.run(f"{found}.click()")

    def picture(self, file: Path, clip: tuple[float, float, float, float] | None = None) -> Path:
        """A PNG of the window, or of `clip` (x, y, width, height)."""
        wanted: dict[str, Any] = {"format": "png"}
        if clip:
            wanted["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)
            wanted["captureBeyondViewport"] = True
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **wanted)["data"]))
        return file

    def requests_elsewhere(self) -> list[str]:
        """URLs that were asked of any other machine."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme in ("http", "https", "ws", "wss")
            and urlsplit(url).hostname not in ("127.0.0.1", "localhost")
        ]
