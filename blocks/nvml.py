"""NVIDIA GPUs through NVML: one session, many readings; no driver is a sentence, no exception.

Source: NVML API reference. Every call blocks, and hangs when the driver hangs: call from a thread
that may be left behind (blocks/deadline.py).
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from blocks.host_reading import GpuReading
from blocks.nvml_gpu import code, maybe, nv, read_gpu

_MOST_EVENTS = 256
_BUSY_S = 3.0
_ONE_AT_A_TIME = threading.Lock()

_NO_GPUS = "; set `gpus: false` for a machine without GPUs"
_WHY = {
    "LIBRARY_NOT_FOUND": "libnvidia-ml.so.1 is not on this machine: no NVIDIA driver, or a "
    "container started without --gpus" + _NO_GPUS,
    "DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded; modprobe nvidia, or see why it failed: "
    "dmesg | grep -i nvrm" + _NO_GPUS,
    "NO_PERMISSION": "no permission to talk to the NVIDIA driver; the worker's user needs "
    "/dev/nvidiactl and /dev/nvidia*",
    "LIB_RM_VERSION_MISMATCH": "libnvidia-ml.so.1 and the loaded kernel driver are of different "
    "versions: the driver was updated and not reloaded; reboot the machine",
    "OPERATING_SYSTEM": "the operating system blocks the NVIDIA driver (cgroup or device node)",
}


@dataclass(frozen=True)
class Gpus:
    """What NVML said. `gpus` None: it could not be asked, and `problems` says why."""

    gpus: tuple[GpuReading, ...] | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    problems: tuple[str, ...] = ()


def read_gpus() -> Gpus:
    """One reading in a session of its own. Xids are not looked for: `xid` is None. Never raises."""
    session = NvmlSession(listen=False)
    try:
        return session.sample()
    finally:
        session.close()


@dataclass
class NvmlSession:
    """NVML from its first reading to `close`; with `listen`, Xids are heard in between.

    The driver keeps the Xids that come between two readings; those from before the first one it
    does not tell.
    """

    listen: bool = True
    _open: bool = False
    _handles: list[Any] = field(default_factory=list)
    _failed: dict[int, str] = field(default_factory=dict)
    _events: Any = None
    _heard: dict[int, int] = field(default_factory=dict)
    _deaf: dict[int, str] = field(default_factory=dict)

    def sample(self) -> Gpus:
        """Every GPU, now. A GPU that cannot be asked says so itself; the others are read."""
        with _turn() as mine:
            if not mine:
                return Gpus(
                    problems=(
                        "gpus: an earlier NVML call of this process still hangs; look at dmesg, "
                        "the machine may need a reboot",
                    )
                )
            try:
                self._begin()
                self._hear()
                return self._read()
            except nv.NVMLError as e:
                self._end()
                return Gpus(problems=(f"gpus: {_why(e)}",))
            except Exception as e:  # noqa: BLE001 - a foreign library must not end a check
                self._end()
                return Gpus(problems=(f"gpus: NVML failed: {type(e).__name__}: {str(e)[:200]}",))

    def close(self) -> None:
        """Give everything back."""
        with _turn() as mine:
            if mine:
                self._end()

    def _begin(self) -> None:
        if self._open:
            return
        nv.nvmlInit()
        self._open = True
        for index in range(nv.nvmlDeviceGetCount()):
            try:
                self._handles.append(nv.nvmlDeviceGetHandleByIndex(index))
            except nv.NVMLError as e:
                self._handles.append(None)
                self._failed[index] = code(e)
        if self.listen:
            self._register()

    def _register(self) -> None:
        try:
            self._events = nv.nvmlEventSetCreate()
        except nv.NVMLError as e:
            self._deaf = dict.fromkeys(range(len(self._handles)), code(e))
            return
        for index, handle in enumerate(self._handles):
            if handle is None:
                continue
            try:
                nv.nvmlDeviceRegisterEvents(handle, nv.nvmlEventTypeXidCriticalError, self._events)
            except nv.NVMLError as e:
                self._deaf[index] = code(e)

    def _hear(self) -> None:
        if self._events is None:
            return
        for _ in range(_MOST_EVENTS):
            try:
                event = nv.nvmlEventSetWait_v2(self._events, 0)
            except nv.NVMLError as e:
                if code(e) != "TIMEOUT":  # from here on nothing would be heard
                    self._deaf |= dict.fromkeys(range(len(self._handles)), code(e))
                    self._drop_events()
                return
            if event.eventType & nv.nvmlEventTypeXidCriticalError:
                for index, handle in enumerate(self._handles):
                    if handle is not None and _address(handle) == _address(event.device):
                        self._heard[index] = int(event.eventData)

    def _read(self) -> Gpus:
        gpus, problems = [], []
        for index, handle in enumerate(self._handles):
            gpu = read_gpu(index, handle, self._failed.get(index, ""))
            listened = self.listen and index not in self._deaf and self._events is not None
            xid = self._heard.get(index, 0 if listened else None)
            gpus.append(gpu.model_copy(update={"xid": xid}))
            if gpu.problem:
                problems.append(f"{gpu.label}: {gpu.problem}")
        if self._deaf:
            which = ", ".join(f"{index} ({why})" for index, why in sorted(self._deaf.items())[:8])
            problems.append(f"xid: the driver tells no Xid events of GPU {which}")
        return Gpus(
            gpus=tuple(gpus),
            driver_version=maybe(nv.nvmlSystemGetDriverVersion),
            cuda_version=_cuda(maybe(nv.nvmlSystemGetCudaDriverVersion_v2)),
            problems=tuple(problems),
        )

    def _drop_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(nv.NVMLError):
                nv.nvmlEventSetFree(events)

    def _end(self) -> None:
        self._drop_events()
        if self._open:
            self._open = False
            with contextlib.suppress(nv.NVMLError):
                nv.nvmlShutdown()
        self._handles, self._failed, self._deaf = [], {}, {}


@contextlib.contextmanager
def _turn() -> Iterator[bool]:
    """Our turn to call NVML; False when whoever has it does not come back."""
    mine = _ONE_AT_A_TIME.acquire(timeout=_BUSY_S)
    try:
        yield mine
    finally:
        if mine:
            _ONE_AT_A_TIME.release()


def _why(error: Any) -> str:
    said = code(error)
    return _WHY.get(said, f"NVML answers {said}")


def _cuda(number: int | None) -> str | None:
    """12040 is 12.4."""
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
