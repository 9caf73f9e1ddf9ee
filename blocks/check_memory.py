"""The memory of the last check of a stack: one small file per stack on the host that checks."""

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from blocks.errors import Permanent
from blocks.journal import home, write_atomically
from blocks.models import Frozen, ServingConfig


class Remembered(Frozen):
    """One service as an earlier check saw it."""

    at: datetime
    """When its state was last read."""
    instance: str = ""
    restarts: int = 0
    started_at: datetime | None = None
    """None: its state was never read."""
    config: ServingConfig | None = None


class CheckMemory(Frozen):
    """What the last check of a stack saw."""

    at: datetime
    services: dict[str, Remembered] = {}


def _path(stack: str) -> Path:
    return home() / "checks" / f"{stack}.json"


def load_memory(stack: str) -> CheckMemory | None:
    """The last check's memory; None when there was no check on this host.

    Raises:
        Permanent: the file is there and cannot be read.
    """
    path = _path(stack)
    try:
        return CheckMemory.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as e:
        raise Permanent(
            f"the memory of the last check, {path}, cannot be read ({type(e).__name__}); "
            "remove it: the next check starts anew"
        ) from None


def save_memory(stack: str, memory: CheckMemory) -> None:
    """Replace the memory; a crash leaves the old one or the new one.

    Raises:
        Permanent: the file cannot be written.
    """
    try:
        write_atomically(_path(stack), memory.model_dump_json())
    except OSError as e:
        raise Permanent(f"{_path(stack)} cannot be written: {e.strerror}") from None
