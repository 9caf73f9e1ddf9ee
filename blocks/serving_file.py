"""The serving config in a YAML or .env file: read, edit, back up, bring back.

An edit changes the lines of its fields and no other byte, is checked before it is written,
and is written whole or not at all. Backups lie beside the file, in `<file>.runbooks/`, named
`<UTC time>-<run id>`, readable by the worker's user only since a .env file holds secrets.
These functions block: call them through `asyncio.to_thread`.
"""

import contextlib
import difflib
import io
import itertools
import logging
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from dotenv import dotenv_values

from blocks.env_text import edit_env, read_env, variable_of
from blocks.errors import Permanent, Unsafe
from blocks.models import Frozen, ServingConfig
from blocks.safe_file import locked, read_bytes, replace_bytes, sha256, sync_directory, write_new
from blocks.service import EnvFileSource, YamlSource
from blocks.serving_values import check_edit, refuse_drift
from blocks.yaml_text import edit_yaml, key_paths, load_yaml, read_yaml, without

FileSource = YamlSource | EnvFileSource
_BOM = "\ufeff"
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
    return _read(source, _decode(source.path, read_bytes(source.path)))


def preview_file(
    source: FileSource, before: ServingConfig, after: ServingConfig
) -> tuple[str, str]:
    """The sha256 of the file as it is, and as `edit_file` would leave it. Writes nothing.

    Raises:
        Permanent, Unsafe: as `edit_file`.
    """
    data = read_bytes(source.path)
    return sha256(data), sha256(_edited(source, data, before, after))


def edit_file(
    source: FileSource,
    before: ServingConfig,
    after: ServingConfig,
    *,
    expected_sha256: str | None = None,
) -> None:
    """Change the fields that differ between `before` and `after`; every other line stays.

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
    with locked(source.path):
        data = read_bytes(source.path)
        if expected_sha256 and sha256(data) != expected_sha256:
            raise Unsafe("drifted", f"{source.path} was edited since the plan; plan again")
        replace_bytes(source.path, _edited(source, data, before, after), sha256(data))


def backup_file(source: FileSource, run_id: str) -> str:
    """Copy the file to `<file>.runbooks/<YYYYMMDDTHHMMSSZ>-<run_id>`; return that path.

    A second copy in the same second gets `~2` at its end. The mode is the source's, without
    group and others. The copy is on disk and read back when this returns.

    Raises:
        Permanent: the file cannot be read or the directory not written.
        Transient: the disk failed.
    """
    with locked(source.path):
        data = read_bytes(source.path)
        mode = stat.S_IMODE(os.stat(source.path).st_mode) & 0o600 | 0o400
        stem = f"{datetime.now(UTC).strftime(_STAMP)}-{_safe(run_id)}"
        names = (stem if n == 1 else f"{stem}~{n}" for n in itertools.count(1))
        return str(write_new(backup_directory(source), names, data, mode))


def list_backups(source: FileSource) -> list[Backup]:
    """Backups, newest first. One that can no longer be read is left out, with a warning."""
    found: list[tuple[str, int, Backup]] = []
    for path in _backup_paths(source):
        if not (match := _BACKUP.fullmatch(path.name)):
            continue
        try:
            data = read_bytes(str(path))
            config = _read(source, _decode(str(path), data))
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
    """The sha256 of the file's content. Raises Permanent as `read_file`."""
    return sha256(read_bytes(source.path))


def backup_directory(source: FileSource) -> Path:
    """`<file>.runbooks`, absolute; it exists once there was a backup."""
    return Path(os.path.abspath(source.path) + ".runbooks")


def _safe(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id)[:80].strip(".-") or "run"


def _backup_paths(source: FileSource) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(backup_directory(source).iterdir())
    return []


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as e:
        raise Permanent(f"{path} is not UTF-8 (byte {e.start}); save it as UTF-8") from None


def _read(source: FileSource, text: str) -> ServingConfig:
    return read_yaml(text, source) if isinstance(source, YamlSource) else read_env(text, source)


def _edited(
    source: FileSource, content: bytes, before: ServingConfig, after: ServingConfig
) -> bytes:
    """The new content, proven to differ in the planned fields and in their lines only."""
    old = _decode(source.path, content)
    refuse_drift(before, after, _read(source, old), source.path)
    fields = list(before.diff(after))
    if isinstance(source, YamlSource):
        new = edit_yaml(old, source, before, after)
        rest_old, rest_new = load_yaml(old, source.path), load_yaml(new, source.path)
        # Where the field stood and where it stands now: a first key decides on _ or -.
        names = [key_paths(data, source, f) for data in (rest_old, rest_new) for f in fields]
        for path in names:
            rest_old, rest_new = without(rest_old, path), without(rest_new, path)
    else:
        new = edit_env(old, source, before, after)
        names = [[variable_of(source, f)] for f in fields]
        rest_old, rest_new = _others(old, names), _others(new, names)
    check_edit(before, after, _read(source, new), source.path)
    if repr(rest_old) != repr(rest_new):
        raise Permanent(
            f"{source.path}: {', '.join(fields)} cannot be changed without changing another key "
            "(a shared anchor?); nothing was written; edit the file by hand"
        )
    if stray := _stray_line(old, new, [n for path in names for n in path]):
        raise Permanent(
            f"{source.path}: the edit would touch line {stray}, which is none of "
            f"{', '.join(fields)}; nothing was written; edit the file by hand"
        )
    return (_BOM if content.startswith(_BOM.encode()) else "").encode() + new.encode()


def _others(text: str, names: list[list[str]]) -> list[tuple[str, str | None]]:
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return [(k, v) for k, v in found.items() if [k] not in names]


def _stray_line(old: str, new: str, names: list[str]) -> int | None:
    """The first line (of `old`, from 1) that differs and names none of the changed keys."""
    a, b = old.splitlines(), new.splitlines()
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            continue
        changed: list[tuple[str, ...]] = [(x,) for x in a[a0:a1] + b[b0:b1]]
        if a1 - a0 == b1 - b0:  # line by line: a flow mapping names the key before or after only
            changed = list(zip(a[a0:a1], b[b0:b1], strict=True))
        if not all(any(n in line for n in names for line in lines) for lines in changed):
            return a0 + 1
    return None
