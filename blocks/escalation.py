"""Who is told of an incident, in which order, and how fast they must answer.

Handbooks: 001 "On-Call Responsibilities" (a path of roles), 002 "Severity Levels" (one way of
telling per severity). Both are examples of one matrix.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Literal

from pydantic import Field, field_validator, model_validator

from blocks.alert_routes import Severity
from blocks.models import Frozen
from blocks.people import Member
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl
from blocks.windows import WEEKDAYS, Weekday, Window

PAGER, SLACK = "pagerduty", "slack"
"""The ways that need no entry under `notify`."""

Tick = Literal["told", "acknowledged", "diagnosed", "fixed", "watched", "resolved", "drafted"]
"""What the flow itself can see done, and tick."""


Fault = tuple[tuple[str | int, ...], str]
"""Path of a key, and what is wrong with it."""


class ChecklistItem(Frozen):
    """One line of a severity's checklist."""

    text: str = Field(min_length=1, max_length=200, description="as the handbook has it")
    ticked: Tick | None = Field(
        default=None,
        description="ticked when it was seen done: told, acknowledged, diagnosed or fixed (by a "
        "run), watched, resolved, drafted (the report); none: a person's, never ticked",
    )


class SeveritySpec(Frozen):
    """One row of the matrix."""

    meaning: str = Field(default="", max_length=300, description="what makes an incident one")
    path: tuple[str, ...] = Field(min_length=1, description="roles, the first told first")
    via: tuple[str, ...] = Field(
        min_length=1, description="ways each is told by: pagerduty, slack, or a name under notify"
    )
    respond_min: float | None = Field(
        default=None,
        gt=0,
        le=10_080,
        description="minutes until somebody must have acknowledged; then the next role is told",
    )
    next_business_day: bool = Field(
        default=False,
        description="instead of respond_min: until the end of the next business day; pages nobody",
    )
    when: Literal["always", "business-hours"] = Field(
        default="always",
        description="business-hours: nobody is told outside of them, and the minutes count in them",
    )
    resolve_min: float | None = Field(
        default=None, gt=0, le=43_200, description="minutes in which it should be over"
    )
    watch_min: float = Field(
        default=0, ge=0, le=240, description="minutes it is watched after the fix"
    )
    checklist: tuple[ChecklistItem, ...] = Field(
        default=(), max_length=20, description="posted with boxes; none given: told … drafted"
    )

    @model_validator(mode="after")
    def _answers_in_time(self) -> "SeveritySpec":
        if (self.respond_min is None) != self.next_business_day:
            raise ValueError(
                "needs one of respond_min (minutes) and next_business_day: true, and not both"
            )
        for what, names in (("path", self.path), ("via", self.via)):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} names one twice; remove it")
        return self


class RotationSpec(Frozen):
    """People who take turns in a role.

    Handbook 001: "1 week (Monday 9 AM - Monday 9 AM)". The wall clock is that of the stack.
    """

    people: tuple[str, ...] = Field(
        min_length=1, max_length=100, description="members of people.members, in turn"
    )
    starts: date = Field(description="the day of the first handover, to the first of people")
    weekday: Weekday = Field(default="mon", description="of the handover, where days is in weeks")
    at: str = Field(
        default="09:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="wall clock, in quotes"
    )
    days: int = Field(default=7, ge=1, le=366, description="length of a turn")

    @model_validator(mode="after")
    def _begins_on_its_weekday(self) -> "RotationSpec":
        found = WEEKDAYS[self.starts.weekday()]
        if self.days % 7 == 0 and found != self.weekday:
            raise ValueError(
                f"starts {self.starts.isoformat()} is a {found}, and weekday is {self.weekday}; "
                "change one of them"
            )
        return self


class BusinessHours(Frozen):
    """When people work, on the wall clock of the stack."""

    weekdays: tuple[Weekday, ...] = Field(
        default=("mon", "tue", "wed", "thu", "fri"), min_length=1, description="working days"
    )
    start: str = Field(default="09:00", description='"HH:MM", in quotes')
    end: str = Field(default="17:00", description='"HH:MM" of the same day, in quotes')

    @model_validator(mode="after")
    def _in_one_day(self) -> "BusinessHours":
        self.window("UTC")
        if self.end <= self.start:
            raise ValueError(f"end {self.end!r} is not after start {self.start!r}")
        return self

    def window(self, timezone: str) -> Window:
        """The same as a recurring window."""
        return Window(weekdays=self.weekdays, start=self.start, end=self.end, timezone=timezone)


class PagerDutySpec(Frozen):
    """Where pages go: Events API v2 integrations."""

    routing_key: SecretRef = Field(description="reference to the integration key")
    by_role: dict[str, SecretRef] = Field(
        default={},
        description="role → reference to the key of a PagerDuty service of its own; a role "
        "without one adds to the alert that is there, and PagerDuty's own policy decides who rings",
    )
    url: HttpUrl = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        description="another address, for the EU region or a proxy",
    )
    timeout_s: float = Field(default=10, gt=0, le=60, description="of one event")


class EscalationSpec(Frozen):
    """Severities, rotations, and the ways to reach people."""

    severities: dict[Severity, SeveritySpec] = Field(min_length=1, description="P0 to P3")
    rotations: dict[str, RotationSpec] = Field(default={}, description="roles that rotate")
    contacts: dict[str, str] = Field(
        default={}, description="roles that do not: role → name under people.members"
    )
    business_hours: BusinessHours = Field(default=BusinessHours(), description="when people work")
    channel: str = Field(
        default="", description="Slack channel of checklist and calls; default: that of slack"
    )
    pagerduty: PagerDutySpec | None = Field(default=None, description="where pages go")
    notify: dict[str, SecretRef] = Field(
        default={},
        description="further ways by name: references to apprise URLs (Mattermost, e-mail, …); "
        "{email} in one stands for the person's address",
    )

    @field_validator("notify")
    @classmethod
    def _own_names(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := {PAGER, SLACK} & set(value):
            raise ValueError(f"{min(taken)!r} is a way of its own; give this one another name")
        return value


def disagreements(
    spec: EscalationSpec, members: Mapping[str, Member], *, has_slack: bool
) -> Iterator[Fault]:
    """What contradicts itself or the people of the inventory, as (path, what is wrong)."""
    yield from _matrix(spec, has_slack=has_slack)
    roles = {**spec.rotations, **spec.contacts}
    for role in spec.rotations.keys() & spec.contacts.keys():
        yield ("escalation", "contacts", role), "is under rotations too; keep one of them"
    for role in spec.pagerduty.by_role if spec.pagerduty else ():
        if role not in roles:
            words = f"{role!r} is no role here" + _known(roles)
            yield ("escalation", "pagerduty", "by_role", role), words
    for role, rotation in spec.rotations.items():
        for number, person in enumerate(rotation.people):
            if person not in members:
                words = f"{person!r} is not under people.members" + _known(members)
                yield ("escalation", "rotations", role, "people", number), words
    for role, person in spec.contacts.items():
        if person not in members:
            words = f"{person!r} is not under people.members" + _known(members)
            yield ("escalation", "contacts", role), words


def _matrix(spec: EscalationSpec, *, has_slack: bool) -> Iterator[Fault]:
    """Roles and ways of the severities that there are not, and pages that wake for nothing."""
    roles = {**spec.rotations, **spec.contacts}
    ways = {*spec.notify, *([PAGER] if spec.pagerduty else []), *([SLACK] if has_slack else [])}
    for name, one in spec.severities.items():
        at = ("escalation", "severities", name)
        for number, role in enumerate(one.path):
            if role not in roles:
                words = f"{role!r} is no role here: add it under rotations or contacts"
                yield (*at, "path", number), words + _known(roles)
        for number, way in enumerate(one.via):
            if way not in ways:
                yield (*at, "via", number), _no_way(way) + _known(ways)
        if PAGER in one.via and (one.next_business_day or name == "P3"):
            why = "the next business day" if one.next_business_day else "P3"
            yield (*at, "via"), f"nobody is paged for {why}: remove pagerduty"


def _no_way(way: str) -> str:
    if way == PAGER:
        return "pagerduty needs a section escalation.pagerduty with its routing_key"
    if way == SLACK:
        return "slack needs the stack's section slack"
    return f"{way!r} is no way to reach people: add it under escalation.notify"


def _known(names: Iterable[str]) -> str:
    return f" (known: {', '.join(sorted(names)) or 'none'})"
