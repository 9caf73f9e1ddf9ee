"""What a status command printed, as a `ServiceState`. Pure; nothing raises.

What cannot be understood is phase `unknown`: neither green nor a reason to act.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

from blocks.errors import Permanent, Transient
from blocks.models import Phase, ServiceState
from blocks.service import StatusFormat


def read_status(status_format: StatusFormat, code: int, out: bytes, err: bytes) -> ServiceState:
    """The state behind exit status `code` and the output of a status command.

    Formats:
        systemd: `KEY=value` lines of `systemctl show`.
        docker-state: JSON of a container's whole inspection (`{{json .}}`). Of `{{json .State}}`
            alone neither its image nor how often it restarted can be told.
        json: {phase | running, exit_code, oom_killed, restarts, started_at, finished_at, pid,
            detail}, times in ISO 8601.
        exit-code: 0 running, 3 stopped, 4 no such service (the LSB's numbers).
    """
    if status_format == "exit-code":
        return _from_code(code, _text(err) or _text(out))
    text = _text(out)
    # A status command may speak the LSB code (3: stopped, 4: unknown unit) beside its words.
    if code != 0 and not (status_format in ("json", "systemd") and code in (3, 4) and text):
        # An inspection holds the container's environment: it is never quoted.
        said = _text(err) or ("" if text[:1] in ("{", "[") else text)
        if status_format == "docker-state" and re.search(r"no such (object|container)", said, re.I):
            return ServiceState(phase="missing", restarts_known=False, detail="no such container")
        return _unknown(f"the status command exited {code}: {_last_line(said)}")
    try:
        state = _READERS[status_format](text)
    except (ValueError, TypeError, AttributeError) as e:  # pydantic's errors are ValueErrors
        return _unknown(f"the status command's output is no {status_format}: {type(e).__name__}")
    if code != 0 and state.phase in ("running", "starting"):
        return _unknown(f"the status command exited {code} and yet says {state.phase}")
    return state


INSPECT = "docker inspect --format '{{json .}}'"


def image_in(state: ServiceState, status_format: StatusFormat) -> str:
    """The image that a status command told; empty where what it starts is no container.

    Raises:
        Permanent: there is no container, or the command prints only a part of its inspection.
        Transient: the state could not be read.
    """
    if state.image or status_format != "docker-state":
        return state.image
    if state.phase == "missing":
        raise Permanent(state.detail or "no such container")
    if state.phase == "unknown":
        raise Transient(f"its status tells nothing: {state.detail}")
    raise Permanent(f"its status tells no image; write status: {INSPECT}")


def process_in(state: ServiceState, status_format: StatusFormat) -> str:
    """What tells two processes of a service apart; empty where the status does not.

    A container keeps its id through `docker restart`: its latest start is told with it.
    """
    if status_format != "docker-state" or not state.instance or state.started_at is None:
        return state.instance
    return f"{state.instance} {state.started_at.isoformat()}"


def _unknown(detail: str) -> ServiceState:
    return ServiceState(phase="unknown", restarts_known=False, detail=detail)


def _text(data: bytes) -> str:
    # Windows PowerShell 5 writes UTF-16 or a byte order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace").strip()


def _last_line(text: str) -> str:
    return (text.splitlines() or ["no output"])[-1][:200]


def _from_code(code: int, said: str) -> ServiceState:
    phases: dict[int, Phase] = {0: "running", 3: "exited", 4: "missing"}
    if code not in phases:
        return _unknown(f"the status command exited {code}: {_last_line(said)}")
    return ServiceState(phase=phases[code], restarts_known=False, detail=f"status exited {code}")


def _from_systemd(text: str) -> ServiceState:
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    active, sub = pairs.get("ActiveState", ""), pairs.get("SubState", "")
    result = pairs.get("Result", "")
    detail = f"{active} ({sub}), result {result or 'unknown'}"
    if pairs.get("LoadState") == "not-found":
        return ServiceState(phase="missing", restarts_known=False, detail="no such unit")
    phase: Phase = "unknown"
    if not active:
        detail = "no ActiveState line; use systemctl show -p ActiveState,SubState,Result,..."
    elif active in ("active", "reloading", "refreshing") and sub != "exited":
        phase = "running"
    elif active == "active":
        detail += ": a oneshot unit does not tell whether the server runs; use another status"
    elif active == "activating":
        phase = "restarting" if sub.startswith("auto-restart") else "starting"
    elif active in ("inactive", "failed"):
        phase = "exited"
    ended = phase in ("exited", "restarting")
    restarts = _number(pairs.get("NRestarts"))
    pid = _number(pairs.get("MainPID")) or (None if ended else _number(pairs.get("ExecMainPID")))
    return ServiceState(
        phase=phase,
        exit_code=_systemd_code(pairs) if ended else None,
        oom_killed=result == "oom-kill",
        restarts=restarts or 0,
        restarts_known=restarts is not None,
        started_at=_systemd_time(pairs.get("ExecMainStartTimestamp")),
        finished_at=_systemd_time(pairs.get("ExecMainExitTimestamp")) if ended else None,
        instance=str(pid) if pid else "",
        detail=detail,
    )


def _systemd_code(pairs: dict[str, str]) -> int | None:
    """The exit code; of a process killed by signal N 128 + N, as a shell and Docker say it."""
    status, how = _number(pairs.get("ExecMainStatus")), pairs.get("ExecMainCode", "1")
    if how in ("0", ""):  # it was never started
        return None
    killed = how in ("2", "3", "killed", "dumped")
    return status + 128 if killed and status is not None else status


def _systemd_time(text: str | None) -> datetime | None:
    """`@1763681356` or `Fri 2026-11-20 23:29:16 UTC`; another zone only if it is this host's."""
    if match := re.fullmatch(r"@(\d+)(?:\.\d+)?", text or ""):
        return datetime.fromtimestamp(int(match[1]), UTC)
    match = re.fullmatch(
        r"\w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,6})? (\S+)", text or "", re.ASCII
    )
    if not match:
        return None
    naive = datetime.fromisoformat(match[1])
    if match[3] == "UTC":
        return naive.replace(tzinfo=UTC)
    local = naive.astimezone()
    return local if local.tzname() == match[3] else None


def _from_docker(text: str) -> ServiceState:
    data = json.loads(text)
    if isinstance(data, list):
        data = data[0] if data else {}
    state = data.get("State", data)
    status = str(state.get("Status") or ("running" if state.get("Running") else "")).lower()
    phase: Phase = "unknown"
    if state.get("Restarting") or status == "restarting":
        phase = "restarting"
    elif status == "running" and not state.get("Paused"):
        phase = "running"
    elif status in ("exited", "dead", "created", "removing"):
        phase = "exited"
    live = phase == "running"
    restarts = data.get("RestartCount", state.get("RestartCount"))
    return ServiceState(
        phase=phase,
        exit_code=None if live else state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled", False)),
        restarts=restarts or 0,
        restarts_known=restarts is not None,
        started_at=_time(state.get("StartedAt")),
        finished_at=None if live else _time(state.get("FinishedAt")),
        instance=str(data.get("Id") or state.get("Pid") or ""),
        image=str((data.get("Config") or {}).get("Image") or ""),
        detail=" ".join(filter(None, (status or "no Status", str(state.get("Error") or "")[:200]))),
    )


def _from_json(text: str) -> ServiceState:
    data = json.loads(text)
    phase, running = data.get("phase"), data.get("running")
    if phase is None and isinstance(running, bool):
        phase = "running" if running else "exited"
    if phase not in get_args(Phase):
        return _unknown(f"the status has phase {str(phase)[:40]!r}; use {', '.join(_PHASES)}")
    return ServiceState(
        phase=phase,
        exit_code=None if phase == "running" else data.get("exit_code"),
        oom_killed=data.get("oom_killed") or False,
        restarts=data.get("restarts") or 0,
        restarts_known=data.get("restarts") is not None,
        started_at=_time(data.get("started_at")),
        finished_at=_time(data.get("finished_at")),
        instance=str(data.get("pid") or ""),
        detail=str(data.get("detail") or "")[:500],
    )


def _time(text: Any) -> datetime | None:
    """An ISO time, aware; None for nothing, for Docker's year 1 and for one without a zone."""
    if not isinstance(text, str) or text.startswith("0001-"):
        return None
    # Docker writes nanoseconds; datetime holds microseconds.
    when = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    return when if when.tzinfo else None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d+", text) else None


_PHASES: tuple[str, ...] = get_args(Phase)
_READERS: dict[str, Callable[[str], ServiceState]] = {
    "systemd": _from_systemd,
    "docker-state": _from_docker,
    "json": _from_json,
}
