"""Whom to tell of an incident, when, and by what. Pure: every instant is an argument.

Handbook 001 "Escalation Matrix": a path of roles, each told when the one before did not answer
in time. Handbook 002 "Severity Levels": who is told at once, in business hours only, by e-mail,
or on the next business day.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from blocks.alert_routes import Severity
from blocks.errors import GuardReason
from blocks.escalation import PAGER, EscalationSpec, SeveritySpec
from blocks.models import Frozen
from flows.decisions.rotation import on_duty

PASSES: tuple[GuardReason, ...] = ("locked", "cooling-down")
"""Refusals that end by themselves within minutes. From an alert nobody is called for them: the
procedure cannot try again, but the gateway looks at alerts that still fire every minute, starts
it again once the other run or the pause is over, and calls people itself where that does not
help. A page for "another run is at work on it" wakes somebody who can only wait."""
UNANSWERED: tuple[GuardReason, ...] = ("frozen", "approval-expired", "not-approved")
"""Refusals that leave a service as it was, though nobody decided so."""


def calls_for_people(
    *, source: str, procedure: str, verdict: str, blocked_by: str | None, rejected: bool
) -> bool:
    """Whether a run that nobody watches leaves something to a person.

    An alert says that something is broken now: whatever did not pass leaves it so. A schedule
    says nothing: a healthy service that nobody approved a change of must wake nobody, and only a
    remediation is about a broken one.

    Args:
        source: of the run; who starts it by hand sees how it ended.
        procedure: its name.
        verdict: how it ended.
        blocked_by: the guard that refused; None: none did.
        rejected: a person looked at the plan, and said no.
    """
    if source not in ("alert", "schedule") or verdict == "passed" or rejected:
        return False
    if source == "alert":
        return blocked_by not in PASSES
    if verdict in ("failed", "error", "inconclusive") or blocked_by == "attempts-exhausted":
        return True
    return procedure.startswith("remediate-") and blocked_by in UNANSWERED


def severity_of(procedure: str, incident: Severity | None) -> Severity:
    """Of a procedure that did not help: its own or the incident's, the worse one.

    Handbook 001: P0 down, P1 degraded, P2 minor.
    """
    own: Severity = "P1" if procedure.startswith("remediate-") else "P2"
    if procedure == "remediate-outage":
        own = "P0"
    return min(own, incident or own)


class Step(Frozen):
    """One role of the path is told."""

    number: int
    """Place in the path, from 0."""
    at: datetime
    """Not before, UTC."""
    role: str
    person: str
    """Empty: nobody has the role then."""
    why_nobody: str = ""
    ways: tuple[str, ...] = ()


class Course(Frozen):
    """What happens as long as nobody acknowledges."""

    steps: tuple[Step, ...]
    """In the order of the path; never one before the one it follows."""
    exhausted_at: datetime
    """When the last one should have answered, UTC."""


def course(
    spec: EscalationSpec, timezone: str, severity: Severity, opened_at: datetime
) -> Course | None:
    """The whole course of an incident; None where the matrix has no such severity.

    A role that nobody has takes no time: the next one is told at once.
    """
    row = spec.severities.get(severity)
    if row is None:
        return None
    at = _first(spec, timezone, row, opened_at.astimezone(UTC))
    steps = []
    for number, role in enumerate(row.path):
        duty = on_duty(spec, role, timezone, at)
        steps.append(
            Step(
                number=number,
                at=at,
                role=role,
                person=duty.person,
                why_nobody=duty.why_nobody,
                ways=ways_of(row, severity) if duty.person else (),
            )
        )
        if duty.person:
            at = _answered_by(spec, timezone, row, at)
    return Course(steps=tuple(steps), exhausted_at=at)


def due(
    planned: Course,
    acknowledged_at: datetime | None,
    now: datetime,
    unreached: Collection[int] = (),
) -> tuple[Step, ...]:
    """The steps that are due by `now`: the first ones of the path, none left out.

    Those that an acknowledgement came before are not due any more, whenever they are looked at.

    Args:
        planned: the whole course.
        acknowledged_at: when somebody said that they have it.
        now: the instant.
        unreached: numbers of steps whose person no way reached: the next one is due at once.
    """
    found: list[Step] = []
    for step in planned.steps:
        at_once = bool(found) and acknowledged_at is None and found[-1].number in unreached
        in_time = acknowledged_at is None or step.at < acknowledged_at
        if not (at_once or (step.at <= now and in_time)):
            break
        found.append(step)
    return tuple(found)


def ways_of(row: SeveritySpec, severity: Severity) -> tuple[str, ...]:
    """How people are told; what can wait for the next business day pages nobody."""
    quiet = row.next_business_day or severity == "P3"
    return tuple(way for way in row.via if not (quiet and way == PAGER))


def _first(spec: EscalationSpec, timezone: str, row: SeveritySpec, opened_at: datetime) -> datetime:
    if row.when == "always":
        return opened_at
    return next((max(b, opened_at) for b, _ in _hours(spec, timezone, opened_at)), opened_at)


def _answered_by(
    spec: EscalationSpec, timezone: str, row: SeveritySpec, told_at: datetime
) -> datetime:
    """When an answer is late, for one who is told then."""
    if row.respond_min is None:
        return _end_of_next_day(spec, timezone, told_at)
    left = timedelta(minutes=row.respond_min)
    if row.when == "always":
        return told_at + left
    for begins, ends in _hours(spec, timezone, told_at):
        begins = max(begins, told_at)
        # At the very end of the day nobody could be told: the next day's begin, then.
        if begins + left < ends:
            return begins + left
        left -= ends - begins
    return told_at + left


def _end_of_next_day(spec: EscalationSpec, timezone: str, told_at: datetime) -> datetime:
    zone = ZoneInfo(timezone)
    today = told_at.astimezone(zone).date()
    later = (e for b, e in _hours(spec, timezone, told_at) if b.astimezone(zone).date() > today)
    return next(later, told_at + timedelta(days=1))


def _hours(
    spec: EscalationSpec, timezone: str, since: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Business hours that end after `since`, one working day after the other, UTC."""
    window = spec.business_hours.window(timezone)
    at = since
    while found := window.current_or_next(at):
        yield found
        at = found[1]
