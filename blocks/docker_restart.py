"""Numbers in a file: edit it, then restart the same container; undone from wherever it stopped.

The order makes the undo decidable. `act`: edit, stop, start. `restore`: stop, bring the file
back, start. So while the container is up and the file is as before, it runs with the numbers
from before, and no stop of `act` can still be under way.
"""

import hashlib
from pathlib import Path

from blocks.docker_host import Engine
from blocks.docker_inspect import Doc, is_up, name_of
from blocks.errors import Permanent, Transient, Unsafe
from blocks.models import Frozen, ServingConfig
from blocks.service import NoSource
from blocks.serving_file import (
    FileSource,
    backup_file,
    edit_file,
    preview_file,
    restore_file,
    sha256_file,
)


class RestartNote(Frozen):
    """What the journal keeps of one edit and restart. None of the file's content."""

    kind: str = "restart"
    container_id: str
    name: str
    backup: str
    """Path of the file's copy, on the worker's host."""
    before_sha256: str
    after_sha256: str
    started_at: str
    """StartedAt before the change, as the engine writes it."""


def prepare(
    doc: Doc, source: FileSource, before: ServingConfig, after: ServingConfig, run_id: str
) -> RestartNote:
    """Check the edit, back the file up; the note for the journal.

    Raises:
        Unsafe: `drifted`, the file changed in this very moment.
        Permanent: the file cannot be read, edited or backed up. Transient: the disk failed.
    """
    was, becomes = preview_file(source, before, after)
    backup = backup_file(source, run_id)
    if backup and hashlib.sha256(Path(backup).read_bytes()).hexdigest() != was:
        raise Unsafe("drifted", f"{_path(source)} changed while it was read; plan again")
    return RestartNote(
        container_id=doc["Id"],
        name=name_of(doc),
        backup=backup,
        before_sha256=was,
        after_sha256=becomes,
        started_at=doc["State"].get("StartedAt") or "",
    )


def act(
    engine: Engine,
    note: RestartNote,
    source: FileSource,
    before: ServingConfig,
    after: ServingConfig,
    stop_timeout_s: float,
) -> None:
    """Edit the file and restart the container.

    Raises:
        Unsafe: `drifted`, file or container are not what `prepare` saw; nothing was changed.
        Permanent, Transient: cut short; `restore` is due.
    """
    if name_of(engine.inspect(note.container_id)) != note.name:
        raise Unsafe("drifted", f"container {note.name} was renamed since the plan; plan again")
    edit_file(source, before, after, expected_sha256=note.before_sha256)
    engine.stop(note.container_id, stop_timeout_s)
    engine.start(note.container_id)


def restore(
    engine: Engine, note: RestartNote, source: FileSource, was_running: bool, stop_timeout_s: float
) -> None:
    """Bring the file back byte for byte, and the container up or down as it was.

    Raises:
        Unsafe: `drifted`, somebody edited the file since; nothing was done.
        Permanent: container or backup are gone. Transient: restore again.
    """
    then = engine.inspect(note.container_id)
    if note.before_sha256 == note.after_sha256:
        # A pure restart: what was up is up; what came up of it is not taken down again.
        if was_running and not is_up(then):
            engine.start(note.container_id)
        return
    exists = not note.backup or Path(_path(source)).exists()
    now = sha256_file(source) if exists else None
    if now not in (None, note.before_sha256, note.after_sha256):
        raise Unsafe(
            "drifted",
            f"{_path(source)} was edited by somebody since; it is not overwritten; the copy from "
            f"before is {note.backup}",
        )
    if now != note.before_sha256:
        if not Path(note.backup).is_file():
            raise Permanent(f"the copy {note.backup} of {_path(source)} is gone; edit it by hand")
        engine.stop(note.container_id, stop_timeout_s)
        restore_file(source, note.backup, sha256_of_backup=note.before_sha256, expected_sha256=now)
    if was_running:
        engine.start(note.container_id)
    elif is_up(engine.inspect(note.container_id)):
        engine.stop(note.container_id, stop_timeout_s)
    found = engine.inspect(note.container_id)
    started = found["State"].get("StartedAt") != then["State"].get("StartedAt")
    if (is_up(found) or started) != was_running:
        raise Transient(
            f"container {note.name} is {'up' if is_up(found) else 'down'}, which it was not "
            "before the change; undo again"
        )


def _path(source: FileSource) -> str:
    return "" if isinstance(source, NoSource) else source.path


def applied(engine: Engine, note: RestartNote, source: FileSource) -> bool:
    """True when the file is as `act` left it and the container was started since."""
    doc = engine.find(note.container_id)
    return (
        doc is not None
        and sha256_file(source) == note.after_sha256
        and doc["State"].get("StartedAt") != note.started_at
    )
