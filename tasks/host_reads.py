"""Tasks that look at machines: one reading, and a window of GPU samples kept as CSV."""

import asyncio
import csv
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.deadline import within
from blocks.gpu_host import GpuHostSpec, read_host
from blocks.gpu_window import Collector, GpuWindow
from blocks.host_reading import GpuReading, HostReading, nothing
from blocks.nvml import NvmlSession
from blocks.prometheus_server import PrometheusSpec

GIVE_UP_AFTER = 3
"""So many readings without GPUs from the start on: there will not be any."""

COLUMNS: dict[str, Callable[[GpuReading], object]] = {
    "index": lambda g: g.index,
    "name": lambda g: g.name,
    "uuid": lambda g: g.uuid,
    "utilization.gpu [%]": lambda g: _times(g.utilization, 100, 1),
    "memory.used [MiB]": lambda g: _times(g.memory_used_gib, 1024, 0),
    "memory.total [MiB]": lambda g: _times(g.memory_total_gib, 1024, 0),
    "temperature.gpu": lambda g: g.temperature_c,
    "power.draw [W]": lambda g: _times(g.power_w, 1, 2),
    "ecc.errors.uncorrected.volatile.total": lambda g: g.ecc_uncorrected,
    "xid": lambda g: g.xid,
    "lost": lambda g: int(g.lost),
}
"""As `nvidia-smi --query-gpu` names them; `xid` and `lost` are ours. Empty: not measured."""


@task(name="read-host", task_run_name="read host {name}", cache_policy=NO_CACHE)
async def read_host_task(
    name: str, spec: GpuHostSpec, prometheus: PrometheusSpec | None
) -> HostReading:
    """One reading of one machine; what could not be measured is None, with the reason."""
    reading = await read_host(spec, prometheus)
    for problem in reading.problems:
        get_run_logger().warning("host %s: %s", name, problem)
    return reading


@task(name="sample-gpus", task_run_name="sample GPUs of {name}", cache_policy=NO_CACHE)
async def sample_gpus(
    name: str,
    spec: GpuHostSpec,
    prometheus: PrometheusSpec | None,
    file: str,
    window_s: float,
    interval_s: float,
) -> GpuWindow:
    """A machine's GPUs for `window_s` seconds, one reading every `interval_s`.

    Every sample is a row of the CSV before the next is taken, so that a kill loses nothing. Ends
    early when the first readings find no GPU. Never raises for what cannot be measured.

    Args:
        name: the machine, as the stack calls it.
        spec: how it is read.
        prometheus: of its stack.
        file: the CSV to write.
        window_s: seconds.
        interval_s: seconds; a reading that takes longer delays the next.
    """
    collector, began = Collector(), time.monotonic()
    async with AsyncExitStack() as stack:
        read = await stack.enter_async_context(_reader(spec, prometheus))
        rows = stack.enter_context(_Rows(Path(file)))
        tick = 0
        while True:
            reading = await read()
            at = time.monotonic() - began
            collector.add(at, reading)
            rows.write(reading)
            if collector.failed and not collector.samples and _hopeless(spec, collector.failed):
                break
            # Ticks that a slow reading missed are skipped, not made up for.
            tick = max(tick + 1, int(at / interval_s) + 1)
            if tick * interval_s >= window_s:
                break
            await asyncio.sleep(max(0.0, tick * interval_s - (time.monotonic() - began)))
    window = collector.window(time.monotonic() - began, rows.path)
    if rows.problem:
        window = window.model_copy(update={"problems": (*window.problems, rows.problem)})
    get_run_logger().info(
        "host %s: %d samples of %d GPUs, %d failed, in %.1f s",
        name,
        window.samples,
        len(window.gpus),
        window.failed,
        window.took_s,
    )
    return window


def _hopeless(spec: GpuHostSpec, failed: int) -> bool:
    """No driver on this machine is none a second later; a network may come back."""
    return spec.kind == "local" or failed >= GIVE_UP_AFTER


@asynccontextmanager
async def _reader(
    spec: GpuHostSpec, prometheus: PrometheusSpec | None
) -> AsyncIterator[Callable[[], Awaitable[HostReading]]]:
    if spec.kind != "local":
        yield lambda: read_host(spec, prometheus)
        return
    session, hung = NvmlSession(), False

    async def sample() -> HostReading:
        nonlocal hung
        try:
            found = await within(spec.timeout_s, session.sample)
        except TimeoutError:
            hung = True
            return nothing(f"NVML did not answer within {spec.timeout_s:g} s: the driver hangs")
        return HostReading(
            gpus=found.gpus,
            driver_version=found.driver_version,
            cuda_version=found.cuda_version,
            problems=found.problems,
        )

    try:
        yield sample
    finally:
        if not hung:
            with suppress(TimeoutError):
                await within(spec.timeout_s, session.close)


class _Rows:
    """The CSV; a disk that is full loses the file and not the watch."""

    def __init__(self, path: Path) -> None:
        self._path, self.problem = path, ""
        self._file: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._guarded(self._close)

    @property
    def path(self) -> str:
        """Where the rows are; empty where none could be written."""
        return str(self._path) if self._writer else ""

    def write(self, reading: HostReading) -> None:
        """A row per GPU, on the disk before this returns (but for the kernel's own cache)."""
        if reading.gpus and not self.problem:
            self._guarded(lambda: self._write(reading.gpus or ()))

    def _write(self, gpus: tuple[GpuReading, ...]) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(handle, "w", encoding="utf-8", newline="")
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow(["timestamp", *COLUMNS])
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
        self._writer.writerows([now, *(column(g) for column in COLUMNS.values())] for g in gpus)
        self._file.flush()

    def _close(self) -> None:
        if self._file:
            self._file.close()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as e:
            self.problem = self.problem or f"csv: {self._path} could not be written: {e.strerror}"


def _times(value: float | None, factor: float, digits: int) -> float | int | None:
    if value is None:
        return None
    return round(value * factor, digits) if digits else round(value * factor)
