"""A local stand-in for systemd: it starts, watches and stops the sandbox's services.

`python -m deployments.sandbox.supervisor --dir DIR (start|stop|restart|status|logs|fault) NAME`

`DIR/NAME/service.json` says what to run; `state.json` what became of it. Each service has a
babysitter, a detached process that waits for the child, records its exit code and restarts it
if the policy says so. It alone writes `state.json` while it lives; commands only read it, under
`flock` where they change anything. Only the standard library is imported: a call must be quick.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.sandbox.babysitter import babysit
from deployments.sandbox.processes import alive, now, write_json

RUNNING, STOPPED, UNKNOWN = 0, 3, 4
"""Exit codes of `status`, as LSB has them."""
STOP_S = 10.0
KEEP_LOGS = 9
_POLL_S = 0.004


class UnknownService(LookupError):
    """No such service.json."""


class Service:
    """One directory with a service.json."""

    def __init__(self, directory: str | Path, name: str) -> None:
        self.dir = Path(directory) / name
        self.name = name
        if "/" in name or name in ("", ".", "..") or not (self.dir / "service.json").is_file():
            raise UnknownService(f"unknown service {name!r} in {directory}")

    def _path(self, file: str) -> Path:
        return self.dir / file

    @property
    def spec(self) -> dict[str, Any]:
        """argv, and optionally env, cwd, port, restart (`no` or `on-failure:N`), stop_s."""
        data: dict[str, Any] = json.loads(self._path("service.json").read_text(encoding="utf-8"))
        return data

    @property
    def state(self) -> dict[str, Any]:
        """What was last written; empty before the first start."""
        with contextlib.suppress(OSError, ValueError):
            data: dict[str, Any] = json.loads(self._path("state.json").read_text(encoding="utf-8"))
            return data
        return {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time."""
        import fcntl

        fd = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def status(self) -> dict[str, Any]:
        """The state now, checked against the process table."""
        s = self.state
        running = alive(s.get("pid"), s.get("born", ""))
        sitting = alive(s.get("sitter"), s.get("sitter_born", ""))
        if s.get("phase") == "exited" or running or not sitting:
            phase = "running" if running else "exited"
        else:
            phase = "restarting"
        detail = ""
        if s and not sitting and s.get("phase") != "exited":
            detail = (
                "unsupervised: the babysitter is gone"
                if running
                else ("the babysitter was gone: exit code unknown")
            )
        keys = ("exit_code", "started_at", "finished_at")
        return {
            "running": running,
            "phase": phase,
            **{k: None if running and k != "started_at" else s.get(k) for k in keys},
            "oom_killed": not running and bool(s.get("oom_killed")),
            "restarts": s.get("restarts", 0),
            "pid": s.get("pid") if running else None,
            "port": self.spec.get("port"),
            "detail": detail,
        }

    def start(self) -> None:
        """Start unless it runs. Raises OSError when it cannot be executed."""
        with self.locked():
            self._start()

    def stop(self) -> None:
        """SIGTERM to the group, SIGKILL after `stop_s`; nothing to do when it does not run."""
        with self.locked():
            self._stop()

    def restart(self) -> None:
        """Stop and start, with nobody in between."""
        with self.locked():
            self._stop()
            self._start()

    def _start(self) -> None:
        if self.status()["phase"] != "exited":
            return
        self._path("stopping").unlink(missing_ok=True)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                os.setsid()
                if os.fork() == 0:
                    babysit(self, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        os.waitpid(pid, 0)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        if said != "ok":
            raise OSError(said or "the babysitter died at once")

    def _stop(self) -> None:
        self._path("stopping").touch()
        limit = float(self.spec.get("stop_s", STOP_S))
        begun = time.monotonic()
        sent: tuple[int, int] | None = None
        while True:
            s = self.state
            pid = int(s.get("pid") or 0)
            running = alive(pid, s.get("born", ""))
            if not running and not alive(s.get("sitter"), s.get("sitter_born", "")):
                break
            late = time.monotonic() - begun > limit
            number = signal.SIGKILL if late else signal.SIGTERM
            if running and (pid, number) != sent:
                with contextlib.suppress(ProcessLookupError):  # its group is not there yet
                    os.killpg(pid, number)
                    sent = (pid, number)
            time.sleep(_POLL_S)
        if s and s.get("phase") != "exited":  # the babysitter was killed: nobody knows the code
            write_json(
                self._path("state.json"),
                {**s, "phase": "exited", "exit_code": None, "finished_at": now()},
            )

    def logs(self) -> list[Path]:
        """Log files, oldest first; the last is the current start's."""
        old = [self._path(f"log.{i}") for i in range(KEEP_LOGS, 0, -1)]
        return [p for p in (*old, self._path("log")) if p.exists()]

    def rotate(self) -> int:
        """Put the old log aside; a descriptor of a new one, in append mode."""
        for i in range(KEEP_LOGS, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._path(f"log.{i - 1}").replace(self._path(f"log.{i}"))
        with contextlib.suppress(FileNotFoundError):
            self._path("log").replace(self._path("log.1"))
        return os.open(self._path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def fault(self, values: dict[str, Any], *, clear: bool = False) -> dict[str, Any]:
        """Change faults.json, which the running stand-in re-reads; None removes a key."""
        path = self._path("faults.json")
        with self.locked():
            faults: dict[str, Any] = {}
            if not clear and path.exists():
                faults = json.loads(path.read_text(encoding="utf-8"))
            faults = {k: v for k, v in {**faults, **values}.items() if v is not None}
            write_json(path, faults)
        return faults


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="supervisor", description="Run the sandbox's services.")
    p.add_argument("--dir", required=True)
    verbs = p.add_subparsers(dest="verb", required=True)
    for verb in ("start", "stop", "restart", "status"):
        verbs.add_parser(verb).add_argument("name")
    logs = verbs.add_parser("logs", help="the current start's log; --all: every kept one")
    logs.add_argument("name")
    logs.add_argument("--all", action="store_true")
    logs.add_argument("--previous", action="store_true", help="the start before this one")
    logs.add_argument(
        "--restarts", action="store_true", help="with the starts that the policy made it replace"
    )
    logs.add_argument("--since", help="only starts that still wrote at this time (epoch, ISO 8601)")
    logs.add_argument("--tail", type=int, default=0)
    fault = verbs.add_parser("fault", help="KEY=VALUE sets, KEY= removes; values are JSON or text")
    fault.add_argument("name")
    fault.add_argument("values", nargs="*", metavar="KEY=VALUE")
    fault.add_argument("--clear", action="store_true")
    return p


def _value(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _print_logs(service: Service, args: argparse.Namespace) -> None:
    files = service.logs()
    if args.previous:
        files = files[-2:-1]
    elif args.restarts:
        files = files[-(int(service.state.get("restarts", 0)) + 1) :]
    elif args.since:
        at = args.since
        since = float(at) if at.replace(".", "", 1).isdecimal() else _epoch(at)
        files = [f for f in files if f.stat().st_mtime >= since]
    elif not args.all:
        files = files[-1:]
    data = b"".join(f.read_bytes() for f in files)
    if args.tail:
        data = b"".join(data.splitlines(keepends=True)[-args.tail :])
    sys.stdout.buffer.write(data)


def _epoch(text: str) -> float:
    from datetime import UTC, datetime  # rarely needed

    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = parser().parse_args(argv)
    try:
        service = Service(args.dir, args.name)
        if args.verb in ("start", "stop", "restart"):
            getattr(service, args.verb)()
        elif args.verb == "logs":
            _print_logs(service, args)
        elif args.verb == "fault":
            pairs = (v.partition("=") for v in args.values)
            print(json.dumps(service.fault({k: _value(v) for k, _, v in pairs}, clear=args.clear)))
        else:
            status = service.status()
            print(json.dumps(status))
            return RUNNING if status["running"] else STOPPED
    except UnknownService as e:
        print(f"supervisor: {e.args[0]}", file=sys.stderr)
        return UNKNOWN
    except (OSError, ValueError, KeyError) as e:
        print(f"supervisor: {args.verb} {args.name}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
