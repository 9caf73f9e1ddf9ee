"""Numbers of metrics and what can be made of them: series, a page, quantiles. Pure.

The arithmetic is Prometheus' own (`histogram_quantile`, `increase`), so that a page asked for
directly and a Prometheus answer to the same question agree.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from blocks.models import Frozen


class Sample(Frozen):
    """One series and its value; NaN and infinities are kept as they are."""

    labels: dict[str, str]
    value: float


class MetricsPage(Frozen):
    """One scrape of a `/metrics` page: sample name -> its series."""

    at: datetime
    """When it was asked for (aware)."""
    samples: dict[str, tuple[Sample, ...]] = {}
    """By the name of a line, so with `_total`, `_bucket`, `_count`."""
    problem: str = ""
    """Why there is no page; it holds no series then."""


class Estimate(Frozen):
    """A quantile that was read out of buckets."""

    value: float
    """In the histogram's unit: seconds."""
    at_least: bool = False
    """It lies beyond the last finite bucket: `value` is that bound, and the truth is higher."""
    count: float
    """Observations, or observations a second where the buckets are rates."""


def series(page: MetricsPage, names: Sequence[str]) -> tuple[Sample, ...]:
    """The series of the first of these names that the page has."""
    return next((page.samples[name] for name in names if page.samples.get(name)), ())


def value(
    page: MetricsPage, names: Sequence[str], labels: Mapping[str, str] | None = None
) -> float | None:
    """The sum over the series with these labels; None when there are none, or one is NaN."""
    return _sum(_matching(series(page, names), labels))


def estimate(q: float, buckets: Iterable[Sample]) -> Estimate | None:
    """The q-quantile of cumulative buckets, as Prometheus interpolates it.

    Buckets with one `le` are summed, whatever their other labels and however `le` is written.

    Args:
        q: 0..1.
        buckets: samples with an `le` label; counts or rates.

    Returns:
        None where it cannot be measured: no buckets, no `+Inf` bucket, nothing observed, a value
        that is no number.
    """
    totals: dict[float, float] = {}
    for sample in buckets:
        bound = _bound(sample.labels.get("le", ""))
        if bound is None or not math.isfinite(sample.value):
            return None
        totals[bound] = totals.get(bound, 0.0) + sample.value
    if not 0 <= q <= 1 or len(totals) < 2 or math.inf not in totals:
        return None
    bounds = sorted(totals)
    counts: list[float] = []
    for bound in bounds:
        # Counts of one page may be of different instants: a later bucket is never smaller.
        counts.append(max(totals[bound], counts[-1] if counts else 0.0))
    count = counts[-1]
    if count <= 0:
        return None
    rank = q * count
    at = next((i for i, c in enumerate(counts) if c >= rank), len(counts) - 1)
    if bounds[at] == math.inf:
        return Estimate(value=bounds[-2], at_least=True, count=count)
    if at == 0 and bounds[0] <= 0:
        return Estimate(value=bounds[0], count=count)
    below, low = (counts[at - 1], bounds[at - 1]) if at else (0.0, 0.0)
    inside = counts[at] - below
    share = (rank - below) / inside if inside > 0 else 1.0
    return Estimate(value=low + (bounds[at] - low) * share, count=count)


def delta_estimate(
    before: MetricsPage, after: MetricsPage, q: float, names: Sequence[str]
) -> Estimate | None:
    """The q-quantile of what was observed between two scrapes; None when nothing was.

    A server that restarted in between has counted from zero: all it has counted is taken.
    """
    return estimate(q, _growth(before, after, _buckets(names)))


def counter_delta(
    before: MetricsPage,
    after: MetricsPage,
    names: Sequence[str],
    labels: Mapping[str, str] | None = None,
) -> float | None:
    """How much a counter grew between two scrapes, a restart in between allowed for.

    None when a page is missing or the later one has no such counter.
    """
    return _sum(_matching(_growth(before, after, names), labels))


def _growth(before: MetricsPage, after: MetricsPage, names: Sequence[str]) -> tuple[Sample, ...]:
    if before.problem or after.problem:
        return ()
    now = series(after, names)
    was = {_key(s): s.value for s in series(before, names)}
    # A restart resets every series of a server at once, also those that have grown past what
    # they were since.
    reset = any(s.value < was.get(_key(s), 0.0) for s in now)
    if reset:
        return now
    return tuple(Sample(labels=s.labels, value=s.value - was.get(_key(s), 0.0)) for s in now)


def _matching(found: Iterable[Sample], labels: Mapping[str, str] | None) -> list[float]:
    wanted = (labels or {}).items()
    return [s.value for s in found if wanted <= s.labels.items()]


def _sum(values: Sequence[float]) -> float | None:
    total = sum(values)
    return None if not values or math.isnan(total) else total


def _buckets(names: Sequence[str]) -> list[str]:
    return [f"{name}_bucket" for name in names]


def _key(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(sample.labels.items()))


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
