"""One GPU asked question by question through NVML: what it does not know is None, not an error.

Source: NVML API reference. Every call blocks, and hangs when the driver hangs.
"""

from collections.abc import Callable
from typing import Any

import pynvml as _untyped  # type: ignore[import-untyped]

from blocks.host_reading import GpuProcess, GpuReading

nv: Any = _untyped
GIB = 1024**3
_MOST_PROCESSES = 32
LOST = ("GPU_IS_LOST", "RESET_REQUIRED", "GPU_NOT_FOUND")
_NOT_THERE = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "VGPU_ECC_NOT_SUPPORTED")
_OLDER_CALL = (*_NOT_THERE, "ARGUMENT_VERSION_MISMATCH", "DEPRECATED")
_NAMES = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(nv).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}


def read_gpu(index: int, handle: Any, failed: str = "") -> GpuReading:
    """Everything a driver tells of one GPU. Never raises an NVML error; `xid` is None.

    Args:
        index: as the driver counts.
        handle: NVML's handle; None where it gave none out.
        failed: why not, as `code` says it.
    """
    return _Asked(index, handle, failed).reading()


class _Asked:
    """One GPU being asked, question by question."""

    def __init__(self, index: int, handle: Any, failed: str) -> None:
        self.index, self.handle = index, handle
        self.lost = failed in LOST
        self.unsupported: list[str] = []
        self.problems: list[str] = [f"the driver does not give it out: {failed}"] if failed else []

    def ask(self, name: str, *calls: Callable[[Any], Any]) -> Any:
        """The answer of the first call that this library and GPU have; None when none does."""
        said = ""
        for call in calls:
            if self.handle is None or self.lost:
                return None
            try:
                return call(self.handle)
            except (nv.NVMLError, nv.NVMLLibraryMismatchError, AttributeError) as e:
                said = code(e)
                if said in LOST:
                    self.lost = True
                    self.problems.append(f"fell off the bus or needs a reset ({said})")
                    return None
                if said not in _OLDER_CALL:
                    break
        if said in _NOT_THERE:
            self.unsupported.append(name)
        else:
            self.problems.append(f"{name}: {said}")
        return None

    def reading(self) -> GpuReading:
        name = self.ask("name", nv.nvmlDeviceGetName)
        uuid = self.ask("uuid", nv.nvmlDeviceGetUUID)
        pci = self.ask("bus_id", lambda h: nv.nvmlDeviceGetPciInfo_v3(h))
        memory = self.ask(
            "memory",
            # Version 2 leaves the driver's own reserve out of `used`, as nvidia-smi does.
            lambda h: nv.nvmlDeviceGetMemoryInfo(h, nv.nvmlMemory_v2),
            nv.nvmlDeviceGetMemoryInfo,
        )
        busy = self.ask("utilization", nv.nvmlDeviceGetUtilizationRates)
        celsius = self.ask(
            "temperature_c",
            lambda h: nv.nvmlDeviceGetTemperatureV(h, nv.NVML_TEMPERATURE_GPU),
            lambda h: nv.nvmlDeviceGetTemperature(h, nv.NVML_TEMPERATURE_GPU),
        )
        milliwatts = self.ask("power_w", nv.nvmlDeviceGetPowerUsage)
        ecc = self.ask(
            "ecc_uncorrected",
            lambda h: nv.nvmlDeviceGetTotalEccErrors(
                h, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC
            ),
        )
        running = self.ask(
            "processes",
            lambda h: nv.nvmlDeviceGetComputeRunningProcesses_v3(h),
            lambda h: nv.nvmlDeviceGetComputeRunningProcesses_v2(h),
        )
        return GpuReading(
            index=self.index,
            name=_text(name),
            uuid=_text(uuid),
            bus_id=_text(pci.busId) if pci else "",
            memory_used_gib=_gib(memory.used) if memory else None,
            memory_total_gib=_gib(memory.total) if memory else None,
            utilization=min(1.0, busy.gpu / 100) if busy else None,
            temperature_c=None if celsius is None else float(celsius),
            power_w=None if milliwatts is None else milliwatts / 1000,
            ecc_uncorrected=ecc,
            lost=self.lost,
            unsupported=tuple(self.unsupported),
            problem="; ".join(self.problems)[:300],
            processes=tuple(map(_process, (running or [])[:_MOST_PROCESSES])),
        )


def _process(one: Any) -> GpuProcess:
    held = one.usedGpuMemory
    return GpuProcess(
        pid=one.pid,
        name=_text(maybe(lambda: nv.nvmlSystemGetProcessName(one.pid))).rsplit("/", 1)[-1][:80],
        memory_gib=None if held is None else _gib(held),
    )


def maybe(call: Callable[[], Any]) -> Any:
    """Its answer, or None."""
    try:
        return call()
    except (nv.NVMLError, AttributeError, UnicodeDecodeError):
        return None


def code(error: BaseException) -> str:
    """`GPU_IS_LOST` and the like."""
    value = getattr(error, "value", None)
    if value is None:  # a function that this library, or this pynvml, does not have
        return "FUNCTION_NOT_FOUND"
    return str(_NAMES.get(value, f"error {value}"))


def _gib(size: int) -> float:
    return round(size / GIB, 3)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value or "")
