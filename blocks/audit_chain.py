"""The form of the audit trail: one canonical line per record, each bound to the one before.

A record is `{seq, day, at, kind, ..., prev, hash}`. `prev` is the hash of the record before it,
across files; `hash` is the SHA-256 of the record's canonical form without `hash`; `day` is the
file it stands in. Canonical: JSON, keys sorted, no white space, ASCII.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from blocks.errors import Permanent
from blocks.models import Frozen

GENESIS = "0" * 64
"""`prev` of the first record."""
HEAD, PENDING, DAY = "head.json", "pending", "%Y/%m/%d"
MAX_LINE = 1024 * 1024
"""Bytes of a line, its end included."""
OURS = frozenset({"seq", "day", "at", "kind", "prev", "hash"})
_DAY_FILE = re.compile(r"\d{4}/\d{2}/\d{2}\.jsonl")


class Link(NamedTuple):
    """What the next record is bound to."""

    seq: int
    hash: str


START = Link(0, GENESIS)


class Broken(Frozen):
    """The first record that does not fit, and why."""

    file: str
    """Relative to the trail's folder."""
    line: int
    why: str

    def __str__(self) -> str:
        """`2026/11/21.jsonl:3: was changed: ...`."""
        return f"{self.file}:{self.line}: {self.why}"


class Verified(Frozen):
    """What a walk along the whole chain found."""

    records: int
    """That fit."""
    first_broken: Broken | None = None
    seq: int = 0
    hash: str = GENESIS
    """Of the last record that fits."""
    files: int = 0
    torn: bool = False
    """A partial last line: written at this moment, or cut short by a kill; the next append moves
    it aside."""


def canonical(record: Any) -> bytes:
    """The one form of a record that is hashed.

    Raises:
        ValueError, TypeError: what JSON has no form for (NaN, an object).
    """
    text = json.dumps(
        record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of a record without its own hash."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "hash"})).hexdigest()


def sealed(kind: str, record: dict[str, Any], day: str, at: str, after: Link) -> tuple[Link, bytes]:
    """The record as a line of the chain, and what the next one is bound to.

    Raises:
        Permanent: it uses a name of the chain's own, holds what JSON cannot, or is too long.
    """
    if taken := sorted(OURS & record.keys()):
        raise Permanent(f"audit record {kind}: {', '.join(taken)} is the trail's own; rename it")
    try:
        # As it is read back: keys that are numbers become text, and sort as text.
        read = json.loads(json.dumps(record, allow_nan=False))
        own = {"seq": after.seq + 1, "day": day, "at": at, "kind": kind, "prev": after.hash}
        whole = {**read, **own}
    except (ValueError, TypeError, RecursionError) as e:
        raise Permanent(f"audit record {kind} is no JSON ({e}); give text and numbers") from None
    whole["hash"] = digest(whole)
    line = canonical(whole) + b"\n"
    if len(line) > MAX_LINE:
        raise Permanent(f"audit record {kind} has {len(line)} bytes; at most {MAX_LINE} fit")
    return Link(whole["seq"], whole["hash"]), line


def unwritable(kind: str, record: dict[str, Any]) -> str:
    """Why the trail cannot take a record, wherever it would stand; empty when it can."""
    try:
        sealed(
            kind, record, "9999/99/99", f"{datetime.max.isoformat()}+00:00", Link(10**15, GENESIS)
        )
    except Permanent as e:
        return str(e)
    return ""


def parsed(line: bytes) -> tuple[dict[str, Any], str]:
    """A line's record, and what is wrong with it by itself; empty when nothing."""
    if len(line) > MAX_LINE:
        return {}, f"is longer than {MAX_LINE} bytes"
    if not line.endswith(b"\n"):
        return {}, "is cut short: it has no end of line"
    try:
        record = json.loads(line)
        same = isinstance(record, dict) and canonical(record) + b"\n" == line
    except (ValueError, TypeError, RecursionError):
        return {}, "was changed: it is no record any more"
    if not same or not isinstance(record.get("seq"), int):
        return {}, "was changed: it is not as a record is written"
    if record.get("hash") != digest(record):
        return {}, "was changed: its hash is not that of its content"
    return record, ""


def misfit(record: dict[str, Any], after: Link, day: str) -> str:
    """Why a record that is whole does not stand where it belongs; empty when it does."""
    seq = record["seq"]
    if seq > after.seq + 1:
        gone = f"record {after.seq + 1}" + (f" to {seq - 1}" if seq > after.seq + 2 else "")
        return f"is record {seq}: {gone} was removed, or moved, before it"
    if seq <= after.seq:
        return f"is record {seq} again, after record {after.seq}: inserted, or moved"
    if record.get("prev") != after.hash:
        return f"does not follow from record {after.seq}: that one was exchanged, or this one"
    if record.get("day") != day:
        return f"belongs into the file of {record.get('day')}: it was moved"
    return ""


def head_line(link: Link) -> bytes:
    """The head file's content."""
    return canonical({"seq": link.seq, "hash": link.hash}) + b"\n"


def read_head(data: bytes) -> Link | None:
    """The head file; None when it was changed."""
    try:
        found = json.loads(data)
        link = Link(found["seq"], found["hash"])
        return link if head_line(link) == data else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def day_files(folder: Path) -> list[Path]:
    """The files of the chain, the oldest first."""
    found = folder.glob("????/??/??.jsonl")
    return sorted(p for p in found if _DAY_FILE.fullmatch(p.relative_to(folder).as_posix()))


def day_of(path: Path) -> str:
    """`2026/11/21` of its file."""
    return "/".join((*path.parts[-3:-1], path.stem))


def moved_to(folder: Path, name: str) -> Path:
    """Where a torn line is kept: in its place, or still waiting to be noted."""
    final = folder / name
    return final if final.exists() else folder / PENDING / name.replace("/", "-")


def waiting_torn(folder: Path) -> list[Path]:
    """Torn lines that were copied and not noted yet."""
    return sorted((folder / PENDING).glob("[0-9]*.torn-*"))


def lines_of(path: Path, size: int) -> Iterator[bytes]:
    """The lines within the first `size` bytes of a file, none kept longer than it is needed."""
    with path.open("rb") as f:
        while size > 0 and (line := f.readline(min(MAX_LINE + 1, size))):
            size -= len(line)
            yield line


def torn_file_fault(folder: Path, record: dict[str, Any]) -> str:
    """What is wrong with the torn line that a repair record names; empty when nothing."""
    name = str(record.get("moved_to"))
    if record["kind"] != "repair" or "moved_to" not in record:
        return ""
    if not re.fullmatch(r"\d{4}/\d{2}/\d{2}\.jsonl\.torn-\d+", name):
        return f"names {name[:80]!r}, which is no torn line's file"
    try:
        data = moved_to(folder, name).read_bytes()
    except OSError as e:
        return f"names the torn line {name}, which cannot be read: {e.strerror}"
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        return f"names the torn line {name}, which was changed"
    return ""


def read_bytes(path: Path) -> bytes | None:
    """A small file; None when it is not there."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def tail(path: Path) -> tuple[int, bytes]:
    """What stands after the last but one end of line, and where it begins."""
    size, chunk = path.stat().st_size, 4096
    with path.open("rb") as f:
        while True:
            start = max(0, size - chunk)
            f.seek(start)
            data = f.read(size - start)
            cut = data[:-1].rfind(b"\n") + 1
            if cut or not start:
                return start + cut, data[cut:]
            chunk *= 4


def torn_tail(path: Path) -> tuple[int, bytes] | None:
    """A last line without its end, and where it begins; None when there is none."""
    start, data = tail(path)
    return (start, data) if data and not data.endswith(b"\n") else None


def last_line(path: Path) -> bytes:
    """With its end of line; empty for an empty file."""
    return tail(path)[1]
