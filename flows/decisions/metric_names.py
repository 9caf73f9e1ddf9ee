"""What one number is called by new and old servers, and the PromQL that finds it. Pure.

Source: vLLM 0.32 `/metrics` and its older names; LiteLLM "Prometheus metrics"; handbooks 002 and
003, "Key Metrics".
"""

import re
from collections.abc import Callable, Mapping, Sequence

from blocks.promql import quoted as quoted
from blocks.promql import selector as selector

E2E = "e2e latency"
RUNNING = "running"
WAITING = "waiting"
CACHE = "cache usage"
FINISHED = "finished requests"
HTTP = "http requests"
PROXIED = "proxied requests"
PROXY_FAILED = "failed proxied requests"
PREEMPTIONS = "preemptions"

NAMES: dict[str, tuple[str, ...]] = {
    E2E: (
        "vllm:e2e_request_latency_seconds",
        "litellm_request_total_latency_metric",
        "cir3_vllm_latency_seconds",
        "inference_latency_seconds",
    ),
    RUNNING: ("vllm:num_requests_running", "active_requests"),
    WAITING: ("vllm:num_requests_waiting", "queue_length"),
    CACHE: ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    # By `finished_reason`: stop, length, abort, error, repetition.
    FINISHED: ("vllm:request_success_total",),
    # By `status`: 2xx, 4xx, 5xx; or success, error.
    HTTP: ("http_requests_total", "cir3_vllm_requests_total", "inference_requests_total"),
    PROXIED: ("litellm_proxy_total_requests_metric_total",),
    # By `exception_status`: 400, 429, 500, ...
    PROXY_FAILED: ("litellm_proxy_failed_requests_metric_total",),
    PREEMPTIONS: ("vllm:num_preemptions_total",),
}
"""Logical metric -> its names, the new one first. Histograms without `_bucket`."""

NOT_WORK = r"/v1/models|/health|/metrics|/ping|/version|/load|/docs|/openapi\.json"
"""Handlers that say nothing of the engine; our own looks are among them (a regular expression)."""

_WINDOW = re.compile(r"([1-9]\d*)([smhd])")
_STEPS = 100
"""Looks at a window to see where it has gaps."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_OF_ENGINE = {"vllm": ("vllm:", "http_"), "litellm": ("litellm_",)}


def names_of(metric: str, engine: str) -> tuple[str, ...]:
    """The names that a service of this engine uses; those of another are somebody else's."""
    own = _OF_ENGINE.get(engine)
    if own:
        found = [name for name in NAMES[metric] if name.startswith(own)]
    else:
        found = [name for name in NAMES[metric] if not name.startswith(("vllm:", "litellm_"))]
    return tuple(found) or NAMES[metric]


def now(names: Sequence[str], labels: Mapping[str, str], fold: str = "sum") -> str:
    """PromQL of a gauge as it is now, under whichever name it is there.

    Args:
        names: of the gauge, the preferred one first.
        labels: of the service.
        fold: how its series become one: sum, max.

    Raises:
        ValueError: a bad label name.
    """
    return _first_of(names, selector(labels), lambda one: f"{fold}({one})")


def bucket_rates(names: Sequence[str], labels: Mapping[str, str], window: str) -> str:
    """PromQL of a histogram's rate per second by `le`: every quantile can be read out of it.

    Only series that are there now count: those of a server that is gone would tell of a past
    that looks well for as long as the window lasts.

    Args:
        names: of the histogram without `_bucket`, the preferred one first.
        labels: of the service.
        window: range, e.g. `5m`.

    Raises:
        ValueError: a bad label name or window.
    """
    seconds(window)
    return _first_of(
        [f"{name}_bucket" for name in names],
        selector(labels),
        lambda one: f"sum by (le) (rate({one}[{window}]) and {one})",
    )


def growth(
    names: Sequence[str], labels: Mapping[str, str], window: str, by: str, *more: str
) -> str:
    """PromQL of how much a counter grew in the window, by one label.

    Nothing where the service is not there now. Where it is, what its earlier lives counted is
    growth too: a server that failed all night and was restarted has no series of failures any
    more. A series that was born in the window counts whole where its target was scraped before:
    the first error of a server makes its series, and `increase` alone would see no growth in it.

    Args:
        names: of the counter, the preferred one first.
        labels: of the service.
        window: range, e.g. `5m`.
        by: label to keep.
        more: further matchers.

    Raises:
        ValueError: a bad label name or window.
    """
    seconds(window)
    service = selector(labels)

    def grown(one: str) -> str:
        grew = f"increase({one}[{window}])"
        scraped = f"on (instance, job) (up offset {window})"
        born = f"(max_over_time({one}[{window}]) unless ({one} offset {window}) and {scraped})"
        here = f"({one.partition('{')[0]}{service} or up{service} == 1)"
        return f"sum by ({by}) (({born} > {grew} or {grew} or {born}) and on () {here})"

    return _first_of(names, selector(labels, *more), grown)


def scraped(labels: Mapping[str, str], window: str) -> str:
    """PromQL of how much of the window a target of the service was scraped for, seconds.

    Raises:
        ValueError: a bad label name or window.
    """
    step_ms = seconds(window) * 1000 // _STEPS
    up = f"up{selector(labels)}"
    return f"max(count_over_time({up}[{window}:{step_ms}ms])) * {step_ms / 1000:g}"


def held(names: Sequence[str], labels: Mapping[str, str], window: str) -> str:
    """PromQL of the least a gauge was throughout the window; nothing when it is younger.

    Raises:
        ValueError: a bad label name or window.
    """
    seconds(window)
    return _first_of(
        names,
        selector(labels),
        lambda one: f"sum(min_over_time({one}[{window}]) and ({one} offset {window}) and {one})",
    )


def seconds(window: str) -> int:
    """A range such as `5m` in seconds.

    Raises:
        ValueError: it is none.
    """
    if not (found := _WINDOW.fullmatch(window)):
        raise ValueError(f"{window[:20]!r} is no range; write a number and s, m, h or d, as in 5m")
    return int(found[1]) * _UNITS[found[2]]


def _first_of(names: Sequence[str], matching: str, query: Callable[[str], str]) -> str:
    # Without `unless`, the labels that only the old metric has would be mixed with the new one's.
    found = []
    for number, name in enumerate(names):
        newer = "".join(f" unless on() {other}{matching}" for other in names[:number])
        one = query(f"{name}{matching}")
        found.append(f"({one}{newer})" if newer else one)
    return " or ".join(found)
