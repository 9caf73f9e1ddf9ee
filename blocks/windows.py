"""Freeze and maintenance windows: when changes are forbidden, or allowed. No I/O, no clock."""

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, ConfigDict, Field, field_validator, model_validator

from blocks.models import Frozen

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

HORIZON_DAYS = 430
"""How far ahead a recurring window is looked for: a fifth Monday is at most months away."""

_EXAMPLE = 'e.g. weekdays: [sat], nth: 1, start: "02:00", end: "06:00", timezone: Europe/Berlin'
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class Window(Frozen):
    """One window, either absolute or recurring; it holds its start and not its end.

    Absolute: `from` and `until`, ISO date-times with an offset. Recurring: `start` and `end`
    ("HH:MM" on the wall clock of `timezone`; an `end` not after `start` is on the next day),
    on `weekdays` (none: every day), each only as the `nth` of its month where that is given
    (handbook 001: "First Saturday of each month, 2:00 AM - 6:00 AM PST"; -1 is the last).
    Both refer to the day the window starts on.

    Daylight saving: a boundary is the first instant at which the wall clock reads that time
    or a later one. So a window is never entered twice in one night, and one that lies wholly
    in the hour that is skipped does not happen on that day.
    """

    model_config = ConfigDict(populate_by_name=True)

    from_: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None
    weekdays: tuple[Weekday, ...] = ()
    nth: int | None = Field(default=None, description="1 to 5, or -1 for the last of the month")
    start: str | None = None
    end: str | None = None
    timezone: str = Field(default="UTC", description="IANA name, e.g. America/Los_Angeles")
    reason: str = ""

    @field_validator("start", "end", mode="before")
    @classmethod
    def _is_clock(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and _CLOCK.fullmatch(value)):
            return value
        # YAML 1.1 reads an unquoted 22:00 as the number 1320.
        raise ValueError(f'{value!r} is not a time of day; write "HH:MM" in quotes, e.g. "02:00"')

    @field_validator("weekdays")
    @classmethod
    def _once_each(cls, value: tuple[Weekday, ...]) -> tuple[Weekday, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"weekdays {', '.join(value)}: name each day once")
        return value

    @field_validator("nth")
    @classmethod
    def _in_month(cls, value: int | None) -> int | None:
        if value is not None and value not in (1, 2, 3, 4, 5, -1):
            raise ValueError(f"nth {value}: use 1 to 5, or -1 for the last of the month")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(
                f"timezone {value!r} is not an IANA name; use one such as America/Los_Angeles "
                "(for PST/PDT) or UTC"
            ) from error
        return value

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Window":
        recurring = bool(self.start or self.end or self.weekdays or self.nth)
        if self.from_ or self.until:
            if recurring:
                raise ValueError("a window is absolute (from, until) or recurring; split it in two")
            if not (self.from_ and self.until):
                raise ValueError("an absolute window needs both from and until")
            if self.from_ >= self.until:
                raise ValueError(
                    f"from {self.from_.isoformat()} is not before until {self.until.isoformat()}"
                )
        elif not (self.start and self.end):
            raise ValueError(f"a window needs from and until, or start and end; {_EXAMPLE}")
        elif self.nth is not None and not self.weekdays:
            raise ValueError(f"nth {self.nth} needs weekdays; {_EXAMPLE}")
        return self

    def covers(self, now: datetime) -> bool:
        """True when the aware instant `now` lies in the window."""
        found = self.current_or_next(now)
        return found is not None and found[0] <= _utc(now)

    def current_or_next(self, now: datetime) -> tuple[datetime, datetime] | None:
        """The first occurrence that ends after `now`, as UTC instants; None when there is none."""
        instant = _utc(now)
        for begin, finish in self._occurrences(instant):
            if begin < finish and instant < finish:
                return begin, finish
        return None

    def _occurrences(self, instant: datetime) -> Iterator[tuple[datetime, datetime]]:
        if self.from_ and self.until:
            yield _utc(self.from_), _utc(self.until)
        if not (self.start and self.end):
            return
        zone = ZoneInfo(self.timezone)
        opens, closes = time.fromisoformat(self.start), time.fromisoformat(self.end)
        # Two days back: an occurrence may last 24 hours and a zone may skip a day.
        first = instant.astimezone(zone).date() - timedelta(days=2)
        for offset in range(HORIZON_DAYS):
            day = first + timedelta(days=offset)
            if self._falls_on(day):
                last = day if closes > opens else day + timedelta(days=1)
                yield (
                    _first_reading(datetime.combine(day, opens), zone),
                    _first_reading(datetime.combine(last, closes), zone),
                )

    def _falls_on(self, day: date) -> bool:
        if self.weekdays and WEEKDAYS[day.weekday()] not in self.weekdays:
            return False
        if self.nth == -1:
            return day.day + 7 > calendar.monthrange(day.year, day.month)[1]
        return self.nth is None or (day.day - 1) // 7 + 1 == self.nth


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; pass an aware date-time")
    return instant.astimezone(UTC)


def _first_reading(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the wall clock of `zone` reads `wall` or later."""
    # fold=0: of a time that comes twice the first, of one that is skipped an instant after it.
    late = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if late.astimezone(zone).replace(tzinfo=None) == wall:
        return late
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while late - early > timedelta(seconds=1):
        middle = early + timedelta(seconds=(late - early).total_seconds() // 2)
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            early = middle
        else:
            late = middle
    return late
