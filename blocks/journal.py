"""The write-ahead journal of one service: what survives a kill -9.

One directory per service on the host that acts on it (a service's work queue pins it to
one host): `entry.json` while a change is under way, `degraded.json` while it runs below its
original config, `acts.jsonl` with every finished act, `lock` held by `flock` for as long as
a process acts, so that the kernel frees it whatever happens to the process.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from pydantic import ValidationError

from blocks.errors import Permanent, Unsafe
from blocks.models import Frozen, Receipt, ServingConfig

KEEP_BACKUPS = 50
T = TypeVar("T", bound=Frozen)
Phase = Literal["intent", "applied", "verified"]
Verdict = Literal["passed", "failed", "error", "inconclusive", "planned", "blocked"]


class Entry(Frozen):
    """A change under way. `intent` is written before the act, `verified` before the way back
    is given up; whoever finds an entry undoes it, or finishes it when it was verified.
    """

    run_id: str
    procedure: str
    actor: str
    at: datetime
    phase: Phase
    receipt: Receipt


class Act(Frozen):
    """One finished act, for the attempt and cool-down guards."""

    at: datetime
    procedure: str
    run_id: str
    verdict: Verdict
    reconciled: bool = False


class Backup(Frozen):
    """The serving config as it was before one change."""

    name: str
    """`20261121T020304Z-1a2b3c4d`: when (UTC) and by which run."""
    at: datetime
    run_id: str
    procedure: str
    config: ServingConfig


class Applied(Frozen):
    """The config that the last change put in place and kept."""

    config: ServingConfig
    at: datetime
    procedure: str
    run_id: str


class Degraded(Frozen):
    """A service that runs below what its operator asked for."""

    original: ServingConfig
    since: datetime
    procedure: str
    run_id: str


def home() -> Path:
    """Where this machine keeps the product's state: `$RUNBOOKS_HOME`, else `~/.llm-runbooks`."""
    return Path(os.environ.get("RUNBOOKS_HOME") or Path.home() / ".llm-runbooks")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` so that a crash leaves the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _ends_a_line(f: BinaryIO) -> bool:
    f.seek(-1, os.SEEK_END)
    return f.read(1) == b"\n"


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Journal:
    """The journal of one service. Every write is durable when the call returns."""

    def __init__(self, stack: str, service: str, root: Path | None = None) -> None:
        self.stack, self.service = stack, service
        self.folder = (root or home()) / "services" / stack / service

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the service on this host.

        Raises:
            Unsafe: `locked`, another process on this host acts on the service.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # O_CLOEXEC (Python's default) keeps a spawned command from inheriting the lock.
        with (self.folder / "lock").open("a+") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Unsafe(
                    "locked",
                    f"another run is acting on {self.stack}/{self.service} on this host; "
                    f"look at it with: runbooks runs",
                ) from e
            yield

    def entry(self) -> Entry | None:
        """The change that was under way, if any.

        Raises:
            Permanent: the entry cannot be read; it is kept for a person.
        """
        return self._read("entry.json", Entry)

    def begin(self, entry: Entry) -> None:
        """Write the intent; refuse to cover an unfinished one."""
        if self.entry() is not None:
            raise Unsafe(
                "locked", f"an unfinished change of {self.service} must be reconciled first"
            )
        self._write("entry.json", entry)

    def advance(self, phase: Phase) -> None:
        """Move the entry on."""
        entry = self.entry()
        if entry is None:
            raise Permanent(f"the journal entry of {self.service} vanished; do not edit it by hand")
        self._write("entry.json", entry.model_copy(update={"phase": phase}))

    def finish(self, act: Act) -> None:
        """Record the act, then drop the entry: a kill in between counts the act twice, never
        loses it.
        """
        self.record(act)
        self.abandon()

    def abandon(self) -> None:
        """Drop the entry of an act that refused before it touched anything."""
        (self.folder / "entry.json").unlink(missing_ok=True)
        _sync_directory(self.folder)

    def record(self, act: Act) -> None:
        """Append one act."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "acts.jsonl").open("a+b") as f:
            # A line torn by a kill must not swallow this one.
            torn = f.seek(0, os.SEEK_END) > 0 and not _ends_a_line(f)
            f.write((b"\n" if torn else b"") + act.model_dump_json().encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())

    def acts(self) -> list[Act]:
        """Every act on record, oldest first; a torn last line (kill while writing) is skipped."""
        path = self.folder / "acts.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValidationError):
                found.append(Act.model_validate_json(line))
        return found

    def save_backup(self, run_id: str, procedure: str, config: ServingConfig) -> Backup:
        """Keep the config that a change is about to replace; the newest 50 stay."""
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{run_id[:8]}"
        backup = Backup(name=name, at=now, run_id=run_id, procedure=procedure, config=config)
        self._write(f"backups/{name}.json", backup)
        for old in sorted((self.folder / "backups").glob("*.json"))[:-KEEP_BACKUPS]:
            old.unlink(missing_ok=True)
        return backup

    def backups(self) -> list[Backup]:
        """Configs that earlier changes replaced, newest first; an unreadable one is skipped."""
        found = []
        for path in sorted((self.folder / "backups").glob("*.json"), reverse=True):
            with contextlib.suppress(ValidationError, OSError):
                found.append(Backup.model_validate_json(path.read_text(encoding="utf-8")))
        return found

    def applied(self) -> Applied | None:
        """What the last kept change applied; None when none was."""
        return self._read("applied.json", Applied)

    def save_applied(self, applied: Applied) -> None:
        """Remember what is in place now: another config later on is somebody else's."""
        self._write("applied.json", applied)

    def degraded(self) -> Degraded | None:
        """The mark set when a remediation lowered the config."""
        return self._read("degraded.json", Degraded)

    def mark_degraded(self, mark: Degraded) -> None:
        """Remember the operator's own config; the first mark wins over later steps."""
        if self.degraded() is None:
            self._write("degraded.json", mark)

    def clear_degraded(self) -> None:
        """The service has its own config again."""
        (self.folder / "degraded.json").unlink(missing_ok=True)

    def _write(self, name: str, value: Frozen) -> None:
        write_atomically(self.folder / name, value.model_dump_json(indent=1))

    def _read(self, name: str, kind: type[T]) -> T | None:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as e:
            raise Permanent(
                f"{path} cannot be read ({type(e).__name__}); compare it with the service's "
                f"state, then move it away"
            ) from e


def unfinished(root: Path | None = None) -> list[tuple[str, str]]:
    """Services of this host with a change under way or interrupted: (stack, service)."""
    return _services_with("entry.json", root)


def degraded_services(root: Path | None = None) -> list[tuple[str, str]]:
    """Services of this host that a remediation stepped down: (stack, service)."""
    return _services_with("degraded.json", root)


def _services_with(name: str, root: Path | None) -> list[tuple[str, str]]:
    found = ((root or home()) / "services").glob(f"*/*/{name}")
    return sorted((p.parent.parent.name, p.parent.name) for p in found)
