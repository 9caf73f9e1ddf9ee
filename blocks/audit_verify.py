"""Walking along the audit trail: whether every record is what was written, where it was written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from blocks.audit_chain import (
    HEAD,
    START,
    Broken,
    Link,
    Verified,
    day_of,
    lines_of,
    misfit,
    parsed,
    read_head,
    torn_file_fault,
)


class Snapshot(NamedTuple):
    """The trail at one moment; what is appended later does not change what it names."""

    files: tuple[tuple[Path, int], ...]
    """Each with its size then, bytes."""
    head: bytes | None


class Walk:
    """One walk, a line at a time: its memory does not grow with the trail."""

    def __init__(
        self, folder: Path, shot: Snapshot, each: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self.folder, self.shot, self.each = folder, shot, each
        self.known = read_head(shot.head) if shot.head else None
        self.end, self.torn, self.where, self.line = START, False, HEAD, 0

    def verified(self) -> Verified:
        """What was found, up to the first record that does not fit."""
        broken = self._files() or self._end_fault()
        return Verified(
            records=self.end.seq,
            first_broken=broken,
            seq=self.end.seq,
            hash=self.end.hash,
            files=len(self.shot.files),
            torn=self.torn,
        )

    def _files(self) -> Broken | None:
        for path, size in self.shot.files:
            self.where, self.line = f"{day_of(path)}.jsonl", 0
            last = path == self.shot.files[-1][0]
            try:
                for line in lines_of(path, size):
                    self.line += 1
                    if last and not line.endswith(b"\n"):
                        self.torn = True
                        return None
                    if broken := self._line(line, day_of(path)):
                        return broken
            except OSError as e:
                return self._here(f"cannot be read: {e.strerror}")
        self.line += 1
        return None

    def _line(self, line: bytes, day: str) -> Broken | None:
        record, why = parsed(line)
        why = why or misfit(record, self.end, day) or torn_file_fault(self.folder, record)
        if why:
            return self._here(why)
        self.end = Link(record["seq"], record["hash"])
        if self.known and self.known.seq == self.end.seq and self.known != self.end:
            return _of_head(f"has another hash for record {self.end.seq}")
        if self.each:
            self.each(record)
        return None

    def _here(self, why: str) -> Broken:
        return Broken(file=self.where, line=self.line, why=why)

    def _end_fault(self) -> Broken | None:
        """What the head says that the records do not."""
        if self.shot.head is None:
            return _of_head("is missing: the end cannot be proved") if self.shot.files else None
        if self.known is None or (self.known.seq == 0 and self.known != START):
            return _of_head("was changed: it names no record")
        if self.known.seq > self.end.seq:
            first, last = self.end.seq + 1, self.known.seq
            gone = f"record {first}" + (f" to {last}" if last > first else "")
            return self._here(f"{gone} is gone from the end: {HEAD} names it")
        return None


def _of_head(why: str) -> Broken:
    return Broken(file=HEAD, line=1, why=why)
