"""One run in the zygote: the launcher's request, and what the forked child makes of it."""

import contextlib
import logging
import os
import random
import runpy
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from deployments.launch import ENGINE, GO

MAX_REQUEST = 8 << 20
AT_RUN = {"heartbeat_frequency"}
"""Settings in those groups that the engine reads when it runs."""


@dataclass
class Request:
    """One launcher's connection, and the child that was forked for it."""

    connection: socket.socket
    body: bytes = b""
    fds: list[int] = field(default_factory=list)
    pid: int = 0
    terminated: bool = False
    """Whether SIGTERM was passed on: after it, the launcher's death means kill."""

    def complete(self) -> bool:
        """Whether the whole request has been read."""
        return len(self.body) >= 4 and len(self.body) - 4 >= self._size()

    def too_large(self) -> bool:
        """Whether it announces more than any environment holds."""
        return len(self.body) >= 4 and self._size() > MAX_REQUEST

    def _size(self) -> int:
        return int(struct.unpack("!I", self.body[:4])[0])

    def close_fds(self) -> None:
        """Close the streams that came with it."""
        while self.fds:
            os.close(self.fds.pop())


@dataclass(frozen=True)
class Job:
    """A child's part: everything of the launcher's that it takes over."""

    cwd: bytes
    umask: int
    env: dict[bytes, bytes]
    streams: tuple[int, int, int]
    line: int

    @classmethod
    def parse(cls, body: bytes, fds: list[int]) -> "Job":
        """Read a request's body: protocol, executable, root, cwd, umask, then variables."""
        _, _, _, cwd, umask, *variables = body[4:].split(b"\0")
        env = dict(v.split(b"=", 1) for v in variables)
        return cls(cwd, int(umask), env, (fds[0], fds[1], fds[2]), fds[3])

    def take_over(self) -> None:
        """Become the launcher's process in streams, folder, umask and environment."""
        for target, fd in enumerate(self.streams):
            os.dup2(fd, target)
        for fd in self.streams:
            if fd > 2:
                os.close(fd)
        os.set_inheritable(self.line, False)
        os.chdir(self.cwd)
        os.umask(self.umask)
        os.environb.clear()
        os.environb.update(self.env)
        time.tzset()
        random.seed()
        sys.argv = [""]  # run_module names it
        here = 0 if sys.flags.safe_path else 1  # as `python -m`: the folder comes first
        sys.path[:here] = [os.fsdecode(self.cwd)]

    def ask(self) -> bool:
        """Ask the launcher whether to begin: it may have given up, and started the run itself."""
        with socket.socket(fileno=os.dup(self.line)) as line:
            line.send(b"S%d\n" % os.getpid())
            return line.recv(1) == GO

    def run(self) -> None:
        """Run the engine to its end, as the main module.

        Raises:
            SystemExit: always, with the engine's own code, unless it raises something else.
        """
        self.take_over()
        if not self.ask():
            os._exit(0)
        try:
            current = settings_anew()
        except Exception:  # a Prefect that moved its internals costs time, never a run
            current = False
        if not current:
            os.set_inheritable(self.line, True)  # its end is how the launcher knows of the run's
            os.execv(sys.executable, [sys.executable, *ENGINE])  # noqa: S606 - same run, fresh
        code: object = 1
        try:
            runpy.run_module(ENGINE[1], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
            raise
        finally:
            with contextlib.suppress(OSError):
                os.write(self.line, b"E%d\n" % (code if isinstance(code, int) else 1))
        raise SystemExit(0)


def settings_anew() -> bool:
    """Read Prefect's settings and logging from the environment again.

    Returns False where that is not enough: decorators read some settings at import.
    """
    import prefect.context
    from prefect.logging import configuration
    from prefect.settings import get_current_settings

    old = get_current_settings()
    prefect.context.refresh_global_settings_context()
    new = get_current_settings()
    for group in ("tasks", "results", "flows", "experiments"):
        then, now = (getattr(s, group).model_dump(exclude=AT_RUN) for s in (old, new))
        if then != now:
            return False
    if old.logging != new.logging:
        for name in old.logging.extra_loggers or ():
            logging.getLogger(name).handlers.clear()
        configuration.PROCESS_LOGGING_CONFIG.clear()
        configuration.setup_logging()
    return True
