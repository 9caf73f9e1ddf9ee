"""What `runbooks doctor` looks at on this machine: the product's home and its journals."""

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from blocks.errors import RunbookError
from blocks.journal import Journal, degraded_services, home, unfinished
from deployments.doctor_line import Line

LOW_GIB = 1.0
"""Below this a journal, a backup or Prefect's database may soon not be written."""


async def home_lines() -> list[Line]:
    """Whether the product's home can be written, and has room."""
    return await asyncio.to_thread(_home)


def _home() -> list[Line]:
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as f:
            f.write(b"x")
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        fix = f"make {folder} writable for this user, or export RUNBOOKS_HOME=FOLDER"
        return [_line("home", "fail", f"{folder} cannot be written: {e.strerror}", fix)]
    free = shutil.disk_usage(folder).free / 2**30
    if free < LOW_GIB:
        fix = f"make room on the disk of {folder}"
        return [_line("home", "fail", f"only {free:.2f} GiB are free at {folder}", fix)]
    return [_line("home", "ok", f"{folder} can be written, {free:.0f} GiB free")]


async def journal_lines(stack: str) -> list[Line]:
    """Changes of this stack's services that were cut short, and services stepped down, here."""
    return await asyncio.to_thread(_journals, stack)


def _journals(stack: str) -> list[Line]:
    lines = [_cut_short(of, name) for of, name in unfinished() if of == stack]
    for of, name in degraded_services():
        if of == stack:
            fix = f"when there is room: runbooks run restore-context --stack {of} --service {name}"
            try:
                mark = Journal(of, name).degraded()
            except RunbookError as e:
                lines.append(_line(name, "fail", str(e), "settle the file by hand"))
                continue
            if mark:
                said = f"degraded since {mark.since:%Y-%m-%d %H:%M} UTC by {mark.procedure}"
                lines.append(_line(name, "warn", said, fix))
    return lines or [_line("journal", "ok", "no change was cut short, no service is degraded")]


def _cut_short(stack: str, name: str) -> Line:
    journal = Journal(stack, name)
    if _is_held(journal.folder / "lock"):
        return _line(name, "ok", "a change is under way on this host")
    try:
        entry = journal.entry()
    except RunbookError as e:
        return _line(name, "fail", str(e), "compare it with the service, then move it away")
    if entry is None:
        return _line(name, "ok", "a change ended this moment")
    # Whatever holds the service undoes or finishes the entry first.
    fix = (
        "the next run on it reconciles it first: runbooks run remediate-oom "
        f"--stack {stack} --service {name} --yes"
    )
    said = f"{entry.procedure} of {entry.at:%Y-%m-%d %H:%M} UTC was cut short ({entry.phase})"
    return _line(name, "fail", said, fix)


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("a") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _line(subject: str, status: str, message: str, fix: str = "") -> Line:
    return Line.model_validate(
        {
            "area": "machine",
            "subject": subject,
            "status": status,
            "message": message,
            "fix": fix,
        }
    )
