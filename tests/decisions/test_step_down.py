"""The step-down: the handbook's own examples, every small state, and what must always hold."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.ladder import Ladder
from blocks.models import ServingConfig
from flows.decisions.step_down import Exhausted, NoStep, Step, is_degraded, next_step, step_back

WINTERMUTE = Ladder(max_model_len=(16384, 12288, 8192))
ARMITAGE = Ladder(max_model_len=(8192, 6144, 4096), gpu_memory_utilization=(0.90, 0.85, 0.80))
examples = settings(deadline=None, max_examples=150)
LABELS = (
    "oom_kv_cache",
    "oom_runtime",
    "oom_cudagraph",
    "oom_startup_profile",
    "fp8_kv_unsupported",
    "cuda_illegal_access",
)


def found(label: str, **facts: Any) -> SimpleNamespace:
    return SimpleNamespace(label=label, facts=facts)


def serving(length: int | None = 16384, **values: Any) -> ServingConfig:
    return ServingConfig(max_model_len=length, **values)


def demand(config: ServingConfig) -> tuple[float, ...]:
    """What a configuration asks for, setting by setting; unset asks for vLLM's default."""
    dtype = config.kv_cache_dtype or "auto"
    return (
        config.max_model_len or float("inf"),
        config.gpu_memory_utilization or 0.92,
        config.max_num_seqs or 256,
        0 if config.enforce_eager else 1,
        1 if dtype.startswith("fp8") else 0,
    )


def changes(outcome: object) -> dict[str, tuple[Any, Any]]:
    assert isinstance(outcome, Step), outcome
    return outcome.changes()


class TestTheHandbooksExamples:
    def test_wintermute_skips_the_rung_above_the_estimate(self):
        step = next_step(
            serving(16384),
            found("oom_kv_cache", requested_max_model_len=16384, estimated_max_model_len=10752),
            WINTERMUTE,
        )
        assert changes(step) == {"max_model_len": (16384, 8192)}
        assert isinstance(step, Step)
        assert "10752" in step.reason and "16384" in step.reason
        assert "8192" in step.costs

    def test_exact_fit_takes_the_estimate_rounded_down(self):
        exact = WINTERMUTE.model_copy(update={"fit": "exact"})
        for estimate, expected in ((10752, 10752), (10999, 10752), (2048, 2048)):
            step = next_step(
                serving(16384), found("oom_kv_cache", estimated_max_model_len=estimate), exact
            )
            assert changes(step) == {"max_model_len": (16384, expected)}

    def test_exact_fit_stops_at_the_shortest_length_allowed(self):
        exact = Ladder(max_model_len=(16384, 8192), fit="exact")
        end = next_step(serving(), found("oom_kv_cache", estimated_max_model_len=2047), exact)
        assert isinstance(end, Exhausted)
        assert "2048" in end.advice

    def test_armitage_walks_its_ladder_when_nothing_is_printed(self):
        config, seen = serving(8192), [8192]
        while isinstance(step := next_step(config, found("oom_kv_cache"), ARMITAGE), Step):
            config = step.after
            seen.append(config.max_model_len)
        assert seen == [8192, 6144, 4096]
        assert isinstance(step, Exhausted)

    def test_utilisation_walks_its_ladder_at_run_time(self):
        config, seen = serving(8192, gpu_memory_utilization=0.9, max_num_seqs=1), [0.9]
        for _ in range(2):
            step = next_step(config, found("oom_runtime"), ARMITAGE)
            assert set(changes(step)) == {"gpu_memory_utilization"}
            config = step.after
            seen.append(config.gpu_memory_utilization)
        assert seen == [0.9, 0.85, 0.8]
        # max_num_seqs is "already minimum" (handbook 004), so the context is next.
        assert changes(next_step(config, found("oom_runtime"), ARMITAGE)) == {
            "max_model_len": (8192, 6144)
        }

    def test_unstable_fp8_becomes_auto_with_half_the_context(self):
        config = serving(16384, kv_cache_dtype="fp8")
        step = next_step(config, found("cuda_illegal_access", repeats=2), WINTERMUTE)
        assert changes(step) == {"kv_cache_dtype": ("fp8", "auto"), "max_model_len": (16384, 8192)}


class TestContext:
    @pytest.mark.parametrize(
        ("length", "expected"),
        [(32768, 16384), (16384, 12288), (16000, 12288), (12289, 12288), (8193, 8192)],
    )
    def test_a_length_above_or_between_rungs_goes_to_the_next_lower(self, length, expected):
        step = next_step(serving(length), found("oom_kv_cache"), WINTERMUTE)
        assert changes(step) == {"max_model_len": (length, expected)}

    @pytest.mark.parametrize("length", [8192, 4096])
    def test_nothing_below_the_last_rung(self, length):
        end = next_step(serving(length), found("oom_kv_cache"), WINTERMUTE)
        assert isinstance(end, Exhausted)

    def test_unset_length_is_the_one_requested_in_the_log(self):
        facts = {"requested_max_model_len": 12288}
        step = next_step(serving(None), found("oom_kv_cache", **facts), WINTERMUTE)
        assert changes(step) == {"max_model_len": (None, 8192)}

    def test_unset_and_unknown_length_goes_to_the_top_rung(self):
        step = next_step(serving(None), found("oom_kv_cache"), WINTERMUTE)
        assert changes(step) == {"max_model_len": (None, 16384)}

    def test_an_estimate_below_every_rung_is_exhausted_and_names_the_exact_fit(self):
        end = next_step(serving(), found("oom_kv_cache", estimated_max_model_len=6000), WINTERMUTE)
        assert isinstance(end, Exhausted)
        assert "6000" in end.reason and "16384, 12288, 8192" in end.reason
        assert "fit: exact" in end.advice

    def test_the_tokens_an_old_version_prints_are_an_estimate(self):
        ladder = Ladder(max_model_len=(32768, 16384, 4096))
        facts = {"requested_max_model_len": 32768, "kv_cache_tokens": 7344}
        step = next_step(serving(32768), found("oom_kv_cache", **facts), ladder)
        assert changes(step) == {"max_model_len": (32768, 4096)}

    def test_needed_and_available_memory_bound_the_length_when_no_estimate_is_printed(self):
        facts = {"kv_needed_gib": 1.5, "kv_available_gib": 0.99}
        step = next_step(serving(), found("oom_kv_cache", **facts), WINTERMUTE)
        assert changes(step) == {"max_model_len": (16384, 8192)}

    def test_an_estimate_that_contradicts_the_failure_is_not_believed(self):
        facts = {"requested_max_model_len": 16384, "kv_cache_tokens": 20000}
        step = next_step(serving(), found("oom_kv_cache", **facts), WINTERMUTE)
        assert changes(step) == {"max_model_len": (16384, 12288)}

    def test_a_log_of_a_longer_start_does_not_shorten_a_length_that_fits(self):
        facts = {"requested_max_model_len": 16384, "estimated_max_model_len": 10752}
        outcome = next_step(serving(8192), found("oom_kv_cache", **facts), WINTERMUTE)
        assert isinstance(outcome, NoStep)
        assert "Restart" in outcome.advice

    def test_a_length_already_tried_is_skipped(self):
        tried = [serving(12288)]
        step = next_step(serving(), found("oom_kv_cache"), WINTERMUTE, tried=tried)
        assert changes(step) == {"max_model_len": (16384, 8192)}

    @pytest.mark.parametrize("noise", [None, "n/a", "", float("nan"), float("inf"), -5, 0, True])
    def test_a_fact_that_is_no_number_counts_as_absent(self, noise):
        step = next_step(
            serving(), found("oom_kv_cache", estimated_max_model_len=noise), WINTERMUTE
        )
        assert changes(step) == {"max_model_len": (16384, 12288)}


class TestMemory:
    def test_unset_utilisation_is_vllms_default(self):
        step = next_step(serving(), found("oom_runtime"), WINTERMUTE)
        assert changes(step) == {"gpu_memory_utilization": (None, 0.85)}
        old = next_step(
            serving(),
            found("oom_runtime"),
            Ladder(gpu_memory_utilization=(0.92, 0.91, 0.8)),
            default_utilization=0.9,
        )
        assert changes(old) == {"gpu_memory_utilization": (None, 0.8)}

    def test_a_cache_that_becomes_too_small_takes_the_context_down_in_the_same_step(self):
        facts = {"gpu_total_gib": 12.0, "kv_available_gib": 2.0, "kv_cache_tokens": 17000}
        config = serving(16384, gpu_memory_utilization=0.92)
        step = next_step(config, found("oom_runtime", **facts), WINTERMUTE)
        # 0.07 x 12 GiB of the 2 GiB go: 9860 tokens are left.
        assert changes(step) == {
            "gpu_memory_utilization": (0.92, 0.85),
            "max_model_len": (16384, 8192),
        }
        assert isinstance(step, Step)
        assert "9860" in step.costs

    def test_a_lower_utilisation_that_leaves_no_rung_is_passed_over(self):
        facts = {"gpu_total_gib": 80.0, "kv_available_gib": 2.0, "kv_cache_tokens": 17000}
        config = serving(16384, max_num_seqs=4)
        step = next_step(config, found("oom_runtime", **facts), WINTERMUTE)
        assert changes(step) == {"max_num_seqs": (4, 2)}

    def test_the_cost_to_the_cache_is_named_even_when_its_size_is_not_known(self):
        step = next_step(serving(), found("oom_runtime"), WINTERMUTE)
        assert isinstance(step, Step)
        assert "KV cache shrinks" in step.costs

    @pytest.mark.parametrize(
        ("label", "order"),
        [
            ("oom_runtime", ["gpu_memory_utilization", "max_num_seqs", "max_model_len"]),
            (
                "oom_cudagraph",
                ["gpu_memory_utilization", "max_num_seqs", "enforce_eager", "max_model_len"],
            ),
            ("oom_startup_profile", ["max_num_seqs", "max_model_len", "gpu_memory_utilization"]),
        ],
    )
    def test_settings_are_lowered_in_the_order_of_the_cause(self, label, order):
        config, seen = serving(16384, max_num_seqs=4), []
        while isinstance(step := next_step(config, found(label), WINTERMUTE), Step):
            config = step.after
            seen += [name for name in step.changes() if name not in seen]
        assert seen == order

    def test_what_the_log_says_is_in_force_goes_before_the_default(self):
        bare = Ladder(gpu_memory_utilization=())
        step = next_step(serving(), found("oom_runtime", max_num_seqs=8), bare)
        assert changes(step) == {"max_num_seqs": (None, 4)}
        step = next_step(serving(), found("oom_runtime", gpu_memory_utilization=0.85), WINTERMUTE)
        assert changes(step) == {"gpu_memory_utilization": (None, 0.8)}
        step = next_step(serving(), found("oom_runtime", gpu_memory_utilization=85), WINTERMUTE)
        assert changes(step) == {"gpu_memory_utilization": (None, 0.85)}

    def test_sequences_follow_the_ladder_and_else_are_halved_down_to_one(self):
        laddered = Ladder(gpu_memory_utilization=(), max_num_seqs=(64, 16))
        bare = Ladder(gpu_memory_utilization=())
        for ladder, start, expected in (
            (laddered, None, [64, 16]),
            (laddered, 20, [16]),
            (laddered, 16, []),
            (bare, None, [128, 64, 32, 16, 8, 4, 2, 1]),
            (bare, 5, [2, 1]),
            (bare, 1, []),
        ):
            config, seen = serving(4096, max_num_seqs=start), []
            while isinstance(step := next_step(config, found("oom_runtime"), ladder), Step):
                config = step.after
                seen.append(config.max_num_seqs)
            assert seen == expected


class TestEightBitCache:
    @pytest.mark.parametrize("dtype", ["fp8", "fp8_e4m3", "fp8_e5m2", "FP8"])
    def test_the_context_stays_where_the_known_cache_still_holds_it(self, dtype):
        config = serving(8192, kv_cache_dtype=dtype)
        step = next_step(config, found("fp8_kv_unsupported", kv_cache_tokens=16384), WINTERMUTE)
        assert changes(step) == {"kv_cache_dtype": (dtype, "auto")}

    def test_the_known_cache_decides_over_the_present_length(self):
        config = serving(16384, kv_cache_dtype="fp8")
        step = next_step(config, found("fp8_kv_unsupported", kv_cache_tokens=30000), WINTERMUTE)
        assert changes(step)["max_model_len"] == (16384, 12288)

    def test_exact_fit_halves_exactly(self):
        config = serving(10752, kv_cache_dtype="fp8")
        ladder = WINTERMUTE.model_copy(update={"fit": "exact"})
        step = next_step(config, found("fp8_kv_unsupported"), ladder)
        assert changes(step)["max_model_len"] == (10752, 5376)

    def test_no_rung_at_half_is_exhausted_rather_than_a_cache_that_cannot_fit(self):
        config = serving(8192, kv_cache_dtype="fp8")
        end = next_step(config, found("fp8_kv_unsupported"), WINTERMUTE)
        assert isinstance(end, Exhausted)
        assert "fit: exact" in end.advice

    @pytest.mark.parametrize("facts", [{}, {"repeats": 0}, {"repeats": 1}])
    def test_one_illegal_access_changes_nothing(self, facts):
        config = serving(kv_cache_dtype="fp8")
        assert isinstance(
            next_step(config, found("cuda_illegal_access", **facts), WINTERMUTE), NoStep
        )

    @pytest.mark.parametrize("dtype", [None, "auto"])
    @pytest.mark.parametrize("label", ["cuda_illegal_access", "fp8_kv_unsupported"])
    def test_a_cache_that_is_not_eight_bit_is_left_alone(self, label, dtype):
        config = serving(kv_cache_dtype=dtype)
        assert isinstance(next_step(config, found(label, repeats=9), WINTERMUTE), NoStep)


class TestNoStep:
    def test_held_memory_names_the_holder(self):
        facts = {"holder_pids": "4242", "gpu_free_gib": 0.49, "gpu_total_gib": 79.32}
        outcome = next_step(serving(), found("gpu_memory_held", **facts), WINTERMUTE)
        assert isinstance(outcome, NoStep)
        assert "4242" in outcome.reason and "4242" in outcome.advice
        assert "0.49 of 79.32 GiB" in outcome.reason

    @pytest.mark.parametrize(
        "label",
        ["host_oom_killed", "model_not_found", "oom_startup_weights", "healthy_noise", "", "new"],
    )
    def test_other_causes_pass_on_the_diagnosis_advice(self, label):
        diagnosis = SimpleNamespace(label=label, facts={}, advice="Mount the model.")
        outcome = next_step(serving(), diagnosis, WINTERMUTE)
        assert isinstance(outcome, NoStep)
        assert outcome.advice == "Mount the model."
        assert next_step(serving(), found(label), WINTERMUTE).advice


lengths = st.sampled_from([1024, 2048, 3000, 4096, 6144, 8192, 10752, 12288, 16384, 32768])


def descending(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.sets(values, max_size=4).map(lambda s: tuple(sorted(s, reverse=True)))


ladders = st.builds(
    Ladder,
    max_model_len=descending(lengths),
    gpu_memory_utilization=descending(st.sampled_from([0.5, 0.8, 0.85, 0.9, 0.92, 1.0])),
    max_num_seqs=descending(st.integers(1, 512)),
    fit=st.sampled_from(["rung", "exact"]),
)
configs = st.builds(
    ServingConfig,
    max_model_len=st.none() | lengths,
    gpu_memory_utilization=st.none() | st.sampled_from([0.3, 0.8, 0.85, 0.9, 0.92, 0.95]),
    max_num_seqs=st.none() | st.integers(1, 600),
    kv_cache_dtype=st.sampled_from([None, "auto", "fp8", "fp8_e4m3"]),
    enforce_eager=st.sampled_from([None, False, True]),
)
tokens = st.integers(-1, 40000)
gib = st.floats(-1, 100, allow_nan=False)
facts = st.fixed_dictionaries(
    {},
    optional={
        "requested_max_model_len": tokens,
        "estimated_max_model_len": tokens,
        "kv_cache_tokens": tokens,
        "kv_needed_gib": gib,
        "kv_available_gib": gib,
        "gpu_total_gib": gib,
        "gpu_free_gib": gib,
        "repeats": st.integers(0, 4),
        "holder_pids": st.text(max_size=8),
    },
)


@examples
@given(configs, st.sampled_from(LABELS), facts, ladders)
def test_a_step_lowers_the_demand_and_raises_nothing(config, label, numbers, ladder):
    step = next_step(config, found(label, **numbers), ladder)
    if not isinstance(step, Step):
        assert step.reason and step.advice
        return
    assert step.before == config
    before, after = demand(config), demand(step.after)
    assert after != before
    assert all(new <= old for old, new in zip(before, after, strict=True))
    assert step.reason.endswith(".") and step.costs.endswith(".") and step.expected.endswith(".")
    assert set(step.changes()) <= {
        "max_model_len",
        "gpu_memory_utilization",
        "max_num_seqs",
        "enforce_eager",
        "kv_cache_dtype",
    }


@examples
@given(configs, facts, ladders)
def test_a_kv_cache_step_never_exceeds_what_fits(config, numbers, ladder):
    step = next_step(config, found("oom_kv_cache", **numbers), ladder)
    estimate = numbers.get("estimated_max_model_len", 0)
    present = config.max_model_len or numbers.get("requested_max_model_len", 0)
    if isinstance(step, Step) and 1 <= estimate < max(present, estimate + 1):
        if present < 1 or estimate < present:
            assert step.after.max_model_len <= estimate


@examples
@given(configs, facts, ladders)
def test_a_wider_cache_never_needs_more_memory_than_the_narrow_one_had(config, numbers, ladder):
    step = next_step(config, found("fp8_kv_unsupported", **numbers), ladder)
    if isinstance(step, Step):
        held = [numbers.get(k, 0) for k in ("kv_cache_tokens", "estimated_max_model_len")]
        context = config.max_model_len or numbers.get("requested_max_model_len", 0)
        room = next((n for n in held if n >= 1), context)
        assert (step.after.max_model_len or context) * 2 <= room


@examples
@given(configs, st.sampled_from(LABELS), facts, ladders, st.booleans())
def test_steps_end_whether_each_is_kept_or_undone(config, label, numbers, ladder, kept):
    bound = (
        len(ladder.max_model_len)
        + len(ladder.gpu_memory_utilization)
        + max(len(ladder.max_num_seqs), 10)
        + 4
    )
    tried: list[ServingConfig] = []
    for _ in range(bound):
        step = next_step(config, found(label, **numbers), ladder, tried=tried)
        if not isinstance(step, Step):
            return
        assert step.after not in tried
        tried.append(step.after)
        if kept:
            config = step.after
    raise AssertionError(f"{label} still steps after {bound}")


def test_every_small_state_in_full():
    ladder = Ladder(max_model_len=(8, 4, 2), gpu_memory_utilization=(0.9, 0.5), max_num_seqs=(2, 1))
    states = itertools.product(
        [None, 16, 8, 6, 4, 2, 1],
        [None, 0.9, 0.7, 0.5],
        [None, 2, 1],
        [None, True],
        ["auto", "fp8"],
    )
    count = 0
    for length, share, seqs, eager, dtype in states:
        config = ServingConfig(
            max_model_len=length,
            gpu_memory_utilization=share,
            max_num_seqs=seqs,
            enforce_eager=eager,
            kv_cache_dtype=dtype,
        )
        for label, estimate in itertools.product(LABELS, [None, 1, 3, 5, 9]):
            step = next_step(
                config, found(label, repeats=2, estimated_max_model_len=estimate), ladder
            )
            count += 1
            if isinstance(step, Step):
                pairs = zip(demand(config), demand(step.after), strict=True)
                assert all(new <= old for old, new in pairs)
                assert demand(config) != demand(step.after)
            elif label in ("oom_runtime", "oom_cudagraph", "oom_startup_profile"):
                # Only a configuration at the bottom of every rung has nowhere to go.
                assert length is not None and length <= 2
                assert share == 0.5 and seqs == 1
    assert count == 7 * 4 * 3 * 2 * 2 * 6 * 5


class TestStepBack:
    original = serving(16384, gpu_memory_utilization=0.92, max_num_seqs=4, model="m")

    def test_all_restores_the_original_at_once(self):
        current = self.original.changed(max_model_len=8192, max_num_seqs=1, enforce_eager=True)
        step = step_back(current, self.original, WINTERMUTE)
        assert isinstance(step, Step)
        assert step.after == self.original
        assert is_degraded(current, self.original)
        assert not is_degraded(step.after, self.original)

    def test_one_rung_walks_up_and_gives_the_context_back_first(self):
        current = self.original.changed(max_model_len=8192, gpu_memory_utilization=0.8)
        seen = []
        while step := step_back(current, self.original, WINTERMUTE, mode="one-rung"):
            current = step.after
            seen.append((current.max_model_len, current.gpu_memory_utilization))
        assert seen == [(12288, 0.8), (16384, 0.8), (16384, 0.85), (16384, 0.92)]

    def test_nothing_to_give_back(self):
        assert step_back(self.original, self.original, WINTERMUTE) is None
        above = self.original.changed(max_model_len=32768)
        assert step_back(above, self.original, WINTERMUTE) is None
        assert not is_degraded(above, self.original)

    def test_an_unset_original_is_restored_as_unset(self):
        original = serving(None)
        step = step_back(original.changed(max_model_len=16384), original, WINTERMUTE)
        assert changes(step) == {"max_model_len": (16384, None)}

    def test_an_eight_bit_cache_stays_dropped_and_so_does_the_context_it_paid_for(self):
        original = serving(16384, kv_cache_dtype="fp8")
        down = next_step(original, found("fp8_kv_unsupported"), WINTERMUTE)
        assert isinstance(down, Step)
        assert is_degraded(down.after, original)
        assert step_back(down.after, original, WINTERMUTE) is None

    def test_the_original_of_another_model_is_not_restored(self):
        current = self.original.changed(max_model_len=8192, model="other")
        assert step_back(current, self.original, WINTERMUTE) is None
        assert not is_degraded(current, self.original)

    @examples
    @given(
        configs, st.sampled_from(LABELS[:4]), facts, ladders, st.sampled_from(["one-rung", "all"])
    )
    def test_the_way_back_ends_at_the_original_and_never_above(
        self, original, label, numbers, ladder, mode
    ):
        current = original
        for _ in range(3):
            step = next_step(current, found(label, **numbers), ladder)
            if isinstance(step, Step):
                current = step.after
        assert is_degraded(current, original) == (demand(current) != demand(original))
        for _ in range(40):
            step = step_back(current, original, ladder, mode=mode)
            if step is None:
                break
            assert demand(step.after) != demand(current)
            assert all(
                old <= new <= top
                for old, new, top in zip(
                    demand(current), demand(step.after), demand(original), strict=True
                )
            )
            current = step.after
        assert demand(current) == demand(original)


class TestLadder:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"max_model_len": [8192, 16384]}, "max_model_len.*8192, 16384.*16384, 12288, 8192"),
            ({"max_model_len": [8192, 8192]}, "does not go down"),
            ({"max_model_len": [8192, 0]}, "above 0"),
            ({"gpu_memory_utilization": [92, 85]}, "gpu_memory_utilization.*at most 1"),
            ({"gpu_memory_utilization": [float("nan")]}, "above 0"),
            ({"gpu_memory_utilization": [0.8, -0.5]}, "above 0"),
            ({"max_num_seqs": [1, 2]}, "max_num_seqs.*8, 4, 2, 1"),
        ],
    )
    def test_a_ladder_that_does_not_go_down_is_refused_with_the_remedy(self, values, words):
        with pytest.raises(ValidationError, match=words):
            Ladder(**values)

    def test_a_list_from_yaml_is_accepted(self):
        assert Ladder.model_validate({"max_model_len": [8192, 4096]}).max_model_len == (8192, 4096)


def test_a_guessed_cause_changes_nothing() -> None:
    guess = found("fp8_kv_unsupported", weak_evidence="true")
    assert isinstance(next_step(serving(kv_cache_dtype="fp8"), guess, WINTERMUTE), NoStep)
    sure = found("fp8_kv_unsupported")
    assert isinstance(next_step(serving(kv_cache_dtype="fp8"), sure, WINTERMUTE), Step)
