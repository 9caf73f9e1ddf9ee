"""The audit trail of this machine: append-only, hash-chained, proved by walking along it.

`YYYY/MM/DD.jsonl` per UTC day under `$RUNBOOKS_HOME/audit`; see blocks/audit_chain.py for the
records. `head.json` names the last record and is replaced after it was written, so that records
cut off at the very end are missed too. What it cannot prove: who may write to the folder may
write the whole chain anew, head included. A copy elsewhere can (blocks/audit_store.py).
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blocks.audit_chain import (
    DAY,
    HEAD,
    PENDING,
    START,
    Broken,
    Link,
    Verified,
    day_files,
    day_of,
    head_line,
    last_line,
    lines_of,
    moved_to,
    parsed,
    read_bytes,
    read_head,
    sealed,
    torn_tail,
    waiting_torn,
)
from blocks.audit_verify import Snapshot, Walk
from blocks.errors import Permanent, Transient
from blocks.journal import home, write_atomically
from blocks.safe_file import replace_bytes, sync_directory

__all__ = ["AuditLog", "Broken", "Snapshot", "Verified"]


class AuditLog:
    """The trail in one folder. Safe for any number of processes of one machine at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "audit"

    # ---- writing --------------------------------------------------------------------------------

    def append(self, kind: str, record: dict[str, Any]) -> str:
        """Add one record; its hash. It is on the disk when the call returns.

        Args:
            kind: `run`, `access`, `approval`, `freeze`, `incident`.
            record: JSON values; not the names that the chain itself uses.

        Raises:
            Permanent: the record cannot be written as JSON; or the chain is broken at its end.
            Transient: the disk did not take it; nothing of it is left.
        """
        return self.extend(kind, [record])[0]

    def extend(self, kind: str, records: Sequence[dict[str, Any]]) -> list[str]:
        """Add several records at once, in this order; their hashes. See `append`."""
        with self._locked():
            end = self._mended()
            return [link.hash for link in self._add(kind, records, end)]

    def _add(self, kind: str, records: Sequence[dict[str, Any]], end: Link) -> list[Link]:
        now, files = datetime.now(UTC), day_files(self.folder)
        # A clock that was set back must not write into a day that is over.
        day = max([now.strftime(DAY), *(day_of(p) for p in files[-1:])])
        links, lines = list[Link](), list[bytes]()
        for record in records:
            end, line = sealed(kind, record, day, now.isoformat(), end)
            links.append(end)
            lines.append(line)
        self._write(self.folder / f"{day}.jsonl", b"".join(lines))
        if links:
            self._set_head(end)
        return links

    def _write(self, path: Path, data: bytes) -> None:
        try:
            new = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                before = os.fstat(handle).st_size
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(handle, view) :]
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, before)
                    raise
            finally:
                os.close(handle)
            for folder in (path.parent, path.parent.parent, self.folder) if new else ():
                sync_directory(folder)
        except OSError as e:
            raise Transient(f"{path} cannot be written: {e.strerror}; check the disk") from e

    def _set_head(self, link: Link) -> None:
        try:
            write_atomically(self.folder / HEAD, head_line(link).decode())
        except OSError as e:
            raise Transient(f"{self.folder / HEAD}: {e.strerror}; check the disk") from e

    @contextlib.contextmanager
    def _locked(self, how: int = fcntl.LOCK_EX) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as e:
            raise Permanent(f"{self.folder} cannot be written: {e.strerror}; give access") from e
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    # ---- what a kill left behind ----------------------------------------------------------------

    def _mended(self) -> Link:
        """The end of the chain, once a torn last line is moved aside and noted."""
        if not (self.folder / HEAD).exists() and not day_files(self.folder):
            self._set_head(START)
        self._move_torn_line()
        end, last = self._end()
        waiting = waiting_torn(self.folder)
        for path in waiting:
            name, data = path.name.replace("-", "/", 2), path.read_bytes()
            if last.get("kind") != "repair" or last.get("moved_to") != name:  # else noted already
                found = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                words = "the last line was cut short while it was written; moved aside"
                (end,) = self._add("repair", [{**found, "moved_to": name, "message": words}], end)
            os.replace(path, self.folder / name)
        if waiting:
            for left in (self.folder / PENDING).glob(".*"):  # of a copy that was cut short
                left.unlink(missing_ok=True)
            sync_directory(self.folder / PENDING)
        return end

    def _move_torn_line(self) -> None:
        files = day_files(self.folder)
        if not files or not (torn := torn_tail(files[-1])):
            return
        path, pending = files[-1], self.folder / PENDING
        pending.mkdir(exist_ok=True, mode=0o700)
        # Killed between the copy and the cut: the copy is there already.
        if all(p.read_bytes() != torn[1] for p in waiting_torn(self.folder)):
            name = f"{day_of(path)}.jsonl.torn-"
            number = 1
            while moved_to(self.folder, f"{name}{number}").exists():
                number += 1
            replace_bytes(str(pending / f"{name}{number}".replace("/", "-")), torn[1], None)
        with path.open("r+b") as f:
            f.truncate(torn[0])
            os.fsync(f.fileno())

    def _end(self) -> tuple[Link, dict[str, Any]]:
        """The last record; only what follows from it and from the head may be appended.

        Raises:
            Permanent: the chain is broken at its end.
        """
        head, last, where = read_bytes(self.folder / HEAD), dict[str, Any](), HEAD
        for path in reversed(day_files(self.folder)):
            if line := last_line(path):
                where = f"{day_of(path)}.jsonl"
                last, why = parsed(line)
                if why:
                    raise self._broken(f"the last line of {where} {why}")
                break
        end = Link(last["seq"], last["hash"]) if last else START
        known = read_head(head) if head else None
        if known is None:
            raise self._broken(f"{HEAD} {'was changed' if head else 'is missing'}")
        if known.seq > end.seq or (known.seq == end.seq and known != end):
            raise self._broken(f"{where} ends with record {end.seq}, {HEAD} names {known.seq}")
        return end, last

    def _broken(self, why: str) -> Permanent:
        return Permanent(
            f"the audit trail is broken, nothing was appended: {why}; look: runbooks audit verify; "
            f"then move {self.folder} away and keep it: a new trail begins"
        )

    # ---- reading --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The trail as it is now. A folder that cannot be written (a copy) is read without lock."""
        locked: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if os.access(self.folder / "lock", os.W_OK):
            locked = self._locked(fcntl.LOCK_SH)
        with locked:
            files = tuple((p, p.stat().st_size) for p in day_files(self.folder))
            return Snapshot(files, read_bytes(self.folder / HEAD))

    def fault(self) -> str:
        """Why nothing can be appended at this moment; empty when it can. Looks at the end only."""
        try:
            with self._locked(fcntl.LOCK_SH):
                if day_files(self.folder) and torn_tail(day_files(self.folder)[-1]):
                    return ""  # the next append mends it
                if (self.folder / HEAD).exists() or day_files(self.folder):
                    self._end()
        except Permanent as e:
            return str(e)
        return ""

    def verify(
        self, each: Callable[[dict[str, Any]], None] | None = None, shot: Snapshot | None = None
    ) -> Verified:
        """Walk along the whole chain, a line at a time, up to the first record that does not fit.

        Args:
            each: called with every record that fits.
            shot: the state to look at; none: the present one.
        """
        return Walk(self.folder, shot or self.snapshot(), each).verified()

    def records(self, shot: Snapshot | None = None) -> Iterator[dict[str, Any]]:
        """Every record that is whole, the oldest first, without looking at the chain."""
        for path, size in (shot or self.snapshot()).files:
            for line in lines_of(path, size):
                record, why = parsed(line)
                if not why:
                    yield record
