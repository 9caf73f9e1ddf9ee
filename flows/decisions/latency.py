"""Is it too slow, did a change help, and what comes next (handbook 004, "Latency Spikes"). Pure."""

import math
from collections.abc import Mapping

from blocks.ladder import Ladder
from blocks.metric_values import MetricsPage, counter_delta, delta_estimate, value
from blocks.models import Frozen, ServingConfig
from blocks.service import Slo
from flows.decisions.metric_names import E2E, NAMES, RUNNING, WAITING
from flows.decisions.remedies import DEFAULT_NUM_SEQS

BETTER = 0.9
"""A change helped when the latency is below this share of what it was: less is noise."""
FEWEST = 5
"""Requests (count) that make a percentile: one long batch job at night is no latency spike."""
TPM_CUT = 0.25
"""Of the proxy's tokens per minute: the handbook says 20-30 %."""
QUANTILES = {"p90_latency_s": 0.90, "p95_latency_s": 0.95, "p99_latency_s": 0.99}


class Traffic(Frozen):
    """The requests that ended in one window, and how long they took."""

    window_s: float
    finished: int
    """Requests that ended (count)."""
    running: int | None = None
    """Requests in the engine at its end, waiting ones included."""
    quantiles: dict[str, float | None] = {}
    """Field of `Slo` -> seconds."""
    beyond: tuple[str, ...] = ()
    """Fields whose seconds are a lower bound: they lie beyond the histogram's last bucket."""
    problem: str = ""


class Miss(Frozen):
    """One objective and what was measured."""

    name: str
    """`p90`."""
    measured_s: float
    limit_s: float
    at_least: bool = False
    """Nothing finished, or the histogram ends there: it takes at least so long."""

    def words(self) -> str:
        """`p90 41.0 s > 30 s`."""
        least = "at least " if self.at_least else ""
        return f"{self.name} {least}{self.measured_s:.1f} s > {self.limit_s:g} s"


def traffic_between(before: MetricsPage, after: MetricsPage, window_s: float) -> Traffic:
    """The requests that ended between two scrapes.

    What was before, a spike of last night or the fast requests of a fresh start, does not count.
    """
    names = NAMES[E2E]
    problem = before.problem or after.problem
    finished = counter_delta(before, after, [f"{name}_count" for name in names])
    if not problem and finished is None:
        problem = f"/metrics has no {names[0]}"
    found = {field: delta_estimate(before, after, q, names) for field, q in QUANTILES.items()}
    inside = [value(after, NAMES[name]) for name in (RUNNING, WAITING)]
    known = [count for count in inside if count is not None]
    return Traffic(
        window_s=window_s,
        finished=int(finished or 0),
        running=int(sum(known)) if known else None,
        quantiles={field: one.value if one else None for field, one in found.items()},
        beyond=tuple(field for field, one in found.items() if one and one.at_least),
        problem=problem,
    )


def objectives(slo: Slo) -> dict[str, float]:
    """The latency objectives that the inventory sets: field of `Slo` -> seconds."""
    found = {name: getattr(slo, name) for name in QUANTILES}
    return {name: limit for name, limit in found.items() if limit is not None}


def measured(traffic: Traffic, slo: Slo) -> str:
    """Why nothing can be said of these objectives; empty when something can."""
    if traffic.problem:
        return traffic.problem
    if traffic.finished == 0 and not _stuck(traffic, slo):
        return f"no request ended within {traffic.window_s:g} s, so there is no latency to measure"
    if 0 < traffic.finished < FEWEST:
        return (
            f"only {traffic.finished} request(s) ended within {traffic.window_s:g} s, and {FEWEST} "
            "make a percentile"
        )
    missing = [n for n in objectives(slo) if traffic.quantiles.get(n) is None]
    if missing and traffic.finished:
        return f"{', '.join(missing)} could not be read from /metrics"
    short = [n for n, limit in objectives(slo).items() if _below(traffic, n, limit)]
    if short and traffic.finished and not misses(traffic, slo):
        bounds = ", ".join(f"{n} is at least {traffic.quantiles[n]:g} s" for n in short)
        return f"{bounds}: the buckets of /metrics end below the objective"
    return ""


def misses(traffic: Traffic, slo: Slo) -> list[Miss]:
    """The objectives that are missed, the worst first. Only for what `measured` finds sound."""
    found = []
    for name, limit in objectives(slo).items():
        value = traffic.quantiles.get(name)
        stuck = traffic.finished == 0 and _stuck(traffic, slo)
        seconds = traffic.window_s if stuck else value
        if seconds is not None and math.isfinite(seconds) and seconds > limit:
            short = name.partition("_")[0]
            least = stuck or name in traffic.beyond
            found.append(Miss(name=short, measured_s=seconds, limit_s=limit, at_least=least))
    return sorted(found, key=lambda m: m.measured_s / m.limit_s, reverse=True)


def helped(before: list[Miss], after: list[Miss]) -> bool:
    """Whether the worst objective came clearly down, or none is missed any more.

    A latency of which only a lower bound is known after the change has not been seen to fall.
    """
    was = {m.name: m.measured_s for m in before}
    return all(
        m.name in was and not m.at_least and m.measured_s < BETTER * was[m.name] for m in after
    )


def fewer_sequences(config: ServingConfig, ladder: Ladder) -> int | None:
    """The next lower number of sequences (count); None when none is left or none is known.

    Without a ladder it is halved: fewer at once is a lower latency for each.
    """
    now = config.max_num_seqs
    if now is None:  # vLLM's own, which is never fewer
        return next((r for r in ladder.max_num_seqs if r < DEFAULT_NUM_SEQS), None)
    rungs = [rung for rung in ladder.max_num_seqs if rung < now]
    if ladder.max_num_seqs:
        return rungs[0] if rungs else None
    return now // 2 or None


def lower_tpm(limits: Mapping[str, int], models: set[str]) -> dict[str, int]:
    """The limits with the tokens per minute of these models cut by a quarter."""
    return {
        name: math.floor(value * (1 - TPM_CUT))
        if name.endswith(".tpm") and name.removesuffix(".tpm") in models and value > 1
        else value
        for name, value in limits.items()
    }


def _below(traffic: Traffic, name: str, limit: float) -> bool:
    """Only a lower bound is known, and it is within the objective: that proves nothing."""
    seconds = traffic.quantiles.get(name)
    return name in traffic.beyond and seconds is not None and seconds <= limit


def _stuck(traffic: Traffic, slo: Slo) -> bool:
    """Requests are in the engine and none ended although the window is longer than allowed."""
    limits = objectives(slo).values()
    return bool(traffic.running) and any(traffic.window_s > limit for limit in limits)
