"""Small files replaced whole or not at all: temp file, fsync, rename, in the same directory."""

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from blocks.errors import Permanent, Transient, Unsafe

MAX_BYTES = 8 * 1024 * 1024
_TEMPORARY = ".runbooks-tmp"


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: str) -> bytes:
    """The content of a regular file of at most 8 MiB; a symbolic link is followed.

    Raises:
        Permanent: missing, not a regular file, too big or not readable.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Permanent(f"{path} is no regular file; give the path of the file itself")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Permanent(f"{path} does not exist on this worker; check the path") from None
    except OSError as e:
        raise Permanent(f"{path} cannot be read: {e.strerror}; check owner and mode") from e
    if len(data) > MAX_BYTES:
        raise Permanent(f"{path} is larger than {MAX_BYTES} bytes; is it the right file?")
    return data


def directory_of(path: str) -> str:
    """The directory of a file, or of the target of a link."""
    return os.path.dirname(os.path.realpath(path))


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold off every other writer that uses this module; the lock ends with the process.

    The lock is on the directory of the file (of the link's target), so nothing is left behind.

    Raises:
        Permanent: the directory does not exist or cannot be opened.
    """
    directory = directory_of(path)
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise Permanent(f"{directory} cannot be opened: {e.strerror}") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace_bytes(path: str, data: bytes, expected: str | None) -> None:
    """Replace the content of a file, keeping its mode, owner and extended attributes.

    A symbolic link stays; its target is replaced. Call it within `locked`. What an earlier,
    killed call left behind is removed first. After an error the file is as it was.

    Args:
        path: the file.
        data: its new content.
        expected: sha256 of the content that may be replaced; None: the file must not exist.

    Raises:
        Unsafe: `drifted`, somebody else changed, created or removed the file meanwhile.
        Permanent: the directory is not writable, or the owner cannot be kept.
        Transient: disk full and other errors of the disk.
    """
    target = Path(os.path.realpath(path))
    for left in target.parent.glob(f".{_escape(target.name)}.*{_TEMPORARY}"):
        left.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                if expected is not None:
                    _copy_attributes(target, file.fileno())
                os.fsync(file.fileno())
            _check_unchanged(target, expected)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
    except PermissionError as e:
        raise Permanent(
            f"{path} cannot be replaced: {e.strerror}; give the worker's user write access to "
            f"{target.parent}, or run the worker as the file's owner"
        ) from e
    except OSError as e:
        raise Transient(f"{path} cannot be written: {e.strerror}; check the disk") from e


def write_new(directory: Path, names: Iterator[str], data: bytes, mode: int) -> Path:
    """Write a file under the first free name, whole, flushed to disk and read back.

    Call it within `locked` of a file in the parent directory.

    Raises:
        Permanent: the directory cannot be made or written.
        Transient: disk full, or the copy read back differs.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        temporary = directory / f".{secrets.token_hex(4)}{_TEMPORARY}"
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w+b") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                file.seek(0)
                if sha256(file.read()) != sha256(data):
                    raise Transient(f"the copy in {directory} differs from its source; try again")
            final = next(directory / n for n in names if not os.path.lexists(directory / n))
            os.rename(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(directory)
        sync_directory(directory.parent)
    except PermissionError as e:
        raise Permanent(
            f"{directory} cannot be written: {e.strerror}; give the worker's user write access"
        ) from e
    except FileExistsError as e:
        raise Permanent(f"{directory} is no directory; move it out of the way") from e
    except OSError as e:
        raise Transient(f"{directory} cannot be written: {e.strerror}; check the disk") from e
    return final


def sync_directory(directory: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _check_unchanged(target: Path, expected: str | None) -> None:
    try:
        found: str | None = sha256(target.read_bytes())
    except FileNotFoundError:
        found = None
    if found != expected:
        raise Unsafe(
            "drifted",
            f"{target} was changed by somebody else since it was read; nothing was written; "
            "plan again",
        )


def _copy_attributes(target: Path, handle: int) -> None:
    now, mine = os.stat(target), os.fstat(handle)
    if (now.st_uid, now.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(handle, now.st_uid, now.st_gid)
    os.fchmod(handle, stat.S_IMODE(now.st_mode))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for name in os.listxattr(target):
                with contextlib.suppress(OSError):  # e.g. security.* without the capability
                    os.setxattr(handle, name, os.getxattr(target, name))
