"""Who is on call for a role. Pure: the rotation, the zone and the instant are arguments.

Handbook 001 "On-Call Rotation": a week each, Monday 9 AM to Monday 9 AM.
"""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from blocks.escalation import EscalationSpec, RotationSpec
from blocks.models import Frozen


class Shift(Frozen):
    """One turn: from its handover to the next one, which is not in it."""

    person: str
    number: int
    """Turns since the rotation started, from 0."""
    begins: datetime
    """UTC, as `ends`."""
    ends: datetime


class Duty(Frozen):
    """Who has a role at an instant."""

    role: str
    person: str = ""
    """Empty where nobody has it."""
    why_nobody: str = ""


def shift_at(rotation: RotationSpec, timezone: str, now: datetime) -> Shift | None:
    """The turn that holds `now`; None before the rotation starts.

    A handover is at the same time of the wall clock in summer and winter. One whose hour is
    skipped is as much later as the clock is put forward; of an hour that comes twice, the first.

    Args:
        rotation: people, first handover, length of a turn.
        timezone: IANA name.
        now: an aware instant.
    """
    instant = now.astimezone(UTC)
    day = instant.astimezone(ZoneInfo(timezone)).date()
    number = (day - rotation.starts).days // rotation.days
    # The day alone does not say whether its handover is over.
    while number >= 0 and _handover(rotation, timezone, number) > instant:
        number -= 1
    while _handover(rotation, timezone, number + 1) <= instant:
        number += 1
    if number < 0:
        return None
    return Shift(
        person=rotation.people[number % len(rotation.people)],
        number=number,
        begins=_handover(rotation, timezone, number),
        ends=_handover(rotation, timezone, number + 1),
    )


def _handover(rotation: RotationSpec, timezone: str, number: int) -> datetime:
    day = rotation.starts + timedelta(days=number * rotation.days)
    wall = datetime.combine(day, time.fromisoformat(rotation.at))
    return wall.replace(tzinfo=ZoneInfo(timezone), fold=0).astimezone(UTC)


def on_duty(spec: EscalationSpec, role: str, timezone: str, now: datetime) -> Duty:
    """Who has a role at `now`; where nobody has it, why."""
    if role in spec.contacts:
        return Duty(role=role, person=spec.contacts[role])
    rotation = spec.rotations.get(role)
    if rotation is None:
        return Duty(role=role, why_nobody=f"{role} is no role of the inventory any more")
    shift = shift_at(rotation, timezone, now)
    if shift is None:
        starts = f"{rotation.starts.isoformat()} {rotation.at}"
        return Duty(
            role=role, why_nobody=f"the rotation {role} starts on {starts} ({timezone}): nobody yet"
        )
    return Duty(role=role, person=shift.person)
