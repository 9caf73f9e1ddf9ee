"""`/metrics` pages and the numbers in them: quantiles, sums, differences, and None for nothing."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.metric_values import (
    Estimate,
    MetricsPage,
    Sample,
    counter_delta,
    delta_estimate,
    estimate,
    series,
    value,
)
from blocks.metrics_page import parse, scrape
from blocks.service import Service
from deployments.sandbox.vllm_metrics import Metrics
from flows.decisions.metric_names import CACHE, E2E, FINISHED, NAMES
from tests.blocks.answering import answer, answering, drip
from tests.conftest import free_port

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LATENCY = NAMES[E2E]


def page_of(metrics: Metrics, **how: Any) -> MetricsPage:
    found = parse(metrics.text(**how).encode(), NOW)
    assert not found.problem
    return found


def since_start(page: MetricsPage, q: float) -> Estimate | None:
    return estimate(q, series(page, [f"{name}_bucket" for name in LATENCY]))


def buckets(**counts: float) -> list[Sample]:
    """`_1=3, inf=4` -> le 1: 3, le +Inf: 4."""
    les = {n: "+Inf" if n == "inf" else n.lstrip("_").replace("_", ".") for n in counts}
    return [Sample(labels={"le": les[n]}, value=v) for n, v in counts.items()]


def service(url: str, **more: Any) -> Service:
    runtime = {"kind": "docker", "container": "c"}
    return Service.model_validate({"url": url, "runtime": runtime, **more})


async def test_a_page_of_vllm() -> None:
    metrics = Metrics("m")
    metrics.observe("e2e_request_latency_seconds", 0.4, 3)
    metrics.add("request_success", 2, finished_reason="stop")
    metrics.add("request_success", 1, finished_reason="abort")
    async with answering(answer(body=metrics.text().encode())) as server:
        page = await scrape(service(server.url))
        assert server.received[0].startswith("GET /metrics HTTP/1.1")
    assert page.problem == "" and value(page, NAMES[FINISHED]) == 3
    assert value(page, NAMES[FINISHED], {"finished_reason": "abort"}) == 1
    assert value(page, NAMES[FINISHED], {"finished_reason": "none"}) is None
    assert value(page, ["no_such"]) is None and series(page, ["no_such"]) == ()
    assert [s.value for s in series(page, NAMES[CACHE])] == [0]
    # All three in the bucket of 0.3 to 0.5 s.
    for q, seconds in ((0.5, 0.4), (1, 0.5)):
        found = since_start(page, q)
        assert found and found.value == pytest.approx(seconds) and found.count == 3


def test_old_names_and_both_names() -> None:
    metrics = Metrics("m")
    metrics.set("kv_cache_usage_perc", 0.5)
    assert value(page_of(metrics, old=True), NAMES[CACHE]) == 0.5
    both = page_of(metrics).samples | {"vllm:gpu_cache_usage_perc": (Sample(labels={}, value=0.9),)}
    assert value(MetricsPage(at=NOW, samples=both), NAMES[CACHE]) == 0.5, "the new name counts"


def test_a_histogram_without_traffic_has_no_quantile() -> None:
    metrics = Metrics("m")
    assert since_start(page_of(metrics), 0.95) is None
    metrics.observe("e2e_request_latency_seconds", 1)
    assert since_start(page_of(metrics, without="e2e_request_latency_seconds"), 0.5) is None
    assert since_start(page_of(metrics, empty=True), 0.5) is None


def test_beyond_the_last_bucket_is_a_lower_bound() -> None:
    metrics = Metrics("m")
    metrics.observe("e2e_request_latency_seconds", 9_000, 2)
    found = since_start(page_of(metrics), 0.5)
    assert found and (found.value, found.at_least, found.count) == (7680, True, 2)


@pytest.mark.parametrize(
    "odd",
    [
        [],
        buckets(_1=1, _2=2),
        buckets(inf=3),
        buckets(_1=0, inf=0),
        buckets(_1=math.nan, inf=3),
        buckets(_1=1, inf=math.inf),
        buckets(_1=1, nan=2, inf=3),
        buckets(_1=1, x=2, inf=3),
        [Sample(labels={}, value=3)],
    ],
)
def test_buckets_that_tell_nothing(odd: list[Sample]) -> None:
    assert estimate(0.95, odd) is None


def test_interpolation_is_prometheus_own() -> None:
    # histogram_quantile over {0.5: 2, 1: 6, +Inf: 8}, worked out by hand.
    some = buckets(_0_5=2, _1=6, inf=8)
    assert [round(estimate(q, some).value, 6) for q in (0, 0.25, 0.5, 0.75)] == [0, 0.5, 0.75, 1]
    assert estimate(0.76, some).at_least
    shuffled = [*some[::-1], *(Sample(labels={**s.labels, "engine": "1"}, value=0) for s in some)]
    assert estimate(0.5, shuffled) == estimate(0.5, some)
    assert estimate(0.9, buckets(_1=5, _2=4.9, inf=5)).value <= 1, "a bucket is never smaller"


@given(
    st.lists(st.floats(0.001, 100), min_size=1, max_size=60),
    st.floats(0.01, 1),
)
def test_a_quantile_lies_in_the_bucket_of_the_observation(seen: list[float], q: float) -> None:
    bounds = [0.01, 0.1, 1.0, 10.0, math.inf]
    some = [
        Sample(labels={"le": "+Inf" if b == math.inf else str(b)}, value=sum(s <= b for s in seen))
        for b in bounds
    ]
    found = estimate(q, some)
    assert found and found.count == len(seen)
    rank = max(1, math.ceil(q * len(seen) - 1e-9))
    true = sorted(seen)[rank - 1]
    upper = next(b for b in bounds if true <= b)
    lower = max([0.0, *(b for b in bounds if b < true)])
    if found.at_least:
        assert found.value == 10 and true > 10
    else:
        assert lower - 1e-9 <= found.value <= upper + 1e-9
    higher = estimate(min(1.0, q + 0.1), some)
    assert higher and higher.value >= found.value - 1e-9


def test_what_happened_between_two_scrapes() -> None:
    metrics = Metrics("m")
    metrics.observe("e2e_request_latency_seconds", 0.4, 100)
    metrics.add("request_success", 100, finished_reason="stop")
    before = page_of(metrics)
    assert delta_estimate(before, page_of(metrics), 0.9, LATENCY) is None, "nothing ended"
    assert counter_delta(before, page_of(metrics), NAMES[FINISHED]) == 0
    metrics.observe("e2e_request_latency_seconds", 9, 10)
    metrics.add("request_success", 10, finished_reason="stop")
    after = page_of(metrics)
    found = delta_estimate(before, after, 0.9, LATENCY)
    assert found and 5 <= found.value <= 10 and found.count == 10
    whole = since_start(after, 0.9)
    assert whole and whole.value < 0.6, "since the start it looks well"
    assert counter_delta(before, after, NAMES[FINISHED], {"finished_reason": "stop"}) == 10
    assert counter_delta(before, after, ["no_such"]) is None
    none = MetricsPage(at=NOW, problem="connection refused")
    assert counter_delta(none, after, NAMES[FINISHED]) is None
    assert delta_estimate(before, none, 0.9, LATENCY) is None


def test_a_restart_between_two_scrapes() -> None:
    old, new = Metrics("m"), Metrics("m")
    old.observe("e2e_request_latency_seconds", 0.4, 100)
    old.add("request_success", 100, finished_reason="stop")
    new.observe("e2e_request_latency_seconds", 0.4, 7)
    new.observe("e2e_request_latency_seconds", 9, 3)
    new.add("request_success", 10, finished_reason="stop")
    new.add("request_success", 1, finished_reason="abort")
    found = delta_estimate(page_of(old), page_of(new), 0.5, LATENCY)
    assert found and found.count == 10
    assert counter_delta(page_of(old), page_of(new), NAMES[FINISHED]) == 11


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>login</html>\n", "not in Prometheus' text format"),
        (b"a 1\nb{x=\n", "not in Prometheus' text format"),
        (b"a 1\nb 2", "in the middle of a line"),
        (b"a 1\nb two\n", "not in Prometheus' text format"),
        (b"\xff\xfe 1\n", "not in Prometheus' text format"),
        (b'a{x="1",x="2"} 1\n', "not in Prometheus' text format"),
        (b"", "empty"),
        (b"# HELP a\n", "empty"),
    ],
)
def test_a_broken_page_is_no_page(body: bytes, words: str) -> None:
    page = parse(body, NOW)
    assert words in page.problem and page.samples == {}


@given(st.binary(max_size=200))
def test_no_page_raises(body: bytes) -> None:
    page = parse(body, NOW)
    assert bool(page.problem) != bool(page.samples)


async def test_why_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = await scrape(service(f"http://127.0.0.1:{free_port()}"))
    assert "connection refused" in nobody.problem
    async with answering(answer(401)) as server:
        assert "set or renew its api_key" in (await scrape(service(server.url))).problem
        server.reply = drip(b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n")
        late = await scrape(service(server.url), timeout_s=0.3)
        assert "no answer within 0.3 s" in late.problem
        monkeypatch.setenv("KEY", "s3cret")
        server.reply = answer(404, b"s3cret")
        page = await scrape(service(server.url, api_key="${KEY}"))
        assert "answered 404" in page.problem and "s3cret" not in page.problem
        assert "Authorization: Bearer s3cret" in server.received[-1]
        monkeypatch.delenv("KEY")
        unset = await scrape(service(server.url, api_key="${KEY}"))
        assert "KEY is not set" in unset.problem


async def test_a_large_page() -> None:
    body = "".join(f'a{{n="{n}"}} 1\n' for n in range(30_000)).encode()
    async with answering(answer(body=body)) as server:
        assert value(await scrape(service(server.url)), ["a"]) == 30_000
