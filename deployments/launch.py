"""The process that a worker starts for a run: a run forked by the zygote, or a fresh interpreter.

A fresh interpreter spends seconds on `import prefect`. Where `RUNBOOKS_ZYGOTE` names the socket
of `deployments.zygote`, this program asks it for a child that has the imports behind it, lends
it its own stdin, stdout and stderr, passes signals on, and ends as the child ends: Prefect
supervises this process as if it were the run. In every other case (no zygote, other code, no
answer) it becomes `python -m prefect.engine`, which is what a worker starts by itself.

Who dies when:

- the run: this process ends with its exit code, or by the same signal.
- this process, by kill -9: the zygote sends the run SIGTERM, so that it undoes its act; if
  SIGTERM had been passed on before, Prefect's patience is over, and the run is killed.
- the zygote: the run goes on; its end and its signals then pass between the two directly.
- the zygote before the run began: the run is started here. It begins only when this process
  says so (`GO`), so no run is ever started twice.

Standard library only, and run as `python -I -S launch.py`: it must start in milliseconds.
"""

import os
import select
import signal
import socket
import stat
import struct
import sys
import time

PATIENCE_S = 10.0
"""How long the zygote may take to fork: then it hangs, and the run starts without it."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PROTOCOL = b"1"
GO = b"G"
ENGINE = ("-m", "prefect.engine")


class NoZygote(Exception):
    """The run must be started here."""


def root() -> str:
    """The folder that holds the packages this file belongs to."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def request() -> bytes:
    """What the child needs to be this process: interpreter, code, folder, umask, environment."""
    umask = os.umask(0o077)
    os.umask(umask)
    fields = [PROTOCOL, os.fsencode(sys.executable), os.fsencode(root()), os.fsencode(os.getcwd())]
    fields.append(str(umask).encode())
    fields += [key + b"=" + value for key, value in os.environb.items()]
    body = b"\0".join(fields)
    return struct.pack("!I", len(body)) + body


def connect(path: str) -> socket.socket:
    """A connection to the zygote, if it is ours: the request carries this environment.

    Raises:
        NoZygote: it is missing, does not answer, or its socket belongs to someone else.
    """
    zygote = socket.socket(socket.AF_UNIX)
    try:
        at = os.lstat(path)
        if at.st_uid != os.getuid() or not stat.S_ISSOCK(at.st_mode):
            raise NoZygote(f"{path} is not ours")
        zygote.settimeout(PATIENCE_S)
        zygote.connect(path)
        if hasattr(socket, "SO_PEERCRED"):
            who = zygote.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", who)[1] != os.getuid():
                raise NoZygote(f"{path} is served by another user")
    except OSError as error:
        zygote.close()
        raise NoZygote(f"{path}: {error}") from error
    except NoZygote:
        zygote.close()
        raise
    return zygote


class Supervised:
    """One run that the zygote forked, seen from the process that stands for it."""

    def __init__(self, zygote: socket.socket) -> None:
        self.zygote: socket.socket | None = zygote
        self.line, self._theirs = socket.socketpair()
        """To the run itself: it ends when the run does, whoever forked it."""
        self.wake, self._woken = socket.socketpair()
        self.signals: list[int] = []
        self.pid = 0
        self.code: int | None = None
        """The exit code by the run's own word: the only one when the zygote has died."""
        self._presumed = int(signal.SIGKILL)
        self._heard = b""
        self._line_open = True

    def begin(self) -> None:
        """Ask for the run, and pass signals on from now on.

        Raises:
            NoZygote: the zygote closed the connection.
        """
        for end in (self.wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: self.signals.append(number))
        assert self.zygote  # noqa: S101 - set by the constructor
        try:
            body = request()
            socket.send_fds(self.zygote, [body[:4]], [0, 1, 2, self._theirs.fileno()])
            self.zygote.sendall(body[4:])
        except OSError as error:
            raise NoZygote(str(error)) from error
        finally:
            self._theirs.close()

    def wait(self) -> int:
        """Wait for the run's end; returns the status that `os.wait` would.

        Raises:
            NoZygote: it never began, and cannot begin any more.
        """
        deadline: float | None = time.monotonic() + PATIENCE_S
        while True:
            self._pass_on()
            if not self._line_open and self.zygote is None:
                return self._last_word()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                if self.pid:
                    return self._last_word()
                raise NoZygote(f"the zygote did not fork within {PATIENCE_S:g} s")
            ends = [self.wake]
            if self._line_open:
                ends.append(self.line)
            if self.zygote:
                ends.append(self.zygote)
            ready = select.select(ends, [], [], left)[0]
            if self.wake in ready:
                _read(self.wake)
            if self.line in ready:
                self._listen()
                # Running: no hurry. Ended: the zygote reaps it at once, unless it hangs.
                deadline = None if self._line_open else time.monotonic() + PATIENCE_S
            if self.zygote in ready:
                status = self._hear()
                if status is not None:
                    return status

    def _listen(self) -> None:
        """Hear the run: `S<pid>` when it could begin, `E<code>` before it ends."""
        word = _read(self.line)
        self._line_open = bool(word)
        for said in word.splitlines():
            if said[:1] == b"S":
                self.line.send(GO)
                self.pid = int(said[1:])
            elif said[:1] == b"E":
                self.code = int(said[1:])

    def _hear(self) -> int | None:
        """Hear the zygote: `X<status>` when the run has ended, `R<why>` when it refuses."""
        assert self.zygote  # noqa: S101 - it was ready
        got = _read(self.zygote)
        self._heard += got
        if self._heard.endswith(b"\n"):
            if self._heard[:1] == b"X":
                status = int(self._heard[1:])
                if self.pid or os.WIFSIGNALED(status):
                    return status
                raise NoZygote("the zygote's child ended before the run began")
            raise NoZygote(self._heard[1:].decode(errors="replace").strip())
        if not got:
            self.zygote.close()
            self.zygote = None
        return None

    def _pass_on(self) -> None:
        """Pass signals on: through the zygote, whose child the run is, or else directly."""
        while self.signals:
            number = self.signals[0]
            if self.zygote:
                try:
                    self.zygote.send(bytes([number]))
                except OSError:
                    self.zygote.close()
                    self.zygote = None
                    continue
            elif self.pid and self._line_open:
                self._presumed = number
                try:
                    os.kill(self.pid, number)
                except ProcessLookupError:
                    pass
            else:
                return
            self.signals.pop(0)

    def _last_word(self) -> int:
        """How a run ended that nobody reaps for us: by its word, else by a signal."""
        if not self.pid:
            raise NoZygote("the zygote died before the run began")
        return self._presumed if self.code is None else self.code << 8

    def abandon(self) -> None:
        """Take the permission to begin back, and heed the signals that came meanwhile."""
        signal.set_wakeup_fd(-1)
        for end in (self.line, self.wake, self._woken):
            end.close()
        if self.zygote:
            self.zygote.close()
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        for came in self.signals:
            os.kill(os.getpid(), came)


def _read(end: socket.socket) -> bytes:
    try:
        return end.recv(4096)
    except OSError:
        return b""


def end_as(status: int) -> None:
    """End this process the way a child with this wait status ended."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the run left its own, if any
    except (ImportError, OSError, ValueError):
        pass
    os.kill(os.getpid(), -code)
    os._exit(128 - code)


def main() -> None:
    """Run one flow run; never returns."""
    path = os.environ.get("RUNBOOKS_ZYGOTE", "")
    try:
        if not path:
            raise NoZygote("no zygote on this machine")
        run = Supervised(connect(path))
        try:
            run.begin()
            end_as(run.wait())
        except BaseException:
            run.abandon()
            raise
    except NoZygote as why:
        if path:
            print(f"runbooks: a fresh interpreter for this run: {why}", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, *ENGINE])  # noqa: S606 - becomes the engine


if __name__ == "__main__":
    main()
