"""Xid errors in the kernel's log: what NVML tells only to who listens at that moment.

Source: Documentation/ABI/testing/dev-kmsg; NVIDIA "Xid Errors". Reading needs root, CAP_SYSLOG or
`kernel.dmesg_restrict=0`.
"""

import errno
import os
import re
import time
from collections.abc import Iterable

from blocks.host_reading import GpuReading
from blocks.models import Frozen

KMSG = "/dev/kmsg"
LOOK_BACK_S = 24 * 3600.0
"""An overwritten log that reaches back less far than this proves no absence."""
FELL_OFF = 79
"""The Xid of a GPU that fell off the bus."""
_RECORD_BYTES = 8192
_MOST_RECORDS = 500_000
_XID = re.compile(rb"NVRM: Xid \(PCI:([0-9A-Fa-f]+(?::[0-9A-Fa-f]+){2})[^)]*\): (\d+)")
_SLOT = re.compile(r"([0-9A-Fa-f]+):([0-9A-Fa-f]+):([0-9A-Fa-f]+)")


class KernelXids(Frozen):
    """The last Xid of every GPU that had one, and how far back the log reaches."""

    last: dict[str, tuple[int, float]] = {}
    """PCI address `0000:4b:00` -> (Xid, seconds ago)."""
    whole: bool
    """Whether an absence means something: nothing of the last 24 h was overwritten."""
    reaches_s: float | None = None
    """Age of the first record, seconds: every boot begins a new log. None: it has no record."""


def kernel_xids(path: str = KMSG) -> KernelXids:
    """The Xids in this machine's kernel log.

    Raises:
        OSError: it cannot be read; the usual reason is a missing permission.
    """
    return parse(_records(path), time.clock_gettime(time.CLOCK_MONOTONIC))


def parse(records: Iterable[bytes], now_s: float) -> KernelXids:
    """The Xids among records `priority,sequence,microseconds,flags;text`; `now_s` since boot."""
    last: dict[str, tuple[int, float]] = {}
    whole, reaches_s = False, None
    for record in records:
        head, _, text = record.partition(b";")
        fields = head.split(b",")
        if len(fields) < 3 or not (fields[1].isdigit() and fields[2].isdigit()):
            continue
        ago = max(0.0, now_s - int(fields[2]) / 1e6)
        if reaches_s is None:
            reaches_s = round(ago, 1)
            whole = int(fields[1]) == 0 or ago >= LOOK_BACK_S
        if found := _XID.search(text):
            last[found[1].decode().lower()] = (int(found[2]), round(ago, 1))
    return KernelXids(last=last, whole=whole, reaches_s=reaches_s)


def joined(
    gpus: tuple[GpuReading, ...], xids: KernelXids
) -> tuple[tuple[GpuReading, ...], tuple[str, ...]]:
    """The GPUs with their Xids, a GPU that only the log knows any more, and what is not known."""
    by_slot = {_slot(where): (where, *found) for where, found in xids.last.items()}
    known = []
    for gpu in gpus:
        _, xid, age = by_slot.pop(_slot(gpu.bus_id), ("", 0 if xids.whole else None, None))
        found = {"xid": xid, "xid_age_s": age, "xid_reaches_s": xids.reaches_s}
        known.append(gpu.model_copy(update=found))
    known += [
        GpuReading(
            bus_id=where,
            xid=xid,
            xid_age_s=age,
            lost=xid == FELL_OFF,
            problem="the kernel's log knows it, and the driver does not list it",
        )
        for where, xid, age in by_slot.values()
    ]
    problems: tuple[str, ...] = ()
    if any(gpu.xid is None for gpu in known):
        problems = ("xid: the kernel's log was overwritten and reaches back less than 24 h",)
    return tuple(known), problems


def _slot(address: str) -> tuple[int, ...]:
    """NVML writes 00000000:4B:00.0, the kernel 0000:4b:00."""
    found = _SLOT.match(address)
    return tuple(int(part, 16) for part in found.groups()) if found else ()


def _records(path: str) -> Iterable[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in (errno.EPIPE, errno.EINVAL):
                    continue  # overwritten while it was read, or longer than any Xid's
                raise
            if not record:
                return
            yield record
    finally:
        os.close(descriptor)
