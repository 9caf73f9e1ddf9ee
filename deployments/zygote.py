"""A process that has imported Prefect and every flow, and forks one child per run.

`python -P -m deployments.zygote SOCKET`, started by `runbooks up`. `deployments.launch`, which the
worker starts for each run, asks it for a child and stands for that child towards Prefect. The
child is `python -m prefect.engine` in every respect but the imports: it takes the launcher's
standard streams, folder, umask and environment, reads Prefect's settings and logging anew, and
runs that module. Prefect's worker polls, owns and supervises the run as before.

What keeps a fork safe: one thread, no event loop, no open connection before it (`preload`
refuses to serve otherwise). What keeps it honest: a request is refused when the code on disk
differs from what was imported, or when interpreter, checkout or Python's own variables differ;
and a child whose Prefect settings change what decorators had read at import becomes a fresh
interpreter. What a long life gathers ends with it: after `RUNBOOKS_ZYGOTE_RUNS` runs (200) it
ends as soon as it has none, and is started again; a run that comes meanwhile starts without it.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deployments.launch import PROTOCOL, root
from deployments.sockets import SUN_PATH as SUN_PATH
from deployments.sockets import private_folder
from deployments.sockets import socket_path as socket_path
from deployments.zygote_imports import Stamp, code_stamp, preload, python_variables
from deployments.zygote_job import Job, Request

RUNS = 200
"""Forks after which a zygote is started anew, unless the environment says otherwise."""


class Zygote:
    """The server: one thread, poll, and fork."""

    def __init__(
        self, path: Path, stamp: Stamp, say: Callable[[str], None], runs: int = RUNS
    ) -> None:
        self.path, self._stamp, self._say, self._left = path, stamp, say, runs
        self._python = python_variables(dict(os.environb))
        self._requests: dict[int, Request] = {}
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._told = self._stopping = False
        self._listener: socket.socket | None = None
        self._inode = 0

    def listen(self) -> None:
        """Open the socket, for this user alone.

        Raises:
            PermissionError: its folder is someone else's, or others may write to it.
        """
        private_folder(self.path)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        try:
            listener.bind(str(self.path))
        finally:
            os.umask(old)
        listener.listen(128)
        listener.setblocking(False)
        self._listener, self._inode = listener, self.path.stat().st_ino

    def serve(self) -> Job | None:
        """Serve until told to stop. Returns a job in each child, and None in the server."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)
        while not (self._stopping and not self._requests):
            poll = select.poll()
            open_ends = (r.connection for r in self._requests.values())
            ends = [self._wake, *(c for c in open_ends if c.fileno() >= 0)]
            if self._listener:
                ends.append(self._listener)
            for end in ends:
                poll.register(end, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self._wake.fileno():
                    with contextlib.suppress(OSError):
                        self._wake.recv(4096)
                elif self._listener and fd == self._listener.fileno():
                    self._accept()
                elif (request := self._requests.get(fd)) and (job := self._read(request)):
                    return job
            self._reap()
            if self._left <= 0 and not self._requests and not self._stopping:
                self._say("enough runs: ending, to be started again")
                self._stopping = True
            if self._told:
                self._stop_children()
            if self._stopping:
                self._close_listener()
        return None

    def _tell(self, *_: object) -> None:
        self._told = True

    def _stop_children(self) -> None:
        """Told to stop: the children end first, and each launcher reports its own to Prefect."""
        self._told, self._stopping = False, True
        for request in list(self._requests.values()):
            if request.pid:
                request.terminated = True
                os.kill(request.pid, signal.SIGTERM)
            else:
                self._drop(request)

    def _close_listener(self) -> None:
        if not self._listener:
            return
        self._listener.close()
        self._listener = None
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # a successor may listen there already
                self.path.unlink()

    def _accept(self) -> None:
        assert self._listener  # noqa: S101 - it was ready
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._requests[connection.fileno()] = Request(connection)

    def _read(self, request: Request) -> Job | None:
        try:
            got, fds, _, _ = socket.recv_fds(request.connection, 65536, 4)
        except BlockingIOError:
            return None
        except OSError:
            got, fds = b"", []
        request.fds += fds
        for fd in fds:
            os.set_inheritable(fd, False)
        if request.pid:
            self._launcher_says(request, got)
            return None
        request.body += got
        if not got or request.too_large() or len(request.fds) > 4:
            self._drop(request)
        elif request.complete():
            return self._begin(request)
        return None

    def _launcher_says(self, request: Request, got: bytes) -> None:
        """Signals to pass on, one byte each; or the launcher died."""
        for number in got or [signal.SIGKILL if request.terminated else signal.SIGTERM]:
            request.terminated |= number == signal.SIGTERM
            os.kill(request.pid, number)  # ours until we reap it, so the pid is not another's
        if not got:
            # Keep the child, forget the connection: a closed one would be ready for ever.
            del self._requests[request.connection.fileno()]
            request.connection.close()
            self._requests[-request.pid] = request

    def _begin(self, request: Request) -> Job | None:
        if why := self._refusal(request):
            with contextlib.suppress(OSError):
                request.connection.send(f"R{why}\n".encode())
            self._drop(request)
            return None
        job = Job.parse(request.body, request.fds)
        sys.stdout.flush()
        sys.stderr.flush()
        with held_signals():
            pid = os.fork()
            if pid == 0:
                self._leave(request)
                return job
        request.pid, request.body = pid, b""
        request.close_fds()
        self._left -= 1
        return None

    def _refusal(self, request: Request) -> str:
        """Why the child would not be what the launcher asks for; empty when it would."""
        fields = request.body[4:].split(b"\0")
        if fields[0] != PROTOCOL or len(fields) < 5 or len(request.fds) != 4:
            return "the zygote speaks another version"
        if fields[1] != os.fsencode(sys.executable) or fields[2] != os.fsencode(root()):
            return "the zygote runs another installation"
        env = dict(v.split(b"=", 1) for v in fields[5:])
        if python_variables(env) != self._python:
            return "Python's own variables differ from the zygote's"
        if self._stopping:
            return "the zygote is stopping"
        if code_stamp() != self._stamp:
            self._say("the code on disk has changed: ending, to be started again with it")
            self._stopping = True
            return "the code on disk is newer than the zygote's"
        return ""

    def _leave(self, own: Request) -> None:
        """In a child: give up everything of the server's and of the other launchers'."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self._wake, self._woken, self._listener):
            if end:
                end.close()
        for request in self._requests.values():
            request.connection.close()
            if request is not own:
                request.close_fds()
        self._requests.clear()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for request in list(self._requests.values()):
                if request.pid == pid:
                    with contextlib.suppress(OSError):
                        request.connection.send(b"X%d\n" % status)
                    self._drop(request)

    def _drop(self, request: Request) -> None:
        self._requests = {k: r for k, r in self._requests.items() if r is not request}
        request.close_fds()
        request.connection.close()


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Hold signals back around a fork, so that a child never answers with our handlers."""
    held = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def runs_of(env: Mapping[str, str]) -> int:
    """How many runs one zygote forks, by `RUNBOOKS_ZYGOTE_RUNS`.

    Raises:
        SystemExit: that is no whole number from 1 on.
    """
    said = env.get("RUNBOOKS_ZYGOTE_RUNS") or str(RUNS)
    if not (said.isascii() and said.isdigit() and int(said)):
        raise SystemExit(f"RUNBOOKS_ZYGOTE_RUNS={said[:40]!r} is no number of runs; such as {RUNS}")
    return int(said)


def memory_mb() -> float:
    """Resident memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main(argv: list[str]) -> None:
    """Serve on the socket that is named; in a child, run the engine."""

    def say(words: str) -> None:
        print(f"zygote {os.getpid()}: {words}", flush=True)

    if len(argv) != 1:
        raise SystemExit("usage: python -m deployments.zygote SOCKET")
    runs = runs_of(os.environ)
    began = time.monotonic()
    stamp = code_stamp()  # before the imports: an edit during them counts
    preload()
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, every shared page
    zygote = Zygote(Path(argv[0]), stamp, say, runs)
    zygote.listen()
    say(f"ready after {time.monotonic() - began:.1f} s, {memory_mb():.0f} MB, on {zygote.path}")
    job = zygote.serve()
    if job is None:
        say("stopped")
        return
    del zygote
    job.run()


if __name__ == "__main__":
    main(sys.argv[1:])
