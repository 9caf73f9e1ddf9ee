"""`runbooks up`: Prefect server, worker and gateway on this machine, on loopback, kept alive."""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from blocks.errors import Permanent
from blocks.journal import home
from deployments.connection import (
    POOL,
    Up,
    answers,
    bound,
    child_environment,
    free_port,
    read_up,
    up_file,
    url_of,
    use_server,
    write_up,
)
from deployments.zygote import socket_path

Say = Callable[[str], None]
LINUX = sys.platform == "linux"
STOP_S = 20
"""How long a child may take to stop: a worker passes the signal on, and a run undoes its act."""


@dataclass
class Child:
    """One supervised process."""

    name: str
    argv: list[str]
    log: Path
    env: dict[str, str]
    lent: tuple[int, ...] = ()
    """File descriptors of ours that it gets."""
    process: asyncio.subprocess.Process | None = None
    starts: list[float] = field(default_factory=list)

    async def start(self) -> None:
        """Start it in a group of its own, so that Ctrl-C reaches it only through us."""
        self.starts.append(time.monotonic())
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            spawning = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *self.argv,
                    env=self.env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=self.lent,
                )
            )
            try:
                self.process = await asyncio.shield(spawning)
            except asyncio.CancelledError:
                self.process = await spawning  # or nobody would stop it
                raise

    def pause_s(self) -> float:
        """Back off when it dies again and again: 0.5 s, doubling to 30 s within a minute."""
        recent = [t for t in self.starts if time.monotonic() - t < 60]
        return float(min(30.0, 0.5 * 2 ** max(0, len(recent) - 1)))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for the whole group."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            _kill_group(process.pid)
            await process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class Platform:
    """Server, zygote, worker and gateway, started, watched and stopped together."""

    def __init__(
        self,
        *,
        port: int = 4200,
        schedules: bool = False,
        say: Say = print,
        gateway: tuple[str, int] = ("127.0.0.1", 4300),
    ) -> None:
        self._preferred, self._schedules, self._say = port, schedules, say
        self._gateway_at = gateway
        self._gateway: socket.socket | None = None
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.url = ""
        self._lock: TextIO | None = None

    @property
    def ui(self) -> str:
        """Where a browser finds it."""
        return self.url.removesuffix("/api")

    @property
    def gateway(self) -> str:
        """Where alerts and Slack's requests go."""
        return url_of(self._gateway) if self._gateway else ""

    async def start(self) -> None:
        """Bring everything up; returns when procedures can be run.

        Raises:
            Permanent: another `runbooks up` serves this home, or the server does not come up.
        """
        self._clear_way()
        port = free_port(self._preferred)
        if port != self._preferred:
            self._say(f"port {self._preferred} is taken: using {port}")
        self.url = f"http://127.0.0.1:{port}/api"
        use_server(self.url)
        env = child_environment(self.url)
        logs = home() / "logs"
        python = [sys.executable, "-m", "prefect"]
        server = Child(
            "server",
            [*python, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            logs / "server.log",
            env,
        )
        socket = socket_path(home())
        zygote = Child(
            "zygote",
            [sys.executable, "-P", "-m", "deployments.zygote", str(socket)],
            logs / "zygote.log",
            env,
        )
        worker = Child(
            "worker",
            [sys.executable, "-P", "-m", "deployments.warm_worker", "--pool", POOL],
            logs / "worker.log",
            {**env, "RUNBOOKS_ZYGOTE": str(socket)},
        )
        # macOS frameworks do not survive a fork; there, and where it fails, each run starts afresh.
        gateway = self._make_gateway(env, port)
        self._children = [server, zygote, worker, gateway] if LINUX else [server, worker, gateway]
        await server.start()
        self._write()
        await self._await_server(server)
        if zygote in self._children:
            await zygote.start()  # it imports while the deployments are made; no run waits
        from deployments.bootstrap import prepare_server, use_launcher  # after use_server

        if active := await prepare_server(schedules=self._schedules):
            self._say(f"{active} schedule(s) active")
        await use_launcher()
        await worker.start()
        await gateway.start()
        self._write()
        self._watchers = [asyncio.create_task(self._keep(c)) for c in self._children]

    async def stop(self) -> None:
        """Stop the gateway first, which starts runs, then the worker, so that runs end while the
        server still takes their state.
        """
        for watcher in self._watchers:
            watcher.cancel()
        for child in reversed(self._children):
            await child.stop()
        if self._gateway:
            self._gateway.close()
        if self._lock:  # a refused one holds none, and the file is the other's
            up_file().unlink(missing_ok=True)
            self._lock.close()

    def _make_gateway(self, env: dict[str, str], server_port: int) -> Child:
        """The gateway with a socket of ours: while it restarts, alerts wait in the queue of that
        and are not refused, and nobody takes its port.
        """
        host, wanted = self._gateway_at
        try:
            self._gateway = bound(host, wanted, backlog=512, avoid=server_port)
        except OSError as e:
            raise Permanent(
                f"--gateway-host {host}: cannot listen there ({e.strerror or e}); give an address "
                "of this machine, e.g. 127.0.0.1 or 0.0.0.0"
            ) from e
        fd, port = self._gateway.fileno(), self._gateway.getsockname()[1]
        if port != wanted:
            self._say(f"port {wanted} is taken: the gateway uses {port}")
        argv = [sys.executable, "-P", "-m", "deployments.gateway.serve", "--fd", str(fd)]
        return Child("gateway", argv, home() / "logs" / "gateway.log", env, lent=(fd,))

    async def _keep(self, child: Child) -> None:
        """Restart a child that dies."""
        while True:
            assert child.process is not None  # noqa: S101 - started before it is watched
            code = await child.process.wait()
            pause = child.pause_s()
            self._say(f"{child.name} ended ({code}); restarting in {pause:g} s, see {child.log}")
            await asyncio.sleep(pause)
            await child.start()
            self._write()

    async def _await_server(self, server: Child) -> None:
        deadline = time.monotonic() + 120
        while not await asyncio.to_thread(answers, self.url, 1):
            if server.process is not None and server.process.returncode is not None:
                tail = server.log.read_text(errors="replace")[-800:]
                raise Permanent(f"the Prefect server ended at its start: {tail}")
            if time.monotonic() > deadline:
                await server.stop()
                raise Permanent(f"the Prefect server is not up after 120 s; see {server.log}")
            await asyncio.sleep(0.1)

    def _write(self) -> None:
        pids = {c.name: c.process.pid for c in self._children if c.process}
        write_up(Up(pid=os.getpid(), url=self.url, children=pids, gateway=url_of(self._gateway)))

    def _clear_way(self) -> None:
        """One `up` per home; the children of one that was killed are stopped first."""
        old = read_up()
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (home() / "up.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._lock.close()
            self._lock = None
            where = f" at {old.url.removesuffix('/api')} (pid {old.pid})" if old else ""
            raise Permanent(
                f"`runbooks up` already serves this home{where}; stop it, or set RUNBOOKS_HOME "
                "to another folder"
            ) from e
        if old is None:
            return
        for name, pid in old.children.items():
            if _is_ours(pid, ("prefect", "deployments.")):
                self._say(f"stopping the {name} of an earlier `runbooks up` that was killed")
                os.kill(pid, signal.SIGTERM)
                _await_end(pid)
        up_file().unlink(missing_ok=True)


def _is_ours(pid: int, words: tuple[str, ...]) -> bool:
    """Whether `pid` lives and runs what it should: pids are reused."""
    ps = shutil.which("ps") or "/bin/ps"
    got = subprocess.run([ps, "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return got.returncode == 0 and any(w in got.stdout for w in words)


def _await_end(pid: int) -> None:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    _kill_group(pid)


async def serve(platform: Platform, ready: Callable[[], None]) -> None:
    """Run until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(platform.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            ready()
            await stopping
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await platform.stop()
