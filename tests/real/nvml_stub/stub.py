"""Build the stand-in for NVIDIA's driver library, and tell it what to answer."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml
import pytest

from tests.conftest import missing

SOURCE = Path(__file__).with_name("nvml_stub.c")
LIBRARY = "libnvidia-ml.so.1"
GIB = 1024**3


def built(folder: Path) -> Path:
    """The folder of the library, compiled once; skips where there is no C compiler."""
    if (cc := shutil.which("cc")) is None:
        missing("cc", "no C compiler to build the stand-in for libnvidia-ml.so.1 with")
    library = folder / LIBRARY
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / f"{LIBRARY}.{os.getpid()}"
        argv = [str(cc), "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE)]
        subprocess.run(argv, check=True)
        made.rename(library)
    return folder


class Driver:
    """The machine's GPUs as the stand-in tells them. Values change at once, also in a watch."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self.values: dict[str, object] = {}
        self.events: list[str] = []
        self.set(init=0, driver="550.54.15", cuda=12040, count=0)

    def set(self, **values: object) -> None:
        """Values of the machine; None takes one away."""
        self.values |= values
        lines = [f"{k} {v}" for k, v in self.values.items() if v is not None] + self.events
        scratch = self.state.with_suffix(".new")
        scratch.write_text("\n".join(lines) + "\n")
        scratch.replace(self.state)

    def gpu(self, index: int, **values: object) -> None:
        """Values of one GPU; a fresh one is a healthy H200."""
        if f"{index}.name" not in self.values:
            whole = {
                "name": "NVIDIA H200",
                "uuid": f"GPU-{index:08d}-aaaa-bbbb-cccc-ddddeeeeffff",
                "bus": f"00000000:{index + 16:02X}:00.0",
                "memory_used": 100 * GIB,
                "memory_total": 140 * GIB,
                "utilization": 42,
                "temperature": 55,
                "power": 350_500,
                "ecc": 0,
            }
            values = {**whole, **values}
            self.values["count"] = max(int(str(self.values["count"])), index + 1)
        self.set(**{f"{index}.{k}": v for k, v in values.items()})

    def xid(self, index: int, number: int) -> None:
        """The driver meets an Xid."""
        self.events.append(f"event {index} {number}")
        self.set()

    @property
    def env(self) -> dict[str, str]:
        """For a process that loads the library by itself."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "NVML_STUB": str(self.state)}

    def left_open(self) -> int:
        """Sessions and event sets that nobody gave back."""
        return int(pynvml.nvmlLib.stubOpen())


@contextmanager
def loaded(folder: Path, state: Path, patch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """This process's pynvml on a stand-in of its own; the real loading is a subprocess's."""
    # A copy under a name of its own: the loader gives one file's counters to every test.
    copy = state.parent / f"{LIBRARY}.{state.name}"
    shutil.copy(folder / LIBRARY, copy)
    driver = Driver(folder, state)
    patch.setenv("NVML_STUB", str(state))
    patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(copy)))
    patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield driver
