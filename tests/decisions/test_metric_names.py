"""PromQL that finds a number under its new or old name, whatever stands in the labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decisions import metric_names as names


def test_new_names_come_first() -> None:
    assert names.NAMES[names.CACHE][0] == "vllm:kv_cache_usage_perc"
    found = names.now(names.NAMES[names.CACHE], {"a": "b"}, "max")
    assert found == (
        'max(vllm:kv_cache_usage_perc{a="b"}) or (max(vllm:gpu_cache_usage_perc{a="b"})'
        ' unless on() vllm:kv_cache_usage_perc{a="b"})'
    )


@pytest.mark.parametrize(
    ("metric", "engine", "first", "count"),
    [
        (names.E2E, "vllm", "vllm:e2e_request_latency_seconds", 1),
        (names.E2E, "litellm", "litellm_request_total_latency_metric", 1),
        (names.E2E, "http", "cir3_vllm_latency_seconds", 2),
        (names.HTTP, "vllm", "http_requests_total", 1),
        (names.HTTP, "http", "http_requests_total", 3),
        (names.CACHE, "vllm", "vllm:kv_cache_usage_perc", 2),
        (names.WAITING, "http", "queue_length", 1),
    ],
)
def test_each_engine_has_names_of_its_own(metric: str, engine: str, first: str, count: int) -> None:
    found = names.names_of(metric, engine)
    assert (found[0], len(found)) == (first, count)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match=r"'a-b' is no label's name"):
        names.selector({"a-b": "x"})
    for window in ("", "5", "0m", "5m]) or vector(1", "1y"):
        with pytest.raises(ValueError, match="no range"):
            names.bucket_rates(["a"], {}, window)
    assert [names.seconds(w) for w in ("30s", "5m", "2h", "1d")] == [30, 300, 7200, 86_400]


@given(st.text(max_size=30))
def test_a_label_never_ends_its_string(text: str) -> None:
    found = names.quoted(text)
    assert found[0] == found[-1] == '"' and "\n" not in found
    inner, plain, at = found[1:-1], "", 0
    while at < len(inner):
        assert inner[at] != '"'
        if inner[at] == "\\":
            at += 1
            plain += {"n": "\n", "r": "\r"}.get(inner[at], inner[at])
        else:
            plain += inner[at]
        at += 1
    assert plain == text
