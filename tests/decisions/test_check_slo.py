"""Service levels: what is measured is judged, and what is not is never ok."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.check_policy import CheckPolicy
from blocks.metric_values import MetricsPage, Sample
from blocks.service import Service
from flows.decisions.check_slo import LEVELS, judge_slo, judge_slo_page, slo_queries
from flows.decisions.finding import Finding
from flows.decisions.slo_numbers import LONG

POLICY = CheckPolicy(queue=50, cache=0.95)
SLO = {"p95_latency_s": 10.0, "error_rate": 0.01, "throughput_rps": 1.0}
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def service(engine: str = "vllm", slo: dict[str, float] | None = None) -> Service:
    runtime = {"kind": "docker", "container": "c"}
    return Service.model_validate(
        {
            "engine": engine,
            "url": "http://motoko:8000",
            "runtime": runtime,
            "slo": SLO if slo is None else slo,
        }
    )


def one(value: float, **labels: str) -> tuple[Sample, ...]:
    return (Sample(labels=labels, value=value),)


def by(label: str, **values: float) -> tuple[Sample, ...]:
    return tuple(Sample(labels={label: k.strip("_")}, value=v) for k, v in values.items())


def buckets(fast: float = 3.0, slow: float = 0.0, beyond: float = 0.0) -> tuple[Sample, ...]:
    """Rates: within 5 s, within 20 s, above."""
    sums = {"5.0": fast, "20.0": fast + slow, "+Inf": fast + slow + beyond}
    return tuple(Sample(labels={"le": le}, value=v) for le, v in sums.items())


WELL: dict[str, Any] = {
    "latency": buckets(),
    "in engine": one(0),
    "finished": by("finished_reason", stop=800, length=100, abort=2, error=0),
    "http": by("status", _2xx=890, _4xx=50, _5xx=1),
    "waiting": one(0),
    "cache": one(0.4),
    "preemptions": one(0),
    "up": one(1),
}
COUNTERS = ("finished", "http", "proxied", "proxy failed")
DAY = {f"{n}{LONG}": WELL[n] for n in COUNTERS if n in WELL} | {"scraped": one(86_400)}


def judged(
    changed: dict[str, Any] | None = None,
    of: Service | None = None,
    day: dict[str, Any] | None = None,
) -> dict[str, Finding]:
    """The findings by check.

    Args:
        changed: answers that differ from all being well; counters over the long window likewise.
        of: the service.
        day: what differs over the long window only.
    """
    long = {f"{n}{LONG}": v for n, v in (changed or {}).items() if n in COUNTERS}
    answers = {**WELL, **DAY, **(changed or {}), **long, **(day or {})}
    found = judge_slo("wintermute", of or service(), POLICY, answers, "5m")
    assert all(f.subject == "wintermute" for f in found)
    assert len({f.check for f in found}) == len(found)
    return {f.check: f for f in found}


def test_all_is_well() -> None:
    found = judged()
    assert {f.status for f in found.values()} == {"ok"}
    assert list(found) == [
        "p95 latency", "error rate", "throughput", "queue", "cache", "preemptions"
    ]  # fmt: skip
    assert found["p95 latency"].value == "4.75 s"
    assert found["p95 latency"].evidence == "900 requests in the last 5m"
    assert found["error rate"].evidence == "1 of 891 requests in the last 24 h"
    assert found["throughput"].value == "3 requests/s"


def test_queries_ask_for_what_the_inventory_asks() -> None:
    asked = slo_queries(service(), "5m", POLICY)
    assert set(asked) == set(WELL) | set(DAY)
    assert all(("[24h]" in q) == n.endswith(LONG) for n, q in asked.items() if n != "scraped")
    assert all('instance="motoko:8000"' in q for q in asked.values())
    assert set(slo_queries(service(slo={}), "5m", POLICY)) == {
        "waiting", "cache", "preemptions", "up"
    }  # fmt: skip
    assert slo_queries(service("http", {}), "5m", POLICY) == {}
    assert slo_queries(service("litellm", {}), "5m", POLICY) == {}
    counters = {f"{n}{span}" for n in ("proxied", "proxy failed") for span in ("", LONG)}
    assert set(slo_queries(service("litellm"), "5m", POLICY)) == {
        "latency", *counters, "scraped", "up"
    }  # fmt: skip
    served = slo_queries(service("litellm", {"throughput_rps": 1.0}), "5m", POLICY)
    assert set(served) == {"proxied", "proxy failed", "up"}, "the night is errors' business"
    night = slo_queries(service(), "5m", CheckPolicy(window_h=1.5))[f"http{LONG}"]
    assert "[90m]" in night
    assert judge_slo("x", service("http", {}), POLICY, {}, "5m") == []


@pytest.mark.parametrize(
    ("changed", "check", "status", "words", "suggests"),
    [
        ({"latency": buckets(1, 9)}, "p95 latency", "fail", "19.2 s", "remediate-latency"),
        ({"latency": buckets(1, 0, 9)}, "p95 latency", "fail", "> 20 s", "remediate-latency"),
        ({"http": by("status", _2xx=90, _5xx=10)}, "error rate", "fail", "10 %",
         "remediate-outage"),
        ({"http": by("status", _200=90, _503=10)}, "error rate", "fail", "10 %",
         "remediate-outage"),
        ({"finished": by("finished_reason", stop=900, error=100)}, "error rate", "fail", "10 %",
         "remediate-outage"),
        ({"finished": by("finished_reason", stop=90, abort=10)}, "error rate", "warn",
         "clients gave up on 10 %", ""),
        ({"http": by("status", _2xx=4, _5xx=1)}, "error rate", "warn", "too few", ""),
        ({"http": by("status", _2xx=900, _4xx=900)}, "error rate", "ok", "0 of 900", ""),
        ({"finished": by("finished_reason", stop=30)}, "throughput", "warn", "nothing waits", ""),
        ({"finished": by("finished_reason", stop=30), "waiting": "no answer"}, "throughput",
         "warn", "whether requests wait is not known", ""),
        ({"finished": by("finished_reason", stop=30), "waiting": one(4)}, "throughput", "fail",
         "4 wait meanwhile", "remediate-latency"),
        ({"finished": by("finished_reason", stop=0)}, "throughput", "warn", "nothing waits", ""),
        ({"finished": by("finished_reason", stop=0), "waiting": one(4)}, "throughput", "fail",
         "4 wait meanwhile", "remediate-outage"),
        ({"waiting": one(51)}, "queue", "warn", "51 waiting", "remediate-latency"),
        ({"waiting": one(50)}, "queue", "ok", "50 waiting", ""),
        ({"cache": one(0.97)}, "cache", "warn", "97 %", "remediate-latency"),
        ({"preemptions": one(3.2)}, "preemptions", "warn", "4", ""),
    ],
)  # fmt: skip
def test_what_is_missed(
    changed: dict[str, Any], check: str, status: str, words: str, suggests: str
) -> None:
    found = judged(changed)[check]
    assert (found.status, found.suggests) == (status, suggests), found
    assert words in f"{found.value} {found.evidence}"


@pytest.mark.parametrize(
    ("changed", "check", "words"),
    [
        ({"latency": ()}, "p95 latency", "has no such series"),
        ({"latency": buckets(0)}, "p95 latency", "no traffic in the last 5m"),
        ({"latency": buckets(math.nan)}, "p95 latency", "no traffic"),
        ({"latency": "no answer within 10 s"}, "p95 latency", "no answer within 10 s"),
        ({"http": ()}, "error rate", "has no such series"),
        ({"http": "bad"}, "error rate", "bad"),
        ({"finished": ()}, "error rate", "has no such series"),
        ({"finished": by("finished_reason", stop=0), "http": ()}, "error rate", "no traffic"),
        ({"finished": by("finished_reason", stop=math.nan)}, "throughput", "NaN"),
        ({"waiting": ()}, "queue", "has no such series"),
        ({"cache": one(math.nan)}, "cache", "NaN"),
        ({"cache": one(40)}, "cache", "no share of a cache"),
        ({"preemptions": ()}, "preemptions", "has no such series"),
        ({"waiting": (), "up": ()}, "queue", "is it scraped?"),
        ({"waiting": (), "up": one(0)}, "queue", "cannot scrape it"),
    ],
)
def test_what_is_not_measured(changed: dict[str, Any], check: str, words: str) -> None:
    found = judged(changed)[check]
    assert found.status == "unknown" and words in found.evidence and found.value == ""


def test_a_bucket_that_ends_below_the_objective_proves_nothing() -> None:
    found = judged({"latency": buckets(1, 0, 9)}, service(slo={"p95_latency_s": 30}))
    assert found["p95 latency"].status == "unknown"
    assert "at least 20 s" in found["p95 latency"].evidence


def test_requests_that_never_end() -> None:
    stuck = {"latency": buckets(0), "in engine": one(3)}
    found = judged(stuck)["p95 latency"]
    assert (found.status, found.value) == ("fail", "≥ 300 s")
    assert found.suggests == "remediate-outage"
    patient = judged(stuck, service(slo={"p95_latency_s": 600}))["p95 latency"]
    assert patient.status == "unknown", "the objective is longer than the window"


def test_one_reason_for_all_is_told_once() -> None:
    refused = dict.fromkeys(WELL, "connection refused")
    (found,) = judged(refused).values()
    assert (found.check, found.status) == (LEVELS, "unknown")
    assert found.evidence == (
        "not measured: p95 latency, error rate, throughput, queue, cache; connection refused"
    )
    (gone,) = judged({**dict.fromkeys([*WELL, "scraped"], ()), "up": one(0)}).values()
    assert "cannot scrape it: up" in gone.evidence
    (nothing,) = judge_slo("x", service(), POLICY, {}, "5m")
    assert nothing.status == "unknown"


def test_without_an_objective_the_procedure_is_not_suggested() -> None:
    found = judged({"waiting": one(99)}, service(slo={}))["queue"]
    assert found.suggests == "" and "slo.p95_latency_s" in found.advice


def test_the_error_rate_covers_the_night_and_the_last_minutes() -> None:
    quiet = {"http": (), "finished": by("finished_reason", stop=0, error=0)}
    night = {f"http{LONG}": by("status", _2xx=950, _5xx=50)}
    found = judged(quiet, day=night)["error rate"]
    assert (found.status, found.value) == ("fail", "5 %"), "nothing happens now, and 5 % failed"
    assert found.evidence == "50 of 1,000 requests in the last 24 h"
    well = {f"http{LONG}": by("status", _2xx=90_000, _5xx=300)}
    found = judged({"http": by("status", _2xx=10, _5xx=290)}, day=well)["error rate"]
    assert (found.status, found.value) == ("fail", "96.7 %"), "a day makes little of an outage"
    assert found.evidence == "290 of 300 requests in the last 5m"
    found = judged({"http": by("status", _2xx=9, _5xx=1)}, day=well)["error rate"]
    assert (found.status, found.value) == ("ok", "0.332 %"), "one error of ten is no rate"
    found = judged({"http": "no answer"}, day=well)["error rate"]
    assert (found.status, found.evidence) == ("unknown", "no answer")


@given(st.lists(st.integers(0, 300), min_size=2, max_size=2), st.integers(0, 3000))
def test_a_day_above_the_objective_is_never_ok(errors: list[int], served: int) -> None:
    recent, day = errors
    long = {f"http{LONG}": by("status", _2xx=served, _5xx=day + recent)}
    found = judged({"http": by("status", _2xx=0, _5xx=recent)}, day=long)["error rate"]
    if day + recent > 0.01 * (served + day + recent) or recent > 1:
        assert found.status in ("fail", "warn")
    elif served:
        assert found.status == "ok"


def test_a_window_that_was_scraped_in_part_proves_nothing() -> None:
    part = {"scraped": one(3 * 3600)}
    found = judged(part)
    assert (found["error rate"].status, found["error rate"].value) == ("unknown", "0.112 %")
    assert "scraped it for 3 of the last 24 h" in found["error rate"].evidence
    assert {f.status for n, f in found.items() if n != "error rate"} == {"ok"}
    assert judged({**part, "http": by("status", _2xx=9, _5xx=9)})["error rate"].status == "fail"
    lost = judged({"scraped": "no answer"})["error rate"]
    assert lost.status == "unknown" and "no answer" in lost.evidence
    federated = judged({"scraped": (), "up": ()})["error rate"]
    assert federated.status == "ok", "without `up` there is nothing to know it by"


def test_a_proxy() -> None:
    answers = {
        "latency": buckets(),
        "proxied": by("status_code", _200=950, _500=20, _429=30),
        "proxy failed": by("exception_status", _500=20, _429=30),
        "scraped": one(86_400),
        "up": one(1),
    }

    def found() -> dict[str, Finding]:
        whole = answers | {f"{n}{LONG}": answers[n] for n in ("proxied", "proxy failed")}
        return {f.check: f for f in judge_slo("p", service("litellm"), POLICY, whole, "5m")}

    assert found()["error rate"].evidence == "20 of 970 requests in the last 24 h"
    assert found()["error rate"].status == "fail" and found()["throughput"].status == "ok"
    answers["proxy failed"] = ()
    assert found()["error rate"].evidence == "20 of 970 requests in the last 24 h"
    answers["proxied"] = by("status_code", _200=50, _500=50)
    assert (found()["error rate"].status, found()["error rate"].value) == ("fail", "50 %")
    answers["proxied"] = by("status_code", _200=950, _429=30)
    assert found()["error rate"].status == "ok", "a proxy that never failed has no such series"
    assert found()["error rate"].evidence == "0 of 950 requests in the last 24 h"
    answers["proxy failed"] = "no answer"
    assert found()["error rate"].status == "unknown"
    answers |= {"proxied": by("status_code", _200=30), "proxy failed": ()}
    low = found()["throughput"]
    assert (low.status, low.suggests) == ("warn", ""), "nobody knows whether anything waits"


def test_the_queue_of_another_engine() -> None:
    base = service("http", {}).model_dump() | {"metrics": {"job": "largeforge-inference"}}
    engine = Service.model_validate(base)
    asked = slo_queries(engine, "5m", POLICY)
    assert asked["waiting"] == 'sum(queue_length{job="largeforge-inference"})'

    def found(**answers: Any) -> list[Finding]:
        return judge_slo("e", engine, POLICY, {"up": one(1), **answers}, "5m")

    (full,) = found(waiting=one(51))
    assert (full.status, full.value, full.suggests) == ("warn", "51 waiting", "")
    (well,) = found(waiting=one(50))
    assert well.status == "ok"
    assert found(waiting=()) == [], "it is scraped, and it counts no queue"
    for answers, words in (
        ({"up": (), "waiting": ()}, "is it scraped?"),
        ({"up": one(0), "waiting": ()}, "cannot scrape it"),
        ({"up": "no answer", "waiting": ()}, "is it scraped?"),
        ({"waiting": "no answer"}, "no answer"),
    ):
        (lost,) = found(**answers)
        assert lost.status == "unknown" and words in lost.evidence
    page = MetricsPage(at=NOW, samples={"queue_length": one(80)})
    (direct,) = judge_slo_page("e", engine, POLICY, page)
    assert (direct.status, direct.value) == ("warn", "80 waiting")


_FLOATS = st.floats(allow_nan=True, allow_infinity=True)
_NOTHING = st.sampled_from(["", (), "no answer", one(math.nan), one(math.inf)])
_LABELS = {"latency": "le", "finished": "finished_reason", "http": "status"}


@given(st.dictionaries(st.sampled_from(sorted(set(WELL) - {"up"})), _NOTHING), st.sampled_from(
    [one(1), one(0), (), "no answer"]
))  # fmt: skip
def test_no_reading_is_never_ok(broken: dict[str, Any], up: Any) -> None:
    found = judged({**broken, "up": up, "scraped": one(86_400)})
    needs = {
        "p95 latency": {"latency"},
        "error rate": {"http", "finished"},
        "throughput": {"finished"},
        "queue": {"waiting"},
        "cache": {"cache"},
        "preemptions": {"preemptions"},
    }
    for check, numbers in needs.items():
        if numbers & set(broken):
            assert LEVELS in found or found[check].status == "unknown", (check, broken)
        elif LEVELS not in found:
            assert found[check].status == "ok"


@given(st.dictionaries(st.sampled_from(sorted(WELL)), st.lists(st.tuples(
    st.sampled_from(["", "5.0", "+Inf", "2xx", "5xx", "stop", "error", "x"]), _FLOATS
), max_size=4)))  # fmt: skip
def test_no_answer_raises(answers: dict[str, list[tuple[str, float]]]) -> None:
    odd = {
        name: tuple(Sample(labels={_LABELS.get(name, "x"): k}, value=v) for k, v in pairs)
        for name, pairs in answers.items()
    }
    for found in judged(odd).values():
        assert found.status != "ok" or found.value
        assert found.status != "unknown" or found.evidence


# ---- the service's own page ---------------------------------------------------------------------


def page(hours: float = 2, **more: tuple[Sample, ...]) -> MetricsPage:
    samples = {
        "process_start_time_seconds": one(NOW.timestamp() - hours * 3600),
        "vllm:e2e_request_latency_seconds_bucket": buckets(9000, 0),
        "vllm:request_success_total": by("finished_reason", stop=9000, error=0),
        "http_requests_total": (
            Sample(labels={"handler": "/v1/completions", "status": "2xx"}, value=9000),
            Sample(labels={"handler": "/v1/models", "status": "5xx"}, value=9000),
        ),
        "vllm:num_requests_waiting": one(0),
        "vllm:gpu_cache_usage_perc": (*one(0.2, engine="0"), *one(0.3, engine="1")),
    }
    return MetricsPage(at=NOW, samples={**samples, **more})


def by_page(of: MetricsPage) -> dict[str, Finding]:
    return {f.check: f for f in judge_slo_page("wintermute", service(), POLICY, of)}


def test_a_page_is_counted_since_the_start_of_its_server() -> None:
    found = by_page(page())
    assert {f.status for f in found.values()} == {"ok"}, found
    assert found["p95 latency"].evidence == "9,000 requests since its start 2.0 h ago"
    assert found["throughput"].value == "1.25 requests/s"
    assert found["cache"].value == "30 %", "a share is not summed over engines"
    assert "preemptions" not in found, "one page does not tell whether they grow"


def test_an_average_over_many_days_proves_nothing_good() -> None:
    found = by_page(page(720, **{"vllm:request_success_total": by("finished_reason", stop=9**8)}))
    for check, value in (("p95 latency", "4.75 s"), ("error rate", "0 %")):
        assert (found[check].status, found[check].value) == ("unknown", value)
        assert "averaged over 30.0 days" in found[check].evidence
    assert found["throughput"].status == "unknown"
    assert (found["queue"].status, found["cache"].status) == ("ok", "ok")
    bad = by_page(page(720, **{"vllm:request_success_total": by("finished_reason", error=9)}))
    assert bad["error rate"].status == "fail"
    slow = by_page(page(720, **{"vllm:e2e_request_latency_seconds_bucket": buckets(1, 9)}))
    assert slow["p95 latency"].status == "fail"


def test_a_low_average_is_no_outage() -> None:
    found = by_page(page(20, **{"vllm:num_requests_waiting": one(1)}))["throughput"]
    assert (found.status, found.suggests) == ("warn", "")
    assert "it is an average" in found.evidence


def test_a_page_that_is_none_or_tells_too_little() -> None:
    (none,) = by_page(MetricsPage(at=NOW, problem="connection refused")).values()
    assert none.status == "unknown" and "connection refused" in none.evidence
    assert "too early" in by_page(page(0.01))["throughput"].evidence
    clock = by_page(page(process_start_time_seconds=()))["throughput"]
    assert clock.status == "unknown" and "not known" in clock.evidence
    empty = by_page(page(**{"vllm:e2e_request_latency_seconds_bucket": ()}))["p95 latency"]
    assert empty.evidence == "its /metrics has no such series"
