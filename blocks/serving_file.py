"""The serving config in a YAML, LiteLLM or .env file: read, edit, back up, bring back.

An edit changes the lines of its fields and no other byte, is checked before it is written,
and is written whole or not at all. Backups lie beside the file, in `<file>.runbooks/`, named
`<UTC time>-<run id>`, readable by the worker's user only since a .env file holds secrets.
A service without a file (`NoSource`) has an empty config that cannot be changed, and no backups.
These functions block: call them through `asyncio.to_thread`.
"""

import contextlib
import itertools
import logging
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from blocks.errors import Permanent, Unsafe
from blocks.models import Frozen, ServingConfig
from blocks.safe_file import locked, read_bytes, replace_bytes, sha256, sync_directory, write_new
from blocks.service import EnvFileSource, LitellmSource, NoSource, YamlSource
from blocks.serving_edit import edited, read_text
from blocks.utf8 import decoded

FileSource = YamlSource | EnvFileSource | LitellmSource | NoSource
_STAMP = "%Y%m%dT%H%M%SZ"
_BACKUP = re.compile(r"(\d{8}T\d{6}Z)-(.+?)(?:~(\d+))?")
_log = logging.getLogger(__name__)


class Backup(Frozen):
    """One copy of a serving file, as it was before a change."""

    path: str
    taken_at: datetime
    """Aware, UTC, to the second."""
    run_id: str
    sha256: str
    config: ServingConfig


def read_file(source: FileSource) -> ServingConfig:
    """The serving config written down in the file.

    Raises:
        Permanent: missing, no regular file, not UTF-8, not valid YAML, or a value that is none
            of its field's; names file, key and value, never the value of another variable.
    """
    if isinstance(source, NoSource):
        return ServingConfig()
    return read_text(source, decoded(source.path, read_bytes(source.path)))


def preview_file(
    source: FileSource, before: ServingConfig, after: ServingConfig
) -> tuple[str, str]:
    """The sha256 of the file as it is, and as `edit_file` would leave it. Writes nothing.

    The same one twice when `before` equals `after`; empty without a file.

    Raises:
        Permanent, Unsafe: as `edit_file`.
    """
    if isinstance(source, NoSource):
        _refuse_change(before, after)
        return "", ""
    data = read_bytes(source.path)
    return sha256(data), sha256(edited(source, data, before, after))


def edit_file(
    source: FileSource,
    before: ServingConfig,
    after: ServingConfig,
    *,
    expected_sha256: str | None = None,
) -> None:
    """Change the fields that differ between `before` and `after`; every other line stays.

    Nothing is written when none differs.

    Args:
        source: which file, and under which keys the fields stand.
        before: what the plan started from; only its differing fields are compared.
        after: what the file says afterwards.
        expected_sha256: if given, the only content of the file that may be edited.

    Raises:
        Unsafe: `drifted`, the file is not what the plan started from or changed meanwhile.
        Permanent: it cannot be read, or not edited without touching something else.
        Transient: the disk failed; the file is as it was.
    """
    if isinstance(source, NoSource):
        return _refuse_change(before, after)
    with locked(source.path):
        data = read_bytes(source.path)
        if expected_sha256 and sha256(data) != expected_sha256:
            raise Unsafe("drifted", f"{source.path} was edited since the plan; plan again")
        new = edited(source, data, before, after)
        if new != data:
            replace_bytes(source.path, new, sha256(data))


def backup_file(source: FileSource, run_id: str) -> str:
    """Copy the file to `<file>.runbooks/<YYYYMMDDTHHMMSSZ>-<run_id>`; return that path.

    A second copy in the same second gets `~2` at its end. The mode is the source's, without
    group and others. The copy is on disk and read back when this returns. Without a file the
    path is empty.

    Raises:
        Permanent: the file cannot be read or the directory not written.
        Transient: the disk failed.
    """
    if isinstance(source, NoSource):
        return ""
    with locked(source.path):
        data = read_bytes(source.path)
        mode = stat.S_IMODE(os.stat(source.path).st_mode) & 0o600 | 0o400
        stem = f"{datetime.now(UTC).strftime(_STAMP)}-{_safe(run_id)}"
        names = (stem if n == 1 else f"{stem}~{n}" for n in itertools.count(1))
        return str(write_new(backup_directory(source), names, data, mode))


def list_backups(source: FileSource) -> list[Backup]:
    """Backups, newest first. One that can no longer be read is left out, with a warning."""
    found: list[tuple[str, int, Backup]] = []
    if isinstance(source, NoSource):
        return []
    for path in _backup_paths(source):
        if not (match := _BACKUP.fullmatch(path.name)):
            continue
        try:
            data = read_bytes(str(path))
            config = read_text(source, decoded(str(path), data))
        except Permanent as e:
            _log.warning("backup %s is left out: %s", path, e)
            continue
        taken_at = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
        backup = Backup(
            path=str(path),
            taken_at=taken_at,
            run_id=match[2],
            sha256=sha256(data),
            config=config,
        )
        found.append((match[1], path.stat().st_mtime_ns, backup))
    return [b for _, _, b in sorted(found, key=lambda f: f[:2], reverse=True)]


def restore_file(
    source: FileSource,
    backup: str,
    *,
    sha256_of_backup: str | None = None,
    expected_sha256: str | None = None,
) -> None:
    """Bring back a backup, byte for byte; nothing happens when the file equals it already.

    Args:
        source: which file.
        backup: path of a backup of this file, as `backup_file` returned it.
        sha256_of_backup: if given, what the backup must be.
        expected_sha256: if given, the only content of the file that may be overwritten.

    Raises:
        Permanent: no backup of this file, gone, or damaged.
        Unsafe: `drifted`, the file holds something else than `expected_sha256`.
        Transient: the disk failed; the file is as it was.
    """
    if isinstance(source, NoSource):
        if backup:
            raise Permanent(f"{backup} is no backup: a service without a file has none")
        return
    path = Path(backup)
    if path.parent != backup_directory(source) or not _BACKUP.fullmatch(path.name):
        raise Permanent(f"{backup} is no backup of {source.path}; choose one of list_backups")
    data = read_bytes(backup)
    if sha256_of_backup and sha256(data) != sha256_of_backup:
        raise Permanent(f"{backup} is damaged (sha256 differs); restore {source.path} by hand")
    with locked(source.path):
        now = read_bytes(source.path) if os.path.exists(source.path) else None
        if now == data:
            return
        if expected_sha256 and (now is None or sha256(now) != expected_sha256):
            raise Unsafe("drifted", f"{source.path} was edited since; it was not overwritten")
        replace_bytes(source.path, data, None if now is None else sha256(now))


def prune_backups(source: FileSource, keep: int = 20) -> list[str]:
    """Remove all but the newest `keep` backups; return the paths removed.

    Raises:
        ValueError: `keep` is less than 1.
    """
    if keep < 1:
        raise ValueError("keep at least one backup")
    paths = [p for p in _backup_paths(source) if _BACKUP.fullmatch(p.name)]
    paths.sort(key=lambda p: (p.name[:16], p.stat().st_mtime_ns), reverse=True)
    removed = [str(p) for p in paths[keep:]]
    for path in removed:
        Path(path).unlink(missing_ok=True)
    if removed:
        sync_directory(backup_directory(source))
    return removed


def sha256_file(source: FileSource) -> str:
    """The sha256 of the file's content, empty without one. Raises Permanent as `read_file`."""
    if isinstance(source, NoSource):
        return ""
    return sha256(read_bytes(source.path))


def backup_directory(source: FileSource) -> Path:
    """`<file>.runbooks`, absolute; it exists once there was a backup.

    Raises:
        Permanent: there is no file.
    """
    if isinstance(source, NoSource):
        raise Permanent("serving.kind none has no file, so no backups of it")
    return Path(os.path.abspath(source.path) + ".runbooks")


def _safe(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id)[:80].strip(".-") or "run"


def _refuse_change(before: ServingConfig, after: ServingConfig) -> None:
    if changes := before.diff(after):
        raise Permanent(
            f"{', '.join(changes)} cannot be changed: serving.kind is none; name the file it is "
            "written in under `serving`"
        )


def _backup_paths(source: FileSource) -> list[Path]:
    if isinstance(source, NoSource):
        return []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(backup_directory(source).iterdir())
    return []
