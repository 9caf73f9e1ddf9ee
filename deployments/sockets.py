"""Where the local sockets of a home lie. Standard library only."""

import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

SUN_PATH = 100
"""A socket's path may have 104 bytes on macOS, 108 on Linux."""


def socket_path(home: Path, name: str = "zygote.sock") -> Path:
    """A socket of this home: in it, or in a private folder if that path is too long."""
    path = home.resolve() / name
    if len(os.fsencode(path)) <= SUN_PATH:
        return path
    short = sha256(os.fsencode(path.with_name("zygote.sock"))).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"runbooks-{os.getuid()}-{short}" / name


def private_folder(path: Path) -> None:
    """Make the folder of a socket, for this user alone.

    Raises:
        PermissionError: it is someone else's, or others may write to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    at = path.parent.stat()
    if at.st_uid != os.getuid() or at.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{path.parent} is not private")
