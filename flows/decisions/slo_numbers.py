"""The numbers behind the service levels of one service, wherever they were asked for. Pure."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blocks.metric_values import MetricsPage, Sample, series
from blocks.promql import quoted, selector
from blocks.service import Service
from flows.decisions import metric_names as names
from flows.decisions.latency import objectives

Answers = Mapping[str, Sequence[Sample] | str]
"""Number -> its series, or why there are none."""
LONG = " (long)"
"""A number with this at its end is counted over `checks.window_h`, the night included."""
_NOT_ASKED = "it was not asked for"
_CLIENT = re.compile(r"4(\d\d|xx)", re.IGNORECASE)
_SERVER = re.compile(r"5(\d\d|xx)|err(or)?s?|fail(ed|ure)?|timeout|exception", re.IGNORECASE)


class Numbers(NamedTuple):
    """What is known of one service, over one span of time."""

    answers: Answers
    span_s: float | None
    """What counters are counted over, seconds; None: not known."""
    over: str
    """The same in words: `in the last 5m`, `since its start 3.2 h ago`."""
    missing: str
    """Why a number that is not there may be missing."""
    rates: bool
    """Whether the buckets are rates per second; counts otherwise."""
    long_over: str
    """What the numbers with `LONG` are counted over, in words."""
    thin: str = ""
    """Why what was counted over the longest span proves nothing good; empty where it does."""


class Shares(NamedTuple):
    """How the requests of one source ended (counts)."""

    total: float
    """Without those that the client itself got wrong (4xx)."""
    bad: float
    aborted: float = 0.0


def wanted(service: Service) -> list[str]:
    """The numbers its inventory asks for; queue, cache and preemptions of every vLLM server.

    The queue of another server is asked for where `metrics` says what selects it.
    """
    slo, vllm = service.slo, service.engine == "vllm"
    found = []
    if objectives(slo):
        found += ["latency"] + (["in engine"] if vllm else [])
    if slo.error_rate is not None or slo.throughput_rps is not None:
        by_engine = {"vllm": ["finished"], "litellm": ["proxied", "proxy failed"], "http": []}
        counters = by_engine[service.engine]
        if service.engine == "http" or (vllm and slo.error_rate is not None):
            counters = [*counters, "http"]
        found += counters
        found += [f"{c}{LONG}" for c in counters] if slo.error_rate is not None else []
    if vllm:
        return [*found, "waiting", "cache", "preemptions"]
    return found + (["waiting"] if service.engine == "http" and service.metrics else [])


def long_window(hours: float) -> str:
    """`checks.window_h` as a range: `24h`, `90m`."""
    whole_s = max(1, round(hours * 3600))
    for unit, length in (("h", 3600), ("m", 60)):
        if whole_s % length == 0:
            return f"{whole_s // length}{unit}"
    return f"{whole_s}s"


def queries(service: Service, window: str, hours: float) -> dict[str, str]:
    """PromQL for each number that is wanted, and for whether Prometheus scrapes it at all.

    Args:
        service: its objectives, engine and labels.
        window: of rates and of what grows just now, e.g. `5m`.
        hours: `checks.window_h`, which errors are counted over as well.

    Raises:
        ValueError: a label name that cannot be, or a window that is none.
    """
    labels, engine, long = service.labels, service.engine, long_window(hours)

    def of(metric: str) -> tuple[str, ...]:
        return names.names_of(metric, engine)

    work = f"handler!~{quoted(names.NOT_WORK)}"
    counted = {
        "finished": (names.FINISHED, "finished_reason"),
        "http": (names.HTTP, "status", work),
        "proxied": (names.PROXIED, "status_code"),
        "proxy failed": (names.PROXY_FAILED, "exception_status"),
        "preemptions": (names.PREEMPTIONS, "job"),
    }

    def grown(number: str) -> str:
        metric, *by = counted[number.removesuffix(LONG)]
        over = long if number.endswith(LONG) else window
        return names.growth(of(metric), labels, over, *by)

    made = {
        "latency": lambda: names.bucket_rates(of(names.E2E), labels, window),
        "in engine": lambda: names.held(of(names.RUNNING), labels, window),
        "waiting": lambda: names.now(of(names.WAITING), labels),
        "cache": lambda: names.now(of(names.CACHE), labels, "max"),
    }
    found = {n: made[n]() if n in made else grown(n) for n in wanted(service)}
    if any(number.endswith(LONG) for number in found):
        found["scraped"] = names.scraped(labels, long)
    return {**found, "up": f"min(up{selector(labels)})"} if found else {}


def from_prometheus(service: Service, answers: Answers, window: str, hours: float) -> Numbers:
    """Numbers out of the answers to `queries`."""
    up, ups = answers.get("up", ()), selector(service.labels)
    if isinstance(up, str) or any(math.isnan(s.value) for s in up):
        missing = f"no such series ({ups}); is it scraped?"
    elif not up:
        missing = f"no such series ({ups}); is it scraped? `metrics` of the service sets labels"
    elif any(s.value == 0 for s in up):
        missing = f"Prometheus cannot scrape it: up{ups} is 0"
    else:
        missing = f"Prometheus scrapes it ({ups}), and it has no such series in the window"
    span = float(names.seconds(window)) if window else None
    over = f"in the last {window}" if window else "in the window"
    long, long_over = names.seconds(long_window(hours)), f"in the last {hours:g} h"
    scraped, thin = total(answers.get("scraped", ()), max), ""
    if isinstance(scraped, float) and scraped < WHOLE * long:
        thin = f"Prometheus scraped it for {scraped / 3600:.2g} of the last {hours:g} h"
    elif scraped and isinstance(scraped, str):
        thin = f"how long it was scraped is not known: {scraped}"
    return Numbers(answers, span, over, missing, rates=True, long_over=long_over, thin=thin)


WHOLE = 0.9
"""Share of the window that must have been scraped before it counts as seen."""


def is_scraped(seen: Numbers) -> bool:
    """Whether its numbers are read at all, so that one which is not there is none of its own."""
    up = seen.answers.get("up", ())
    return not seen.rates or (
        not isinstance(up, str) and bool(up) and all(s.value == 1 for s in up)
    )


def from_page(service: Service, page: MetricsPage, hours: float) -> Numbers:
    """Numbers out of its own page: counters since it started, gauges now."""
    keys = {
        "latency": names.E2E,
        "finished": names.FINISHED,
        "http": names.HTTP,
        "proxied": names.PROXIED,
        "proxy failed": names.PROXY_FAILED,
        "waiting": names.WAITING,
        "cache": names.CACHE,
    }
    found: dict[str, Sequence[Sample] | str] = {}
    for number in wanted(service):
        if number in keys:
            known = names.names_of(keys[number], service.engine)
            suffix = "_bucket" if number == "latency" else ""
            seen = series(page, [name + suffix for name in known])
            found[number] = page.problem or tuple(s for s in seen if _is_work(number, s))
    began = total(series(page, ["process_start_time_seconds"]), max)
    span = page.at.timestamp() - began if isinstance(began, float) else None
    span = span if span and span > 0 else None
    missing, over = "its /metrics has no such series", "since its start"
    thin = "since when is not known: it has no process_start_time_seconds"
    if span:
        days = f"{span / 86_400:.1f} days" if span > 48 * 3600 else f"{span / 3600:.1f} h"
        over = f"since its start {days} ago"
        late = f"averaged over {days}: only a `prometheus` knows the last {hours:g} h"
        thin = late if span > hours * 3600 else ""
    return Numbers(found, span, over, missing, rates=False, long_over=over, thin=thin)


def total(answer: Sequence[Sample] | str, fold: object = sum) -> float | str:
    """One number of an answer, or why there is none; the empty word for no series."""
    if isinstance(answer, str):
        return answer
    values = [s.value for s in answer]
    # NaN and infinities, and what would become one in a sum.
    if not all(abs(v) < 1e300 for v in values):
        return "it is no number (NaN): no traffic in the window"
    if not values:
        return ""
    return float(max(values) if fold is max else math.fsum(values))


def _by_label(answer: Sequence[Sample] | str, label: str) -> dict[str, float]:
    """Sums by one label's value."""
    found: dict[str, float] = {}
    for sample in () if isinstance(answer, str) else answer:
        key = sample.labels.get(label, "")
        found[key] = found.get(key, 0.0) + sample.value
    return found


SOURCES = {"vllm": ("http", "finished"), "litellm": ("proxied",), "http": ("http",)}
"""Engine -> what tells how its requests ended; the last one counts its throughput.

vLLM has two, and each hides errors from the other: a refused request never reaches the engine,
and a stream that breaks has answered 200 before.
"""


def shares_of(sources: Sequence[str], seen: Numbers, span: str = "") -> tuple[list[Shares], str]:
    """How requests ended, by each of these sources that is there, and why one is not.

    Args:
        sources: of `SOURCES`.
        seen: what is known.
        span: `LONG` for `checks.window_h`.
    """
    found, whys = [], []
    for source in sources:
        answer = seen.answers.get(f"{source}{span}", _NOT_ASKED)
        if why := _unusable(answer, seen):
            whys.append(why)
        elif source == "proxied":
            failed = seen.answers.get(f"proxy failed{span}", _NOT_ASKED)
            # A proxy that never failed has no series of failures.
            if failed and (why := _unusable(failed, seen)):
                whys.append(why)
            else:
                found.append(_proxy_shares(answer, failed))
        else:
            found.append(_http_shares(answer) if source == "http" else _finished_shares(answer))
    return found, whys[0] if whys else ""


def _unusable(answer: Sequence[Sample] | str, seen: Numbers) -> str:
    counted = total(answer)
    return "" if isinstance(counted, float) else counted or seen.missing


def told(value: float, limit: float) -> str:
    """A number in as few digits as show on which side of its limit it is."""
    for digits in (3, 4, 6):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
        if (float(text.replace(",", "")) > limit) == (value > limit):
            return text
    return repr(value)


def _http_shares(answer: Sequence[Sample] | str) -> Shares:
    """Answered requests by HTTP status, or by the word that stands for it."""
    by = _by_label(answer, "status")
    bad = math.fsum(v for k, v in by.items() if _SERVER.fullmatch(k))
    return Shares(math.fsum(_but_clients(by)), bad)


def _finished_shares(answer: Sequence[Sample] | str) -> Shares:
    """Requests of a vLLM engine by the reason they ended for."""
    by = _by_label(answer, "finished_reason")
    return Shares(math.fsum(by.values()), by.get("error", 0.0), by.get("abort", 0.0))


def _proxy_shares(proxied: Sequence[Sample] | str, failed: Sequence[Sample] | str) -> Shares:
    """Requests through the proxy: some errors are told by one counter only, so the worse counts."""
    by, of = _by_label(failed, "exception_status"), _by_label(proxied, "status_code")
    told_bad = math.fsum(_but_clients(by))
    bad = max(told_bad, math.fsum(v for k, v in of.items() if _SERVER.fullmatch(k)))
    every, others = math.fsum(of.values()), math.fsum(_but_clients(of))
    clients = max(math.fsum(by.values()) - told_bad, every - others)
    return Shares(max(bad, every - clients), bad)


def _but_clients(by: Mapping[str, float]) -> Iterable[float]:
    return (v for k, v in by.items() if not _CLIENT.fullmatch(k))


def _is_work(number: str, sample: Sample) -> bool:
    handler = sample.labels.get("handler", "")
    return number != "http" or not re.fullmatch(names.NOT_WORK, handler)
