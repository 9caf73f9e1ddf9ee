"""Whom to tell and when: in the order of the path, never one left out, stopped by an answer."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.alert_routes import Severity
from blocks.errors import GuardReason
from blocks.escalation import EscalationSpec
from blocks.journal import Verdict
from flows.decisions.escalation import Course, calls_for_people, course, due, severity_of

ZONE = "America/Los_Angeles"


def spec(**severities: Any) -> EscalationSpec:
    return EscalationSpec.model_validate(
        {
            "severities": severities,
            "rotations": {
                "primary": {"people": ["ada", "bob"], "starts": "2026-11-02"},
                "secondary": {"people": ["bob", "ada"], "starts": "2026-11-02"},
                "future": {"people": ["zed"], "starts": "2036-11-03"},
            },
            "contacts": {"manager": "eve", "cto": "max", "lead": "lea"},
            "pagerduty": {"routing_key": "${PD}"},
            "notify": {"email": "${MAIL}", "ticket": "${TICKET}"},
        }
    )


MATRIX_001 = spec(
    P0={
        "path": ["primary", "secondary", "manager", "cto"],
        "via": ["pagerduty", "slack"],
        "respond_min": 15,
    },
    P1={"path": ["primary", "secondary", "lead"], "via": ["pagerduty"], "respond_min": 30},
    P2={"path": ["primary", "lead"], "via": ["slack"], "respond_min": 120},
    P3={"path": ["primary"], "via": ["slack"], "next_business_day": True},
)
MATRIX_002 = spec(
    P0={"path": ["primary"], "via": ["pagerduty"], "respond_min": 15},
    P1={
        "path": ["primary", "lead"],
        "via": ["pagerduty"],
        "respond_min": 60,
        "when": "business-hours",
    },
    P2={"path": ["primary"], "via": ["email"], "respond_min": 240},
    P3={"path": ["primary"], "via": ["ticket"], "next_business_day": True},
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE))


def planned(matrix: EscalationSpec, severity: Severity, opened: str) -> Course:
    found = course(matrix, ZONE, severity, at(opened))
    assert found
    return found


def shown(found: Course) -> list[tuple[str, str]]:
    return [
        (f"{s.at.astimezone(ZoneInfo(ZONE)):%a %H:%M}", f"{s.role} {s.person}".strip())
        for s in found.steps
    ]


def until(found: Course) -> str:
    return f"{found.exhausted_at.astimezone(ZoneInfo(ZONE)):%a %H:%M}"


def test_the_p0_of_handbook_001_goes_up_to_the_cto_at_night() -> None:
    found = planned(MATRIX_001, "P0", "2026-11-08T03:00")
    assert shown(found) == [
        ("Sun 03:00", "primary ada"),
        ("Sun 03:15", "secondary bob"),
        ("Sun 03:30", "manager eve"),
        ("Sun 03:45", "cto max"),
    ]
    assert until(found) == "Sun 04:00"
    assert found.steps[0].ways == ("pagerduty", "slack")


def test_who_is_on_call_when_the_step_comes_is_told() -> None:
    found = planned(MATRIX_001, "P0", "2026-11-09T08:50")
    assert shown(found)[:2] == [("Mon 08:50", "primary ada"), ("Mon 09:05", "secondary ada")]


def test_the_p1_of_handbook_002_pages_in_business_hours_only() -> None:
    found = planned(MATRIX_002, "P1", "2026-11-06T18:00")  # Friday evening
    assert shown(found) == [("Mon 09:00", "primary bob"), ("Mon 10:00", "lead lea")]
    assert until(found) == "Mon 11:00"


def test_minutes_of_business_hours_go_over_the_weekend() -> None:
    found = planned(MATRIX_002, "P1", "2026-11-06T16:30")
    assert shown(found) == [("Fri 16:30", "primary ada"), ("Mon 09:30", "lead lea")]
    # The hour that ends with the day: nobody could be told at its end.
    assert shown(planned(MATRIX_002, "P1", "2026-11-06T16:00"))[1][0] == "Mon 09:00"


def test_p3_is_told_at_once_quietly_and_answered_on_the_next_business_day() -> None:
    found = planned(MATRIX_001, "P3", "2026-11-06T10:00")
    assert shown(found) == [("Fri 10:00", "primary ada")] and until(found) == "Mon 17:00"
    assert until(planned(MATRIX_001, "P3", "2026-11-05T23:00")) == "Fri 17:00"
    assert until(planned(MATRIX_001, "P3", "2026-11-07T12:00")) == "Mon 17:00"


def test_p3_never_pages_whatever_the_inventory_says() -> None:
    row = {"path": ["primary"], "via": ["pagerduty", "slack"]}
    for matrix in (spec(P3=row | {"respond_min": 1}), spec(P3=row | {"next_business_day": True})):
        assert [s.ways for s in planned(matrix, "P3", "2026-11-06T10:00").steps] == [("slack",)]
    day = spec(P2=row | {"next_business_day": True})
    assert planned(day, "P2", "2026-11-06T10:00").steps[0].ways == ("slack",)


def test_a_role_that_nobody_has_takes_no_time_and_is_said() -> None:
    matrix = spec(P0={"path": ["future", "manager"], "via": ["slack"], "respond_min": 15})
    found = planned(matrix, "P0", "2026-11-08T03:00")
    assert shown(found) == [("Sun 03:00", "future"), ("Sun 03:00", "manager eve")]
    assert "starts on 2036-11-03" in found.steps[0].why_nobody and not found.steps[0].ways
    assert until(found) == "Sun 03:15"


def test_a_severity_that_is_not_in_the_matrix_has_no_course() -> None:
    assert course(spec(P0={"path": ["cto"], "via": ["slack"], "respond_min": 1}), ZONE, "P1",
                  at("2026-11-08T03:00")) is None  # fmt: skip


def test_an_unreached_step_makes_the_next_one_due_but_not_the_one_after() -> None:
    found, now = planned(MATRIX_001, "P0", "2026-11-08T03:00"), at("2026-11-08T03:01")
    assert [s.role for s in due(found, None, now)] == ["primary"]
    assert [s.role for s in due(found, None, now, {0})] == ["primary", "secondary"]
    assert len(due(found, None, now, {0, 1, 2})) == 4
    assert [s.role for s in due(found, now, now, {0, 1, 2})] == ["primary"]


MATRICES = st.sampled_from([MATRIX_001, MATRIX_002])
SEVERITIES = st.sampled_from(get_args(Severity))
OPENED = st.datetimes(datetime(2026, 11, 2, 18), datetime(2028, 12, 31), timezones=st.just(UTC))
LATER = st.integers(0, 14 * 86_400)


@given(MATRICES, SEVERITIES, OPENED)
def test_times_never_go_back_and_the_last_one_gets_time_too(
    matrix: EscalationSpec, severity: Severity, opened: datetime
) -> None:
    found = course(matrix, ZONE, severity, opened)
    assert found
    times = [opened, *(s.at for s in found.steps), found.exhausted_at]
    assert times == sorted(times)
    assert found.exhausted_at > found.steps[-1].at
    assert [s.number for s in found.steps] == list(range(len(found.steps)))
    assert tuple(s.role for s in found.steps) == matrix.severities[severity].path


@given(MATRICES, SEVERITIES, OPENED, LATER, LATER)
def test_what_is_due_only_grows_and_leaves_no_step_out(
    matrix: EscalationSpec, severity: Severity, opened: datetime, one: int, two: int
) -> None:
    found = course(matrix, ZONE, severity, opened)
    assert found
    early, late = (due(found, None, opened + timedelta(seconds=s)) for s in sorted((one, two)))
    assert late[: len(early)] == early
    assert late == found.steps[: len(late)]
    assert due(found, None, found.exhausted_at) == found.steps


@given(MATRICES, SEVERITIES, OPENED, LATER, LATER)
def test_an_acknowledgement_stops_it_for_good(
    matrix: EscalationSpec, severity: Severity, opened: datetime, ack: int, later: int
) -> None:
    found = course(matrix, ZONE, severity, opened)
    assert found
    acknowledged = opened + timedelta(seconds=ack)
    then = due(found, acknowledged, acknowledged)
    assert due(found, acknowledged, acknowledged + timedelta(seconds=later)) == then
    assert all(s.at < acknowledged for s in then)


@given(OPENED)
def test_business_hours_wake_nobody_at_night(opened: datetime) -> None:
    found = course(MATRIX_002, ZONE, "P1", opened)
    assert found
    for step in found.steps:
        wall = step.at.astimezone(ZoneInfo(ZONE))
        assert wall.weekday() < 5 and 9 <= wall.hour < 17, wall


@pytest.mark.parametrize("hours", [{}, {"weekdays": ["sat"], "start": "22:00", "end": "23:00"}])
def test_business_minutes_add_up_to_the_response_time(hours: dict[str, Any]) -> None:
    matrix = MATRIX_002.model_dump() | {"business_hours": hours}
    matrix["severities"]["P1"]["respond_min"] = 600
    found = course(EscalationSpec.model_validate(matrix), ZONE, "P1", at("2026-11-02T12:00"))
    assert found
    took = (found.exhausted_at - found.steps[-1].at).days
    assert took in ((1, 2) if not hours else (69, 70))


OUTCOMES: list[tuple[str, str | None]] = [
    *((v, None) for v in get_args(Verdict) if v != "blocked"),
    *(("blocked", reason) for reason in get_args(GuardReason)),
]


def calling(source: str, procedure: str) -> set[str]:
    """The verdicts and refusals that people are called for."""
    return {
        reason or verdict
        for verdict, reason in OUTCOMES
        if calls_for_people(
            source=source,
            procedure=procedure,
            verdict=verdict,
            blocked_by=reason,
            rejected=False,
        )
    }


def test_an_alert_calls_for_everything_that_leaves_the_service_broken() -> None:
    every = {reason or verdict for verdict, reason in OUTCOMES}
    assert calling("alert", "remediate-oom") == every - {"passed", "locked", "cooling-down"}


def test_a_schedule_wakes_nobody_for_a_healthy_service() -> None:
    bad = {"failed", "error", "inconclusive", "attempts-exhausted"}
    assert calling("schedule", "restore-context") == bad
    left = {"approval-expired", "frozen", "not-approved"}
    assert calling("schedule", "remediate-latency") == bad | left


def test_who_started_it_by_hand_and_who_rejected_it_are_not_called() -> None:
    assert not any(calling(source, "remediate-oom") for source in ("cli", "ui", "slack"))
    for source in ("alert", "schedule"):
        assert not calls_for_people(
            source=source,
            procedure="remediate-oom",
            verdict="blocked",
            blocked_by="not-approved",
            rejected=True,
        )


def test_the_worse_severity_counts() -> None:
    assert severity_of("remediate-outage", "P2") == "P0"
    assert severity_of("remediate-latency", "P0") == "P0"
    assert severity_of("remediate-latency", "P3") == "P1"
    assert severity_of("restore-context", None) == "P2"
