"""What the zygote imports before it forks, and whether that is still what is on disk."""

import contextlib
import importlib
import os
import sys
import sysconfig
import threading

from deployments.launch import ENGINE, root

Stamp = tuple[tuple[str, int, int], ...]
PACKAGES = ("blocks", "tasks", "flows", "deployments")
PRELOAD = ("prefect.engine", "prefect.flow_engine", "prefect.task_engine")
LAZY = (
    "prefect._internal.metrics",
    "prefect.deployments.steps.core",
    "prefect.deployments.steps.pull",
    "anyio._backends._asyncio",
    "rich._emoji_codes",
)
"""What an engine imports while it runs; one that moves in another Prefect costs time only."""


def code_stamp() -> Stamp:
    """Name, size and time of everything that was imported from: it changes with any edit."""
    top = root()
    seen: list[tuple[str, int, int]] = []
    folders = [os.path.join(top, package) for package in PACKAGES]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    at = entry.stat()
                    seen.append((entry.path, at.st_size, at.st_mtime_ns))
                elif entry.name != "__pycache__" and entry.is_dir():
                    folders.append(entry.path)
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        with contextlib.suppress(OSError):  # pip adds or removes a folder there
            seen.append((path, 0, os.stat(path).st_mtime_ns))
    return tuple(sorted(seen))


def python_variables(env: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The variables that an interpreter and its loader read at their start only."""
    return {k: v for k, v in env.items() if k.startswith((b"PYTHON", b"LD_", b"DYLD_", b"MALLOC_"))}


def preload() -> None:
    """Import what a run needs.

    Raises:
        RuntimeError: something started a thread, or the flows come from another checkout.
    """
    import yaml

    for module in PRELOAD:
        importlib.import_module(module)
    for module in LAZY:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    sys.modules.pop(ENGINE[1])  # every child runs it afresh, as its main module
    from deployments.bootstrap import prefect_yaml

    declared = yaml.safe_load(prefect_yaml().read_text(encoding="utf-8"))
    for entry in declared["deployments"]:
        name = entry["entrypoint"].split(":")[0].rsplit(".", 1)[0]
        origin = str(importlib.import_module(name).__file__)
        if not origin.startswith(root() + os.sep):
            raise RuntimeError(f"{name} comes from {origin}, not from {root()}")
    threads = [t.name for t in threading.enumerate()]
    if len(threads) > 1 or native_threads() > 1:
        raise RuntimeError(f"an import started a thread, a fork would not be safe: {threads}")


def native_threads() -> int:
    """Threads of this process as the kernel counts them; 1 where it cannot be asked."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1
