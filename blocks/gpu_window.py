"""Many readings of a machine's GPUs as one: least, mean, most, and a curve of bounded length."""

from collections.abc import Sequence

from blocks.host_reading import GpuReading, HostReading
from blocks.models import Frozen

MOST_GPUS = 64
MOST_POINTS = 400
"""Of one curve; beyond, every second is dropped and half as many are kept from then on."""
MEASURES = ("utilization", "memory_used_gib", "temperature_c", "power_w")
_MOST_PROBLEMS = 8


class Spread(Frozen):
    """Least, mean and most of one number over the window; `count` readings had it."""

    least: float
    mean: float
    most: float
    count: int


class GpuSeries(Frozen):
    """One GPU over the window."""

    worst: GpuReading
    """Its most used memory, hottest, the most ECC errors, the last Xid, and whether it was lost."""
    spreads: dict[str, Spread] = {}
    """By the name in MEASURES; what was never measured is not in it."""
    times_s: tuple[float, ...] = ()
    """Of the points of the curves, seconds since the start."""
    curves: dict[str, tuple[float | None, ...]] = {}


class GpuWindow(Frozen):
    """What was sampled of one machine."""

    samples: int = 0
    """Readings with GPUs in them (count)."""
    failed: int = 0
    """Readings without (count)."""
    took_s: float = 0.0
    gpus: tuple[GpuSeries, ...] = ()
    driver_version: str | None = None
    problems: tuple[str, ...] = ()
    csv: str = ""
    """File of every sample; empty when there is none."""

    def worst(self) -> HostReading:
        """The worst of the window as one reading, to be judged like any other."""
        return HostReading(
            gpus=tuple(g.worst for g in self.gpus) if self.samples else None,
            driver_version=self.driver_version,
            problems=self.problems,
        )


class Collector:
    """Readings go in one after the other; memory stays bounded however long it takes."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}
        self._problems: dict[str, None] = {}
        self.samples = self.failed = 0
        self._driver: str | None = None

    def add(self, at_s: float, reading: HostReading) -> None:
        """One reading, `at_s` seconds after the start."""
        for problem in reading.problems:
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems[problem] = None
        if reading.gpus is None:
            self.failed += 1
            return
        self.samples += 1
        self._driver = reading.driver_version or self._driver
        for gpu in reading.gpus[:MOST_GPUS]:
            # A lost GPU no longer says its UUID: the index is what stays.
            self._series.setdefault(gpu.label, _Series()).add(at_s, gpu)

    def window(self, took_s: float, csv: str = "") -> GpuWindow:
        """Everything up to now."""
        return GpuWindow(
            samples=self.samples,
            failed=self.failed,
            took_s=round(took_s, 3),
            gpus=tuple(series.frozen() for series in self._series.values()),
            driver_version=self._driver,
            problems=tuple(self._problems),
            csv=csv,
        )


class _Series:
    def __init__(self) -> None:
        self.worst: GpuReading | None = None
        self.sums: dict[str, list[float]] = {}
        self.points: list[tuple[float, tuple[float | None, ...]]] = []
        self.stride, self.seen = 1, 0

    def add(self, at_s: float, gpu: GpuReading) -> None:
        self.worst = gpu if self.worst is None else _worse(self.worst, gpu)
        values = tuple(getattr(gpu, name) for name in MEASURES)
        for name, value in zip(MEASURES, values, strict=True):
            if value is not None:
                least, total, most, count = self.sums.get(name, [value, 0.0, value, 0])
                self.sums[name] = [min(least, value), total + value, max(most, value), count + 1]
        if self.seen % self.stride == 0:
            self.points.append((round(at_s, 2), values))
            if len(self.points) > MOST_POINTS:
                self.points, self.stride = self.points[::2], self.stride * 2
        self.seen += 1

    def frozen(self) -> GpuSeries:
        assert self.worst is not None  # noqa: S101 - made with its first reading
        return GpuSeries(
            worst=self.worst,
            spreads={
                name: Spread(least=a, mean=total / count, most=b, count=int(count))
                for name, (a, total, b, count) in self.sums.items()
            },
            times_s=tuple(at for at, _ in self.points),
            curves={
                name: tuple(values[i] for _, values in self.points)
                for i, name in enumerate(MEASURES)
                if name in self.sums
            },
        )


def _worse(one: GpuReading, other: GpuReading) -> GpuReading:
    """The worse of both, number by number; what only one of them knows is kept."""
    changes: dict[str, object] = {
        name: _most([getattr(one, name), getattr(other, name)])
        for name in (*MEASURES, "memory_total_gib", "ecc_uncorrected")
    }
    # The later Xid counts; 0 says that somebody listened, and must not wipe out one that was heard.
    changes["xid"] = other.xid or one.xid if other.xid or one.xid else _most([one.xid, other.xid])
    changes["xid_age_s"] = other.xid_age_s if other.xid else one.xid_age_s
    changes["lost"] = one.lost or other.lost
    for name in ("name", "uuid", "bus_id", "problem", "processes", "unsupported"):
        changes[name] = getattr(other, name) or getattr(one, name)
    return one.model_copy(update=changes)


def _most(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
