"""What an export leaves beside the trail: that it was verified, and that only one runs."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from blocks.errors import Permanent
from blocks.journal import home, write_atomically
from blocks.models import Frozen


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
    return (folder or home() / "audit") / "export.json"
