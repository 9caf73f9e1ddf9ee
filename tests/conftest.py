"""Shared fixtures: a product home and a real Prefect server, both thrown away."""

import gc
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deployments.sandbox import local_service
from tests import quick

quick.write_bytecode()
quick.read_one_authority()

# A shell's background job ignores SIGINT, and so would every process the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = set(filter(None, os.environ.get("RUNBOOKS_REQUIRE", "").split(",")))


def missing(what: str, why: str) -> None:
    """Skip for a missing real server, or fail where RUNBOOKS_REQUIRE names it."""
    if what in REQUIRED:
        pytest.fail(f"{what} is required by RUNBOOKS_REQUIRE: {why}")
    pytest.skip(f"{what}: {why}")


# Every process of pytest-xdist has ports of its own, below those that the kernel hands out: a
# server that is killed finds its port free when it starts again, whatever the others start.
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "")
_SLICE = 2000
_LOWEST = 12000 + _SLICE * (int(_PROCESS.removeprefix("gw") or 9) % 10)
_ports = itertools.count(os.getpid() * 61)  # two sessions on one machine begin apart


def free_port() -> int:
    """A port nobody listens on now; not given again for a long time."""
    for number in itertools.islice(_ports, _SLICE):
        port = _LOWEST + number % _SLICE
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port in {_LOWEST}..{_LOWEST + _SLICE - 1}")


local_service.free_port = free_port  # before anything imports it from there


# Prefect 3.8 never closes the synchronous HTTP clients that it asks for the server's type with.
# Only tests with a server may leave such sockets; they are collected before any other test.
_LEAKED = "ignore:unclosed <socket.socket:ResourceWarning"


# The files that take longest begin first: the short ones fill the gaps at the end.
_FIRST = ("real", "test_scenarios", "flows", "deployments")


def _place(item: pytest.Item) -> int:
    here = (item.path.stem, item.path.parent.name)
    return min((_FIRST.index(name) for name in here if name in _FIRST), default=len(_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _PROCESS:
        items.sort(key=_place)
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings(_LEAKED))


def _collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    uses, follows = ("prefect_server" in getattr(i, "fixturenames", ()) for i in (item, nextitem))
    if uses and not follows:
        _collect()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A product home of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("RUNBOOKS_HOME", str(folder))
    return folder


class PrefectServer:
    """A real Prefect server on its own database, that tests may kill and start again."""

    def __init__(self, folder: Path) -> None:
        from deployments.connection import SETTINGS

        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            **os.environ,
            **SETTINGS,
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_SSL_CERT_FILE": quick.AUTHORITY,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "prefect", "server", "start"]
        argv += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(900):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server for the session; Prefect in this process talks to it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    quick.remember_secret_fields()
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
        yield server
        _drain()
    server.stop()
    _collect()
    shutil.rmtree(server.folder, ignore_errors=True)


def _drain() -> None:
    """Ship the logs and events that this process still holds: it would retry at its exit for
    a minute and more when the server is gone.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
