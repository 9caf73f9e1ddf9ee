"""Guards: the order of reasons in full, and that `retry_at` is when the reason is gone."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.windows import Window
from flows.decisions.guard import Act, AttemptPolicy, Intent, Refusal, check, covered_until

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)  # a Friday
POLICY = AttemptPolicy(attempts=2, window_s=3600, cooldown_s=600)
AUTO = Intent(actor="ops", autonomy="auto")


def ago(seconds: float, verdict: str = "passed", **values: bool) -> Act:
    return Act(at=NOW - timedelta(seconds=seconds), verdict=verdict, **values)


def span(start_h: float, end_h: float, reason: str = "") -> Window:
    """An absolute window, in hours from NOW."""
    return Window.model_validate(
        {
            "from": NOW + timedelta(hours=start_h),
            "until": NOW + timedelta(hours=end_h),
            "reason": reason,
        }
    )


def reason(refusal: Refusal | None) -> str | None:
    return refusal.reason if refusal else None


def test_nothing_against_it():
    assert check(AUTO, now=NOW, policy=POLICY) is None


def test_the_first_reason_in_the_fixed_order_is_given_whatever_else_is_wrong():
    order = (
        "not-authorised",
        "frozen",
        "attempts-exhausted",
        "cooling-down",
        "would-exceed-window",
        "not-approved",
    )
    for wrong in itertools.product([False, True], repeat=len(order)):
        wrongs = dict(zip(order, wrong, strict=True))
        history = [ago(3000), ago(2000)] if wrongs["attempts-exhausted"] else []
        history += [ago(60)] if wrongs["cooling-down"] else []
        intent = Intent(
            actor="guest" if wrongs["not-authorised"] else "ops",
            authorised=("ops",),
            autonomy="approve",
            approval="" if wrongs["not-approved"] else "yes",
            needs_window=wrongs["would-exceed-window"],
        )
        refusal = check(
            intent,
            now=NOW,
            policy=POLICY,
            history=history,
            freezes=[span(-1, 1)] if wrongs["frozen"] else [],
        )
        assert reason(refusal) == next((name for name in order if wrongs[name]), None)


class TestAuthority:
    def test_observe_never_acts_even_when_approved(self):
        intent = Intent(actor="ops", autonomy="observe", approval="yes")
        refusal = check(intent, now=NOW, policy=POLICY)
        assert reason(refusal) == "not-authorised"
        assert refusal is not None and refusal.retry_at is None

    @pytest.mark.parametrize(
        ("authorised", "allowed"), [(None, True), ((), False), (("b",), False)]
    )
    def test_an_empty_list_allows_nobody_and_no_list_everybody(self, authorised, allowed):
        intent = Intent(actor="a", autonomy="auto", authorised=authorised)
        assert (check(intent, now=NOW, policy=POLICY) is None) == allowed

    def test_the_message_says_who_may(self):
        intent = Intent(actor="", autonomy="auto", authorised=("ann", "bob"))
        refusal = check(intent, now=NOW, policy=POLICY)
        assert refusal is not None and "ann, bob" in refusal.message


class TestFreeze:
    def test_it_says_why_and_until_when(self):
        refusal = check(AUTO, now=NOW, policy=POLICY, freezes=[span(-1, 2, "Black Friday")])
        assert refusal is not None
        assert refusal.reason == "frozen"
        assert refusal.retry_at == NOW + timedelta(hours=2)
        assert "Black Friday" in refusal.message
        assert "2026-11-20 14:00:00 UTC" in refusal.message

    def test_freezes_without_a_gap_are_one(self):
        freezes = [span(2, 5), span(-1, 2), span(6, 7)]
        refusal = check(AUTO, now=NOW, policy=POLICY, freezes=freezes)
        assert refusal is not None and refusal.retry_at == NOW + timedelta(hours=5)

    def test_a_freeze_without_an_end_says_so(self):
        refusal = check(AUTO, now=NOW, policy=POLICY, freezes=[Window(start="00:00", end="00:00")])
        assert refusal is not None
        assert refusal.retry_at is None and "no end in sight" in refusal.message

    def test_a_freeze_to_come_or_gone_refuses_nothing(self):
        assert check(AUTO, now=NOW, policy=POLICY, freezes=[span(1, 2), span(-2, 0)]) is None


class TestAttempts:
    def test_every_short_history_in_full(self):
        ages = (60, 599, 600, 3599, 3600)
        verdicts = ("passed", "failed", "error", "inconclusive", "planned", "blocked")
        for first, second in itertools.product(itertools.product(ages, verdicts), repeat=2):
            acts = [ago(*first), ago(*second)]
            done = [age for age, verdict in (first, second) if verdict not in verdicts[4:]]
            recent = [age for age in done if age < 3600]
            expected = None
            if len(recent) >= 2:
                expected = "attempts-exhausted"
            elif any(age < 600 for age in done):
                expected = "cooling-down"
            assert reason(check(AUTO, now=NOW, policy=POLICY, history=acts)) == expected

    def test_acts_of_the_same_run_count_and_do_not_rest(self):
        one = [ago(5, "failed", rests=False)]
        assert check(AUTO, now=NOW, policy=POLICY, history=one) is None
        refusal = check(AUTO, now=NOW, policy=POLICY, history=one * 2)
        assert reason(refusal) == "attempts-exhausted"

    def test_messages_name_the_numbers(self):
        acts = [ago(3000), ago(2000)]
        refusal = check(AUTO, now=NOW, policy=POLICY, history=acts)
        assert refusal is not None
        assert refusal.message.startswith("2 acts in the last 1 h, 2 are allowed")
        assert "12:10:00 UTC" in refusal.message
        assert refusal.retry_at == NOW + timedelta(seconds=600)
        resting = check(AUTO, now=NOW, policy=POLICY, history=[ago(60, "failed")])
        assert resting is not None
        assert "(failed)" in resting.message and "10 min" in resting.message
        assert "12:09:00 UTC" in resting.message

    def test_a_clock_that_went_back_stays_on_the_safe_side(self):
        assert reason(check(AUTO, now=NOW, policy=POLICY, history=[ago(-30)])) == "cooling-down"


class TestMaintenance:
    intent = Intent(actor="ops", autonomy="auto", needs_window=True, expected_duration_s=3600)

    @pytest.mark.parametrize(
        ("windows", "expected", "retry_h"),
        [
            ([span(-1, 1)], None, None),
            ([span(0, 1)], None, None),
            ([span(-1, 0.5), span(0.5, 1)], None, None),
            ([span(-1, 0.9)], "would-exceed-window", None),
            ([span(-1, 0.9), span(5, 7)], "would-exceed-window", 5),
            ([span(2, 2.5), span(5, 7)], "would-exceed-window", 5),
            ([span(2, 2.5), span(2.5, 3)], "would-exceed-window", 2),
            ([span(5, 7), span(3, 4)], "would-exceed-window", 3),
            ([span(-2, -1)], "would-exceed-window", None),
            ([], "would-exceed-window", None),
        ],
    )
    def test_it_runs_only_where_it_ends_in_the_window(self, windows, expected, retry_h):
        refusal = check(self.intent, now=NOW, policy=POLICY, maintenance=windows)
        assert reason(refusal) == expected
        retry = None if retry_h is None else NOW + timedelta(hours=retry_h)
        assert (refusal.retry_at if refusal else None) == retry

    def test_windows_do_not_matter_to_a_procedure_that_needs_none(self):
        assert check(AUTO, now=NOW, policy=POLICY, maintenance=[span(3, 4)]) is None

    def test_the_handbooks_first_saturday(self):
        window = Window(
            weekdays=("sat",), nth=1, start="02:00", end="06:00", timezone="America/Los_Angeles"
        )
        refusal = check(self.intent, now=NOW, policy=POLICY, maintenance=[window])
        assert refusal is not None
        assert refusal.retry_at == datetime(2026, 12, 5, 10, tzinfo=UTC)
        assert "2026-12-05 10:00:00 UTC" in refusal.message
        late = datetime(2026, 12, 5, 13, 30, tzinfo=UTC)
        again = check(self.intent, now=late, policy=POLICY, maintenance=[window])
        assert again is not None
        assert again.retry_at == datetime(2027, 1, 2, 10, tzinfo=UTC)
        assert "the present one ends at 2026-12-05 14:00:00 UTC" in again.message

    def test_longer_than_every_window_is_never_possible(self):
        window = Window(weekdays=("sat",), start="02:00", end="02:30")
        refusal = check(self.intent, now=NOW, policy=POLICY, maintenance=[window])
        assert refusal is not None and refusal.retry_at is None


class TestApproval:
    @pytest.mark.parametrize(
        ("autonomy", "approval", "digest", "expected"),
        [
            ("approve", "", "abc", "not-approved"),
            ("approve", "yes", "abc", None),
            ("approve", "abc", "abc", None),
            ("approve", " abc ", "abc", None),
            ("approve", "abd", "abc", "approval-expired"),
            ("approve", "abd", "", "approval-expired"),
            ("approve", "", "", "not-approved"),
            ("auto", "", "abc", None),
            ("auto", "yes", "abc", None),
            ("auto", "abd", "abc", "approval-expired"),
        ],
    )
    def test_every_case(self, autonomy, approval, digest, expected):
        intent = Intent(actor="a", autonomy=autonomy, approval=approval, plan_digest=digest)
        assert reason(check(intent, now=NOW, policy=POLICY)) == expected


hours = st.integers(-5, 20).map(lambda n: n / 2)
spans = st.tuples(hours, hours).filter(lambda p: p[0] < p[1]).map(lambda p: span(*p))
acts = st.builds(
    ago,
    st.integers(-100, 5000),
    st.sampled_from(["passed", "failed", "error", "inconclusive", "planned", "blocked"]),
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(acts, max_size=5),
    st.lists(spans, max_size=4),
    st.lists(spans, max_size=4),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_at_retry_at_that_reason_is_gone_and_until_then_it_holds(
    history, freezes, maintenance, duration, needs_window
):
    intent = Intent(
        actor="a", autonomy="auto", expected_duration_s=duration, needs_window=needs_window
    )

    def at(now: datetime) -> Refusal | None:
        return check(
            intent,
            now=now,
            policy=POLICY,
            history=history,
            freezes=freezes,
            maintenance=maintenance,
        )

    refusal = at(NOW)
    if refusal is None:
        return
    assert refusal.message
    if refusal.retry_at is None:
        assert refusal.reason == "would-exceed-window"
        return
    assert refusal.retry_at > NOW
    assert reason(at(refusal.retry_at)) != refusal.reason
    before = at(refusal.retry_at - timedelta(microseconds=1))
    assert before is not None


@settings(deadline=None, max_examples=100)
@given(st.lists(spans, max_size=5))
def test_joined_windows_end_where_a_scan_ends(windows):
    half = timedelta(minutes=30)
    now = NOW
    while any(window.covers(now) for window in windows):
        now += half
    assert covered_until(windows, NOW) == now
