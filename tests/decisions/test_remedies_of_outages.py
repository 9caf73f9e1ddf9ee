"""Crashes, outages and latency: what is tried, in which order, and what is never tried."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.ladder import Ladder
from blocks.metrics_page import parse
from blocks.models import ServingConfig
from blocks.service import Slo
from deployments.sandbox.vllm_metrics import Metrics
from flows.decisions.crash import UNSTABLE, crash_step
from flows.decisions.diagnosis import Diagnosis, diagnose
from flows.decisions.diagnosis_advice import DEFINITIONS
from flows.decisions.latency import (
    Miss,
    Traffic,
    fewer_sequences,
    helped,
    lower_tpm,
    measured,
    misses,
    traffic_between,
)
from flows.decisions.outage import CONFIGURED, OUTSIDE, PHYSICAL, course
from flows.decisions.remedies import REMEDIES, growth
from flows.decisions.step_down import Exhausted, NoStep, Step

FP8 = ServingConfig(max_model_len=16384, max_num_seqs=2, kv_cache_dtype="fp8")
LADDER = Ladder(max_model_len=(16384, 12288, 8192), max_num_seqs=(2, 1))
ILLEGAL = Diagnosis(label="cuda_illegal_access", evidence=("illegal memory access",))


def test_one_crash_changes_nothing() -> None:
    assert isinstance(crash_step(FP8, ILLEGAL, LADDER, crashes=1), NoStep)


def test_repeated_crashes_turn_fp8_off_and_cut_the_context_in_one_plan() -> None:
    step = crash_step(FP8, ILLEGAL, LADDER, crashes=2)
    assert isinstance(step, Step)
    assert step.changes() == {"kv_cache_dtype": ("fp8", "auto"), "max_model_len": (16384, 8192)}


def test_then_fewer_sequences_and_then_a_person() -> None:
    first = crash_step(FP8, ILLEGAL, LADDER, crashes=3)
    assert isinstance(first, Step)
    second = crash_step(FP8, ILLEGAL, LADDER, crashes=3, tried=[first.after])
    assert isinstance(second, Step)
    assert second.changes() == {"max_num_seqs": (2, 1)}
    wide = FP8.changed(kv_cache_dtype="auto", max_num_seqs=1)
    assert isinstance(crash_step(wide, ILLEGAL, LADDER, crashes=3), Exhausted)


def test_a_crash_with_a_cause_of_its_own_is_left_to_it() -> None:
    oom = Diagnosis(label="oom_runtime")
    step = crash_step(FP8.changed(gpu_memory_utilization=0.92), oom, LADDER, crashes=1)
    assert isinstance(step, Step)
    assert step.changes() == {"gpu_memory_utilization": (0.92, 0.85)}


@given(
    st.sampled_from(UNSTABLE),
    st.integers(1, 9),
    st.sampled_from([None, "auto", "fp8", "fp8_e5m2", "bfloat16"]),
    st.integers(1, 512),
    st.sampled_from([None, 4096, 16384, 131072]),
)
def test_a_step_never_asks_for_more(
    label: str, crashes: int, dtype: str | None, seqs: int, length: int | None
) -> None:
    config = ServingConfig(max_model_len=length, max_num_seqs=seqs, kv_cache_dtype=dtype)
    tried: list[ServingConfig] = []
    diagnosis = Diagnosis(label=label)  # type: ignore[arg-type]
    for _ in range(30):
        step = crash_step(config, diagnosis, LADDER, crashes=crashes, tried=tried)
        if not isinstance(step, Step):
            break
        after = step.after
        assert (after.max_num_seqs or 999) <= seqs
        assert (after.max_model_len or 10**9) <= (length or 10**9)
        assert growth(after.kv_cache_dtype) <= growth(dtype)
        if length and growth(after.kv_cache_dtype) < growth(dtype):
            assert (after.max_model_len or length) * 2 <= length
        tried.append(after)
    else:
        raise AssertionError("never exhausted")
    assert crashes >= 2 or not tried


def said(label: str, **more: object) -> Diagnosis:
    return Diagnosis(label=label, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [*OUTSIDE, *PHYSICAL])
def test_a_start_that_failed_outside_the_service_is_never_restarted(label: str) -> None:
    found = course(said(label), crashes=9, can_recreate=True, can_roll_back=True)
    assert found.measures == ()


@pytest.mark.parametrize("label", OUTSIDE)
def test_a_clients_bad_request_does_not_keep_a_frozen_server_from_its_restart(label: str) -> None:
    """The same line in the log of a server that had come up is no cause of its freeze."""
    assert course(said(label, ready=True)).measures == ("restart",)


@pytest.mark.parametrize("label", PHYSICAL)
def test_what_no_restart_mends_is_never_restarted(label: str) -> None:
    assert course(said(label, ready=True), can_recreate=True).measures == ()


@pytest.mark.parametrize("label", sorted(DEFINITIONS))
def test_what_is_no_vllm_server_has_none_of_its_labels_and_no_smaller_config(label: str) -> None:
    for engine in ("litellm", "http"):
        assert course(said(label), engine=engine).measures == ("restart",)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", sorted(REMEDIES))
def test_weak_evidence_changes_no_configuration(label: str) -> None:
    assert course(said(label, facts={"weak_evidence": "true"})).measures == ("restart",)


@pytest.mark.parametrize("label", CONFIGURED)
def test_a_cause_in_the_configuration_only_goes_back(label: str) -> None:
    assert course(said(label), can_recreate=True).measures == ()
    found = course(said(label), can_recreate=True, can_roll_back=True)
    assert found.measures == ("rollback",)


def test_where_no_step_is_left_a_server_that_ran_before_is_restarted() -> None:
    oom = said("oom_runtime", ready=True)
    assert course(oom, can_recreate=True).measures == ("step-down", "restart", "recreate")
    assert course(said("oom_kv_cache")).measures == ("step-down",)
    assert course(said("oom_kv_cache"), edited=True).measures == ("step-down", "restart")


@given(
    st.sampled_from(sorted(DEFINITIONS)),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_the_mildest_measure_comes_first(
    label: str, crashes: int, ready: bool, recreate: bool, back: bool
) -> None:
    diagnosis = said(label, ready=ready)
    found = course(diagnosis, crashes=crashes, can_recreate=recreate, can_roll_back=back)
    order = ["step-down", "restart", "recreate", "rollback"]
    assert list(found.measures) == sorted(found.measures, key=order.index)
    assert back or "rollback" not in found.measures
    assert recreate or "recreate" not in found.measures
    assert "step-down" not in found.measures or label in REMEDIES or label in UNSTABLE


def test_a_stalled_tokenizer_is_restarted_and_a_wrong_one_is_not() -> None:
    stalled = diagnose("INFO 11-20 10:00:00 llm_engine.py:1] Initializing tokenizer pool\n")
    assert stalled.label == "tokenizer_error"
    assert course(stalled).measures == ("restart",)
    wrong = diagnose(
        "ValueError: Tokenizer class Foo2Tokenizer does not exist or is not currently imported.\n",
        exit_code=1,
    )
    assert wrong.label == "tokenizer_error"
    assert course(wrong, can_roll_back=True).measures == ("rollback",)


SLO = Slo(p90_latency_s=30)


def traffic(p90: float | None, finished: int = 20, running: int | None = 0) -> Traffic:
    return Traffic(
        window_s=60, finished=finished, running=running, quantiles={"p90_latency_s": p90}
    )


def test_no_traffic_measures_nothing() -> None:
    assert "no request ended" in measured(traffic(None, finished=0), SLO)
    assert misses(traffic(None, finished=0), SLO) == []


def test_requests_that_never_end_are_a_miss() -> None:
    stuck = traffic(None, finished=0, running=3)
    assert measured(stuck, SLO) == ""
    (miss,) = misses(stuck, SLO)
    assert miss.at_least and miss.words() == "p90 at least 60.0 s > 30 s"


def test_a_latency_beyond_the_last_bucket_is_at_least_so_long() -> None:
    beyond = Traffic(
        window_s=60, finished=9, quantiles={"p90_latency_s": 60}, beyond=("p90_latency_s",)
    )
    (miss,) = misses(beyond, SLO)
    assert miss.at_least and miss.words() == "p90 at least 60.0 s > 30 s"
    patient = Slo(p90_latency_s=90)
    assert misses(beyond, patient) == []
    assert "at least 60 s: the buckets" in measured(beyond, patient), "within it? nobody knows"


def test_what_is_only_known_to_be_at_least_so_long_has_not_fallen() -> None:
    before = [Miss(name="p90", measured_s=500, limit_s=30)]
    after = [Miss(name="p90", measured_s=60, limit_s=30, at_least=True)]
    assert not helped(before, after)
    assert helped([before[0].model_copy(update={"at_least": True})], [
        Miss(name="p90", measured_s=60, limit_s=30)
    ])  # fmt: skip


def test_the_window_between_two_scrapes_knows_its_last_bucket() -> None:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    metrics = Metrics("m")
    before = parse(metrics.text().encode(), at)
    metrics.observe("e2e_request_latency_seconds", 9_000, 5)
    found = traffic_between(before, parse(metrics.text().encode(), at), 60)
    assert found.finished == 5 and set(found.beyond) == set(found.quantiles)
    (miss,) = misses(found, SLO)
    assert miss.words() == "p90 at least 7680.0 s > 30 s"


def test_one_long_request_is_no_latency_spike() -> None:
    assert "only 1 request(s) ended" in measured(traffic(41.0, finished=1), SLO)


def test_a_missing_quantile_is_said() -> None:
    assert "p90_latency_s" in measured(traffic(None), SLO)


@given(st.floats(0.01, 1000))
def test_only_what_is_above_the_objective_is_missed(p90: float) -> None:
    assert bool(misses(traffic(p90), SLO)) == (p90 > 30)


@given(st.floats(31, 500), st.floats(31, 500))
def test_helped_means_clearly_less(was: float, now: float) -> None:
    before = [Miss(name="p90", measured_s=was, limit_s=30)]
    after = [Miss(name="p90", measured_s=now, limit_s=30)]
    assert helped(before, after) == (now < 0.9 * was)
    assert helped(before, [])


@given(st.integers(1, 600), st.sampled_from([(), (2, 1), (256, 128, 64)]))
def test_sequences_only_fall(now: int, rungs: tuple[int, ...]) -> None:
    count = fewer_sequences(ServingConfig(max_num_seqs=now), Ladder(max_num_seqs=rungs))
    assert count is None or 1 <= count < now
    if rungs and count:
        assert count in rungs


def test_tpm_falls_by_a_quarter_for_these_models_only() -> None:
    limits = {"a.tpm": 120_000, "a.rpm": 60, "b.tpm": 80_000}
    assert lower_tpm(limits, {"a"}) == {"a.tpm": 90_000, "a.rpm": 60, "b.tpm": 80_000}
