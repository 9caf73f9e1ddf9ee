"""The numbers behind the service levels of one service, wherever they were asked for. Pure."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blocks.metric_values import MetricsPage, Sample, series
from blocks.service import Service
from flows.decisions import metric_names as names
from flows.decisions.latency import objectives

Answers = Mapping[str, Sequence[Sample] | str]
"""Number -> its series, or why there are none."""
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


class Shares(NamedTuple):
    """How the requests of one source ended (counts)."""

    total: float
    """Without those that the client itself got wrong (4xx)."""
    bad: float
    aborted: float = 0.0


def wanted(service: Service) -> list[str]:
    """The numbers its inventory asks for; queue, cache and preemptions of every vLLM server."""
    slo, vllm = service.slo, service.engine == "vllm"
    found = []
    if objectives(slo):
        found += ["latency"] + (["in engine"] if vllm else [])
    if slo.error_rate is not None or slo.throughput_rps is not None:
        by_engine = {"vllm": ["finished"], "litellm": ["proxied", "proxy failed"], "http": []}
        found += by_engine[service.engine]
        if service.engine == "http" or (vllm and slo.error_rate is not None):
            found.append("http")
    return found + (["waiting", "cache", "preemptions"] if vllm else [])


def queries(service: Service, window: str) -> dict[str, str]:
    """PromQL for each number that is wanted, and for whether Prometheus scrapes it at all.

    Raises:
        ValueError: a label name that cannot be, or a window that is none.
    """
    labels, engine = service.labels, service.engine

    def of(metric: str) -> tuple[str, ...]:
        return names.names_of(metric, engine)

    work = f"handler!~{names.quoted(names.NOT_WORK)}"
    made = {
        "latency": lambda: names.bucket_rates(of(names.E2E), labels, window),
        "in engine": lambda: names.held(of(names.RUNNING), labels, window),
        "finished": lambda: names.growth(of(names.FINISHED), labels, window, "finished_reason"),
        "http": lambda: names.growth(of(names.HTTP), labels, window, "status", work),
        "proxied": lambda: names.growth(of(names.PROXIED), labels, window, "status_code"),
        "proxy failed": lambda: names.growth(
            of(names.PROXY_FAILED), labels, window, "exception_status"
        ),
        "waiting": lambda: names.now(of(names.WAITING), labels),
        "cache": lambda: names.now(of(names.CACHE), labels, "max"),
        "preemptions": lambda: names.growth(of(names.PREEMPTIONS), labels, window, "job"),
    }
    found = {name: made[name]() for name in wanted(service)}
    return {**found, "up": f"min(up{names.selector(labels)})"} if found else {}


def from_prometheus(service: Service, answers: Answers, window: str) -> Numbers:
    """Numbers out of the answers to `queries`."""
    up, ups = answers.get("up", ()), names.selector(service.labels)
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
    return Numbers(answers, span, over, missing, rates=True)


def from_page(service: Service, page: MetricsPage) -> Numbers:
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
    over = f"since its start {span / 3600:.1f} h ago" if span else "since its start"
    return Numbers(found, span, over, "its /metrics has no such series", rates=False)


def total(answer: Sequence[Sample] | str, fold: object = sum) -> float | str:
    """One number of an answer, or why there is none; the empty word for no series."""
    if isinstance(answer, str):
        return answer
    values = [s.value for s in answer]
    if not all(map(math.isfinite, values)):
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


def shares_of(sources: Sequence[str], seen: Numbers) -> tuple[list[Shares], str]:
    """How requests ended, by each of these sources that is there, and why one is not."""
    found, whys = [], []
    for source in sources:
        answer = seen.answers.get(source, _NOT_ASKED)
        if why := _unusable(answer, seen):
            whys.append(why)
        elif source == "proxied":
            failed = seen.answers.get("proxy failed", _NOT_ASKED)
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
    by = _by_label(failed, "exception_status")
    bad = math.fsum(_but_clients(by))
    clients = math.fsum(by.values()) - bad
    every = math.fsum(_by_label(proxied, "status_code").values())
    return Shares(max(bad, every - clients), bad)


def _but_clients(by: Mapping[str, float]) -> Iterable[float]:
    return (v for k, v in by.items() if not _CLIENT.fullmatch(k))


def _is_work(number: str, sample: Sample) -> bool:
    handler = sample.labels.get("handler", "")
    return number != "http" or not re.fullmatch(names.NOT_WORK, handler)
