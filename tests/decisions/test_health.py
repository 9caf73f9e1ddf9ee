"""Health and verification: nothing unmeasured is ever healthy, and a watch always ends rightly."""

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.models import ServiceState, Serving
from flows.decisions.health import MOST_STARTS, Expectation, Health, Judgement, Watch, judge, step

PHASES = ["running", "restarting", "starting", "exited", "missing", "unknown"]
STATES = [
    ServiceState(phase=p, instance=i, restarts=r)  # type: ignore[arg-type]
    for p, i, r in itertools.product(PHASES, ["", "one", "two"], [0, 2])
]
SERVINGS: list[Serving | None] = [None]
SERVINGS += [
    Serving(reachable=a, health_status=h, model_id=m, max_model_len=n, decoded=d)
    for a, h, m, n, d in itertools.product(
        [True, False],
        [None, 200, 503, 401, 429],
        [None, "m", "other"],
        [None, 8192, 4096],
        [None, True, False],
    )
]
EXPECTED = [
    Expectation(model_id=m, max_model_len=n, instance=i, restarts=r)
    for m, n, i, r in itertools.product([None, "m"], [None, 8192], [None, "one"], [None, 0])
]


def test_only_what_is_measured_and_right_is_healthy() -> None:
    counted = 0
    for state, serving, expected in itertools.product(STATES, SERVINGS, EXPECTED):
        found = judge(state, serving, expected)
        right = (
            state.phase == "running"
            and (expected.restarts is None or state.restarts <= expected.restarts)
            and (expected.instance is None or state.instance == expected.instance)
            and serving is not None
            and serving.reachable
            and serving.health_status == 200
            and serving.decoded is True
            and serving.model_id is not None
            and expected.model_id in (None, serving.model_id)
            and expected.max_model_len in (None, serving.max_model_len)
        )
        assert (found.status == "healthy") == right, (state, serving, expected, found)
        assert found.reason
        counted += right
    assert counted > 20


def test_a_missing_key_or_a_throttle_measures_nothing() -> None:
    up = ServiceState(phase="running")
    for status in (401, 403, 429):
        asked = Serving(reachable=True, health_status=status)
        assert judge(up, asked, Expectation()).status == "unknown"
    got = {"reachable": True, "health_status": 200}
    for serving in (Serving(**got), Serving(**got, model_id="m"), None):
        assert judge(up, serving, Expectation()).status == "unknown"


def test_what_is_down_is_broken_whatever_its_api_says() -> None:
    good = Serving(reachable=True, health_status=200, model_id="m", decoded=True)
    for phase in ("exited", "missing", "restarting"):
        assert judge(ServiceState(phase=phase), good, Expectation()).status == "broken"  # type: ignore[arg-type]


GOOD = Health(status="healthy", reason="decoding")
LOADING = Health(status="loading", reason="not answering yet")
UNKNOWN = Health(status="unknown", reason="not measured")
FROZEN = Health(status="broken", reason="up but not decoding: no token within 2 s")
DEAD = Health(status="broken", reason="exited, exit code 1")
LOOKS = [GOOD, LOADING, UNKNOWN, FROZEN, DEAD]

looks = st.lists(
    st.tuples(st.floats(0.1, 30), st.sampled_from(LOOKS), st.booleans()), min_size=1, max_size=60
)


def watch(looks: list[Any], timeout: float = 60, rest: float = 20) -> tuple[Any, list[Any]]:
    """The judgement (None: it still waits) and the looks (at, status) up to there."""
    now, state = 0.0, Watch(start_timeout_s=timeout, stabilisation_s=rest)
    seen: list[tuple[float, str]] = []
    for gap, look, moved in looks:
        now += gap
        seen.append((now, look.status))
        after = step(state, now, look, progressed=moved)
        if isinstance(after, Judgement):
            return after, seen
        state = after
    return None, seen


@given(looks)
@settings(max_examples=400, deadline=None)
def test_passed_only_after_unbroken_health(looks: list[Any]) -> None:
    judgement, seen = watch(looks)
    if judgement is None or judgement.outcome != "passed":
        return
    since = seen[-1][0]
    for at, status in reversed(seen):
        if status != "healthy":
            break
        since = at
    assert seen[-1][1] == "healthy" and seen[-1][0] - since >= 20


@given(looks)
@settings(max_examples=400, deadline=None)
def test_unbroken_health_passes(looks: list[Any]) -> None:
    judgement, seen = watch([*looks, *[(1.0, GOOD, False)] * 25])
    assert judgement is not None
    if judgement.outcome == "passed":
        return
    assert any(status != "healthy" for _, status in seen)


@given(looks)
@settings(max_examples=400, deadline=None)
def test_what_measured_nothing_neither_passes_nor_fails(looks: list[Any]) -> None:
    judgement, seen = watch([(gap, UNKNOWN, moved) for gap, _, moved in looks])
    assert judgement is None or judgement.outcome == "inconclusive"
    mixed, seen = watch(looks)
    if mixed is not None and seen[-1][1] == "unknown":
        assert mixed.outcome == "inconclusive"


@given(looks)
@settings(max_examples=400, deadline=None)
def test_a_watch_is_bounded_whatever_it_sees(looks: list[Any]) -> None:
    while sum(gap for gap, _, _ in looks) < 500:
        looks = looks + looks
    judgement, seen = watch(looks)
    assert judgement is not None
    longest = max(gap for gap, _, _ in looks)
    assert seen[-1][0] <= MOST_STARTS * 60 + 20 + 3 * longest


@given(st.floats(1, 25), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_a_slow_start_that_logs_is_not_cut_short(gap: float, extra: int) -> None:
    loading = [(gap, LOADING, True)] * int((MOST_STARTS * 60 - 1) / gap)
    judgement, seen = watch(loading)
    assert judgement is None
    judgement, _ = watch([*loading, *[(2.0, GOOD, False)] * (12 + extra)])
    assert judgement is not None and judgement.outcome == "passed"
    judgement, _ = watch(loading + [(gap, LOADING, True)] * 60)
    assert judgement is not None and judgement.outcome == "failed"


def test_a_start_that_is_silent_fails_at_its_time_out() -> None:
    judgement, seen = watch([(1.0, LOADING, False)] * 100)
    assert judgement is not None and judgement.outcome == "failed" and seen[-1][0] == 60


def test_dead_fails_at_once_frozen_at_the_second_look() -> None:
    assert len(watch([(1, DEAD, False)] * 5)[1]) == 1
    assert len(watch([(1, FROZEN, False)] * 5)[1]) == 2
    judgement, seen = watch([(1, FROZEN, False), *[(1, GOOD, False)] * 30])
    assert judgement.outcome == "passed" and seen[-1][0] == 22
    for bad in (FROZEN, DEAD, LOADING):
        judgement, seen = watch([(1, GOOD, False), (1, bad, False)])
        assert judgement.outcome == "failed" and len(seen) == 2
