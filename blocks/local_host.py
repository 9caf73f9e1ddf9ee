"""The worker's own machine: the kernel's counters, its log of Xids, file systems, NVML.

Only Linux tells CPU and memory to the standard library; elsewhere they are None, with the reason.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from blocks.deadline import begin
from blocks.host_reading import DiskReading, HostReading
from blocks.kernel_log import joined, kernel_xids
from blocks.nvml import Gpus, read_gpus
from blocks.nvml_gpu import GIB

T = TypeVar("T")
CPU_SAMPLE_S = 0.5


def read_local(disks: Sequence[str], *, gpus: bool = True, timeout_s: float = 15) -> HostReading:
    """This machine, now. Takes half a second, and never longer than `timeout_s`. Never raises.

    Args:
        disks: paths on the file systems to look at.
        gpus: whether to ask NVML, and the kernel's log for Xids.
        timeout_s: what has not answered by then (a hung driver, a dead mount) is None, seconds.
    """
    parts = _Parts(timeout_s)
    cpu, memory = parts.begin(_cpu), parts.begin(_memory)
    filling = {path: parts.begin(_disk_of(path)) for path in dict.fromkeys(disks)}
    nvml = parts.begin(read_gpus) if gpus else None
    xids = parts.begin(kernel_xids) if gpus else None
    found = (parts.end("gpus", nvml) if nvml else None) or Gpus()
    known = found.gpus
    if known and xids and (log := parts.end("xid", xids)):
        known, unknown = joined(known, log)
        parts.problems += unknown
    return HostReading(
        cpu_share=parts.end("cpu", cpu),
        memory_share=parts.end("memory", memory),
        disks=tuple(
            parts.end(f"disk {path}", part) or DiskReading(path=path)
            for path, part in filling.items()
        ),
        gpus=known,
        driver_version=found.driver_version,
        cuda_version=found.cuda_version,
        problems=(*parts.problems, *found.problems),
    )


class _Parts:
    """The parts of one reading, all under way at once: each fails or hangs for itself."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s, self.until = timeout_s, time.monotonic() + timeout_s
        self.problems: list[str] = []

    def begin(self, call: Callable[[], T]) -> "Future[T]":
        return begin(call)

    def end(self, what: str, part: "Future[T]") -> T | None:
        try:
            return part.result(max(0.0, self.until - time.monotonic()))
        except TimeoutError:
            self.problems.append(f"{what}: no answer within {self.timeout_s:g} s: it hangs")
        except Exception as e:  # noqa: BLE001 - whatever it is, the others are still read
            self.problems.append(f"{what}: {_reason(what, e)}")
        return None


def _reason(what: str, error: Exception) -> str:
    if isinstance(error, OSError):
        words = f"{error.filename or 'the kernel'}: {error.strerror}"
        if what == "xid":
            words += "; Xids of the past are read by root or with kernel.dmesg_restrict=0"
        return words
    return str(error)[:200] or type(error).__name__


def _cpu() -> float:
    """Busy share of all CPUs over half a second; waiting for a disk is not busy."""
    before = _ticks()
    time.sleep(CPU_SAMPLE_S)
    after = _ticks()
    passed = [b - a for a, b in zip(before, after, strict=True)]
    total = sum(passed)
    if total <= 0:
        raise ValueError("the kernel counted no time")
    # user nice system idle iowait irq softirq steal; guest time is already in user and nice.
    return min(1.0, max(0.0, 1 - (passed[3] + passed[4]) / total))


def _ticks() -> list[int]:
    return [int(word) for word in _proc("stat").splitlines()[0].split()[1:9]]


def _memory() -> float:
    values = dict(line.split(":", 1) for line in _proc("meminfo").splitlines() if ":" in line)
    total, free = (int(values[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    return min(1.0, max(0.0, 1 - free / total))


def _proc(name: str) -> str:
    if not sys.platform.startswith("linux"):
        raise ValueError(f"not measured on {sys.platform}: only Linux has /proc/{name}")
    return Path("/proc", name).read_text(encoding="ascii", errors="replace")


def _disk_of(path: str) -> Callable[[], DiskReading]:
    def disk() -> DiskReading:
        found: Any = shutil.disk_usage(path)
        reachable = found.used + found.free  # without what is reserved for root, as df counts
        return DiskReading(
            path=path,
            used_share=found.used / reachable if reachable else None,
            free_gib=round(found.free / GIB, 3),
        )

    return disk
