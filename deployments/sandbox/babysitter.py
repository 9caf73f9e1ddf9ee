"""The process that waits for one service's child, records its end and restarts it.

Standard library only. It is the only writer of `state.json` while it lives, so that an exit
code is known long after the command that started the service has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from deployments.sandbox.processes import birth, now, read_env_file, write_json

if TYPE_CHECKING:
    from deployments.sandbox.supervisor import Service

_BACKOFF_S = 0.1
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
"""What a service inherits: as under systemd, nothing of the caller's own configuration."""


def babysit(service: Service, pipe: int) -> None:
    """Run the child, record its end, restart it if the policy says so. Never returns."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    kept = os.dup2(pipe, 3)
    os.closerange(4, 1024)  # the lock, and pipes of whoever called: they must see EOF
    me = {"sitter": os.getpid(), "sitter_born": birth(os.getpid())}
    restarts = 0
    try:
        spec = service.spec
        policy, _, most = str(spec.get("restart", "no")).partition(":")
        attempts = int(most or 3) if policy == "on-failure" else 0
        while True:
            service.dir.joinpath("oom_killed").unlink(missing_ok=True)
            pid = _spawn(service, spec)
            state = {
                **me,
                "phase": "running",
                "pid": pid,
                "born": birth(pid),
                "started_at": now(),
                "restarts": restarts,
            }
            write_json(service.dir / "state.json", state)
            if kept:
                os.write(kept, b"ok")
                os.close(kept)
                kept = 0
            code = _wait(pid)
            again = code != 0 and restarts < attempts and not (service.dir / "stopping").exists()
            state |= {
                "phase": "restarting" if again else "exited",
                "exit_code": code,
                "finished_at": now(),
                "oom_killed": code == 137 and (service.dir / "oom_killed").exists(),
            }
            write_json(service.dir / "state.json", state)
            until = time.monotonic() + min(_BACKOFF_S * 2**restarts, 5.0)
            while again and time.monotonic() < until and not (service.dir / "stopping").exists():
                time.sleep(0.02)
            if not again or (service.dir / "stopping").exists():
                write_json(service.dir / "state.json", {**state, "phase": "exited"})
                os._exit(0)
            restarts += 1
    except Exception as e:  # nobody else could report it
        if kept:
            os.write(kept, f"{type(e).__name__}: {e}".encode())
        os._exit(1)


def _spawn(service: Service, spec: dict[str, Any]) -> int:
    argv = [str(a) for a in spec["argv"]]
    env = {k: os.environ[k] for k in _KEPT if k in os.environ}
    env["SANDBOX_FAULTS_FILE"] = str(service.dir / "faults.json")
    env["SANDBOX_OOM_MARKER"] = str(service.dir / "oom_killed")
    if spec.get("env_file"):
        env |= read_env_file(spec["env_file"])
    env |= {k: str(v) for k, v in spec.get("env", {}).items()}
    log = service.rotate()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(spec.get("cwd") or service.dir)
            os.closerange(3, 64)
            os.execvpe(argv[0], argv, env)  # noqa: S606 - an argv list, never a shell
        except OSError as e:
            os.write(2, f"{argv[0]}: {e}\n".encode())
        finally:
            os._exit(127)
    os.close(log)
    return pid


def _wait(pid: int) -> int:
    """The child's exit code, 128+n for a signal; what is left of its group is killed."""
    if hasattr(os, "waitid"):  # before it is reaped, its group cannot be someone else's
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code
