"""The living are never ended and never lose their lock; the dead are found."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.prefect_models import ActiveRun, Lease, Lock
from flows.decisions.stuck import Patience, confirmed, judge_lock, judge_runs

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
P = Patience()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def run(state: str, age: float, beat: float | None = None) -> ActiveRun:
    return ActiveRun.model_validate(
        {
            "id": "r1",
            "name": "remediate-oom a b",
            "state": state,
            "state_id": "s1",
            "since": ago(age),
            "last_beat": None if beat is None else ago(beat),
        }
    )


@pytest.mark.parametrize(
    ("state", "age", "beat", "rule", "ends"),
    [
        ("PENDING", 600, None, None, False),
        ("PENDING", 601, None, "pending-too-long", True),
        ("RUNNING", 9e4, 150, None, False),
        ("RUNNING", 9e4, 151, "heartbeat-stopped", True),
        ("RUNNING", 140, 9000, None, False),  # resumed: its old beats say nothing
        ("RUNNING", 100, None, None, False),
        ("RUNNING", 9e4, None, "never-beat", False),
        ("CANCELLING", 900, None, None, False),
        ("CANCELLING", 901, None, "cancelling-too-long", True),
        ("CANCELLING", 9e4, 30, None, False),  # it undoes, and beats
        ("CANCELLING", 9e4, 200, "cancelling-too-long", True),
    ],
)
def test_the_rules_of_runs(
    state: str, age: float, beat: float | None, rule: str | None, ends: bool
) -> None:
    found = judge_runs((run(state, age, beat),), NOW, P)
    assert [(f.rule, f.ends) for f in found] == ([(rule, ends)] if rule else [])
    if found:
        assert state in found[0].reason


@given(
    state=st.sampled_from(["RUNNING", "CANCELLING"]),
    age=st.floats(0, 1e6),
    beat=st.floats(-60, P.silence_s),
)
def test_what_beats_is_never_ended(state: str, age: float, beat: float) -> None:
    assert judge_runs((run(state, age, beat),), NOW, P) == ()


@given(age=st.floats(0, 1e7))
def test_what_never_beat_while_running_is_never_ended(age: float) -> None:
    assert not any(f.ends for f in judge_runs((run("RUNNING", age),), NOW, P))


def lock(*leases: Lease, slots: int = 1, **more: Any) -> Lock:
    return Lock(
        name="service:a:b", limit=1, active=True, slots=slots, leases=leases, touched_at=NOW
    ).model_copy(update=more)


def lease(renewed: float, length: float = 60, holder: str | None = "r1") -> Lease:
    return Lease(
        id="l1",
        renewed_at=ago(renewed),
        expires_at=ago(renewed) + timedelta(seconds=length),
        holder=holder,
    )


@pytest.mark.parametrize(
    ("given_lock", "ended", "status"),
    [
        (lock(slots=0), {}, "free"),
        (lock(leases=None, unseen="another machine"), {}, "unknown"),
        (lock(), {}, "leaked"),
        (lock(lease(10)), {"r1": None}, "held"),
        (lock(lease(10, holder=None)), {}, "held"),
        (lock(lease(119, holder=None)), {}, "held"),  # the server has its time to free it
        (lock(lease(121, holder=None)), {}, "stale"),
        (lock(lease(121)), {"r1": None}, "stale"),  # expired, whatever the run says
        (lock(lease(250, 300)), {"r1": ago(240)}, "stale"),
        (lock(lease(230, 300)), {"r1": ago(220)}, "held"),  # it may not have renewed yet
        (lock(lease(250, 300)), {"r1": ago(260)}, "held"),  # renewed after the end: it lives
        (lock(lease(250, 300)), {}, "held"),  # a run nobody knows
    ],
)
def test_the_rules_of_locks(given_lock: Lock, ended: dict[str, Any], status: str) -> None:
    found = judge_lock(given_lock, ended, NOW, P)
    assert found.status == status
    assert bool(found.lease_id) == (status == "stale")


@given(renewed=st.floats(0, 45), length=st.floats(60, 86_400), ended=st.floats(0, 1e6))
def test_a_lease_in_its_renewal_rhythm_is_never_freed(
    renewed: float, length: float, ended: float
) -> None:
    """A living holder renews at 0.75 of the length, and the shortest lease is 60 s."""
    found = judge_lock(lock(lease(renewed, length)), {"r1": ago(ended)}, NOW, P)
    assert found.status == "held"


def test_a_leak_is_confirmed_only_by_two_equal_looks() -> None:
    assert confirmed(lock(), lock())
    assert not confirmed(lock(), lock(touched_at=ago(1)))  # taken anew in between
    assert not confirmed(lock(touched_at=None), lock(touched_at=None))
    assert not confirmed(lock(), lock(lease(1)))
    assert not confirmed(lock(), lock(slots=0))
    assert not confirmed(lock(leases=None), lock(leases=None))
