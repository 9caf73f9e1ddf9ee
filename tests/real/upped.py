"""`runbooks up` as a user starts it: a process of its own, with a product home of its own."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

RUNBOOKS = Path(sys.executable).with_name("runbooks")
# Prefect and ours find their settings in the home alone.
CLEAN = {
    k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RUNBOOKS_", "COLUMNS"))
}


def until(what: str, ready: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Poll until `ready` returns something true."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rsplit(")", 1)[1].split()[0] != "Z"
    return False


def of_home(home: Path) -> dict[int, str]:
    """Every process that serves this home, whoever its parent is now: pid -> command.

    Not the vLLM stand-in that a run restarted: a healed server outlives Prefect.
    """
    mark = f"RUNBOOKS_HOME={home}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words and "deployments.sandbox" not in words and alive(int(folder.name)):
                    found[int(folder.name)] = words[:150]
    return found


class Upped:
    """One `runbooks up`."""

    def __init__(
        self, home: Path, port: int, *more: str, env: dict[str, str] | None = None
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.port = home, port
        self.env = {**CLEAN, **(env or {}), "RUNBOOKS_HOME": str(home), "COLUMNS": "200"}
        self._out = (home / "up.out").open("ab")
        self._from = self._out.tell()
        self.process = subprocess.Popen(
            [RUNBOOKS, "up", "--port", str(port), *more],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever the test left: nothing of this home survives it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(40)
        for pid in of_home(self.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self._out.close()

    @property
    def said(self) -> str:
        """What it printed."""
        with (self.home / "up.out").open("rb") as file:
            file.seek(self._from)
            return file.read().decode()

    def ready(self) -> Self:
        """Wait for its ready line."""

        def ended_or_ready() -> bool:
            return "ready: " in self.said or self.process.poll() is not None

        until("ready line", ended_or_ready, 120)
        assert self.process.poll() is None, self.said
        found = re.search(r"ready: http://127\.0\.0\.1:(\d+) ", self.said)
        assert found, self.said
        self.port = int(found[1])
        return self

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway(self) -> str:
        """URL of its gateway."""
        return str(json.loads((self.home / "up.json").read_text())["gateway"])

    @property
    def children(self) -> dict[str, int]:
        """Name -> pid, as `up` writes them down."""
        with suppress(OSError, ValueError):
            return dict(json.loads((self.home / "up.json").read_text())["children"])
        return {}

    def stop(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call of the server; with a body it is a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.ui}{path}", data, {"content-type": "application/json"})
        with urlopen(request, timeout=10) as got:
            return json.load(got)

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.api("/api/health"))
        return False

    def runbooks(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another `runbooks` command on the same home."""
        return subprocess.run(
            [RUNBOOKS, *words], env=self.env, capture_output=True, text=True, timeout=180
        )


def failed_vllm(folder: Path) -> tuple[Any, Path]:
    """A stand-in that died of a KV cache that is too small: the sandbox and its stack file."""
    from deployments.sandbox.local import Sandbox
    from deployments.scenarios import load_one
    from deployments.staging import stage

    box = Sandbox.create(folder)
    asyncio.run(stage(load_one("kv-cache-too-small"), box))
    return box, box.dir / "stack.yaml"
