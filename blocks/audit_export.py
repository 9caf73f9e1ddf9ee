"""What an export leaves beside the trail: that it was verified, and that only one runs."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blocks.audit_chain import GENESIS, HEAD, Broken, Verified, read_bytes, read_head
from blocks.audit_log import AuditLog, Snapshot
from blocks.errors import Permanent
from blocks.journal import home, write_atomically
from blocks.models import Frozen

EXPORTED = "export.json"


class Exported(Frozen):
    """The last export after which the whole chain was verified, and every copy made."""

    at: datetime
    """When it began: what ended later may not be in it."""
    run_id: str
    seq: int
    hash: str
    copies: tuple[str, ...] = ()
    """Buckets with prefix."""


def read_exported(folder: Path | None = None) -> Exported | None:
    """The last verified export of this machine; None without one, or when it cannot be read."""
    try:
        return Exported.model_validate_json(_path(folder).read_bytes())
    except (OSError, ValidationError):
        return None


def save_exported(exported: Exported, folder: Path | None = None) -> None:
    """Remember a verified export."""
    write_atomically(_path(folder), exported.model_dump_json(indent=1))


def prove(
    log: AuditLog, each: Callable[[dict[str, Any]], None] | None = None
) -> tuple[Snapshot, Verified]:
    """Walk along the whole chain as it is now: it also has the record that the last export proved.

    A trail that was removed, or written anew, has a chain of its own that is whole.

    Args:
        log: the trail; a copy of one too.
        each: called with every record that fits.
    """
    made = read_exported(log.folder)  # first: an export at this moment only adds
    there = [GENESIS] if made and not made.seq else []

    def also(record: dict[str, Any]) -> None:
        if made and record["seq"] == made.seq:
            there.append(record["hash"])
        if each:
            each(record)

    shot = log.snapshot()
    found = log.verify(also, shot)
    if made and not found.first_broken and made.hash not in there:
        found = found.model_copy(update={"first_broken": _gone(made, bool(there))})
    return shot, found


def lost(log: AuditLog) -> str:
    """Why the end of the trail is before what the last export proved; empty when it is not."""
    made = read_exported(log.folder)
    data = read_bytes(log.folder / HEAD)
    head = read_head(data) if data else None
    return str(_gone(made, False)) if made and (head.seq if head else 0) < made.seq else ""


def _gone(made: Exported, other: bool) -> Broken:
    what = "is another one now" if other else "is gone"
    why = (
        f"names record {made.seq} ({made.hash[:12]}), proved {made.at:%Y-%m-%d %H:%M} UTC, and it "
        f"{what}: the trail was removed, or written anew"
    )
    return Broken(file=EXPORTED, line=1, why=why)


@contextlib.contextmanager
def exporting(folder: Path | None = None) -> Iterator[bool]:
    """Whether this is the only export of this machine; a kill gives it free.

    Raises:
        Permanent: the folder cannot be written.
    """
    path = _path(folder).with_name("export.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise Permanent(f"{path} cannot be written: {e.strerror}; give access") from e
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(handle)


def _path(folder: Path | None) -> Path:
    return (folder or home() / "audit") / EXPORTED
