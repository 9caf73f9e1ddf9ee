"""Processes and files of the local supervisor: who is alive, and atomic JSON.

Standard library only; Linux and macOS.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Replace a file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    temporary.replace(path)


def birth(pid: int) -> str:
    """When a process started; empty when it is gone or a zombie. Tells a recycled pid apart."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        except OSError:
            return ""
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{boot[:8]}:{fields[19]}"
    import subprocess  # only here: importing it costs as much as the rest of a call

    out = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return "" if len(out) < 2 or out[0].startswith("Z") else out[1].strip()


def alive(pid: int | None, born: str) -> bool:
    """True while exactly this process, not a namesake, exists."""
    return bool(pid and born) and birth(pid or 0) == born


def now() -> str:
    """The time, UTC, ISO 8601."""
    seconds = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{int(seconds % 1 * 1e6):06d}+00:00"


def read_env_file(path: str | Path) -> dict[str, str]:
    """`KEY=VALUE` lines of an environment file; comments, `export` and quotes allowed."""
    values: dict[str, str] = {}
    for raw in Path(path).read_text(encoding="utf-8").splitlines():
        line = raw.strip().removeprefix("export ").strip()
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        value = value.strip()
        if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
            value = value[1 : value.find(value[0], 1)]
        else:
            value = value.split(" #")[0].rstrip()
        values[key.strip()] = value
    return values
