"""Certificates: expired, soon, well, and what could not be read."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.certificate import Certificate
from blocks.check_policy import CheckPolicy
from flows.decisions.check_certificates import judge_certificates
from flows.decisions.finding import Finding

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
POLICY = CheckPolicy(certificate_warn_days=30, certificate_fail_days=7)


def judged(days: float, begin: float = -10) -> Finding:
    one = Certificate(
        where="motoko:443",
        subject="motoko",
        issuer="Our CA",
        not_before=NOW + timedelta(days=begin),
        not_after=NOW + timedelta(days=days),
    )
    (found,) = judge_certificates([one], POLICY, NOW)
    return found


@pytest.mark.parametrize(
    ("days", "begin", "status", "value"),
    [
        (-3.2, -10, "fail", "expired 3 days ago"),
        (-0.1, -10, "fail", "expired 2.4 h ago"),
        (0, -10, "fail", "expired 0 s ago"),
        (90, 2.5, "fail", "not valid for another 2 days"),
        (6.9, -10, "fail", "6 days left"),
        (7, -10, "fail", "7 days left"),
        (7.1, -10, "warn", "7 days left"),
        (30, -10, "warn", "30 days left"),
        (30.1, -10, "ok", "30 days left"),
    ],
)
def test_by_the_days_that_are_left(days: float, begin: float, status: str, value: str) -> None:
    found = judged(days, begin)
    assert (found.status, found.value) == (status, value)
    assert bool(found.advice) == (status != "ok") and found.suggests == ""
    assert "motoko, by Our CA, until 20" in found.evidence


def test_what_could_not_be_read_is_unknown() -> None:
    dead = Certificate(where="a:1", problem="connection refused")
    blank = Certificate(where="b:1")
    one, two = judge_certificates([dead, blank], POLICY, NOW)
    assert (one.status, one.evidence, one.subject) == ("unknown", "connection refused", "a:1")
    assert (two.status, two.evidence) == ("unknown", "it has no dates")


def test_the_one_of_a_chain_that_ends_first_is_named() -> None:
    one = Certificate(
        where="/c.pem", subject="leaf", not_before=NOW, not_after=NOW, expires_first="mid"
    )
    (found,) = judge_certificates([one], POLICY, NOW)
    assert found.evidence.endswith("mid of its chain expires first")


@given(st.floats(-400, 400), st.floats(-400, 400))
def test_less_time_is_never_better(one: float, other: float) -> None:
    rank = ["fail", "warn", "ok"]
    less, more = sorted((one, other))
    assert rank.index(judged(less, -500).status) <= rank.index(judged(more, -500).status)
