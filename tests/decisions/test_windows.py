"""Windows against a brute-force clock: every minute of some weeks, daylight saving included."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.windows import WEEKDAYS, Window

LA = "America/Los_Angeles"
# Spring forward and fall back of 2026: an hour in California, Berlin; half an hour on Lord Howe.
CHANGES = {
    LA: [datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)],
    "Europe/Berlin": [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)],
    "Australia/Lord_Howe": [datetime(2026, 4, 4, tzinfo=UTC), datetime(2026, 10, 3, tzinfo=UTC)],
    "UTC": [datetime(2026, 2, 28, tzinfo=UTC)],
    "Asia/Kolkata": [datetime(2026, 12, 31, tzinfo=UTC)],
}


def handbook_001() -> Window:
    return Window(weekdays=("sat",), nth=1, start="02:00", end="06:00", timezone=LA)


def nth_matches(window: Window, wall: datetime) -> bool:
    if window.weekdays and WEEKDAYS[wall.weekday()] not in window.weekdays:
        return False
    if window.nth is None:
        return True
    if window.nth == -1:
        return (wall + timedelta(days=7)).month != wall.month
    same = [d for d in range(1, wall.day + 1) if wall.replace(day=d).weekday() == wall.weekday()]
    return len(same) == window.nth


def scan(window: Window, begin: datetime, minutes: int, step: int = 1) -> list[bool]:
    """Minute by minute: covered from when the clock first reached `start` until it reached `end`.

    The clock's high-water mark decides, so an hour that is repeated adds nothing, and one that
    is skipped counts as reached.
    """
    assert window.start and window.end
    zone = ZoneInfo(window.timezone)
    opens, closes = time.fromisoformat(window.start), time.fromisoformat(window.end)
    high = datetime.min
    found = []
    for minute in range(-180, minutes, step):
        wall = (begin + timedelta(minutes=minute)).astimezone(zone).replace(tzinfo=None)
        high = max(high, wall)
        if minute < 0:
            continue
        covered = False
        for back in (0, 1):
            day = (high - timedelta(days=back)).replace(hour=0, minute=0)
            first = datetime.combine(day, opens)
            last = datetime.combine(day + timedelta(days=0 if closes > opens else 1), closes)
            covered |= nth_matches(window, day) and first <= high < last
        found.append(covered)
    return found


clocks = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.sampled_from([0, 30, 45]))


@st.composite
def recurring(draw: st.DrawFn) -> tuple[Window, datetime]:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    days = tuple(draw(st.lists(st.sampled_from(WEEKDAYS), unique=True, max_size=3)))
    nth = draw(st.sampled_from([None, 1, 2, 4, 5, -1])) if days else None
    window = Window(weekdays=days, nth=nth, start=draw(clocks), end=draw(clocks), timezone=zone)
    return window, draw(st.sampled_from(CHANGES[zone])) - timedelta(days=1)


@settings(deadline=None, max_examples=50)
@given(recurring())
@example((Window(start="02:30", end="03:30", timezone=LA), CHANGES[LA][0]))
@example((Window(start="01:30", end="01:45", timezone=LA), CHANGES[LA][1]))
@example((Window(start="02:15", end="02:45", timezone=LA), CHANGES[LA][0]))
@example((Window(start="00:00", end="00:00", timezone=LA), CHANGES[LA][1]))
@example((Window(start="23:00", end="01:30", timezone=LA), CHANGES[LA][1]))
def test_a_window_covers_what_a_clock_watched_minute_by_minute_says(case):
    window, begin = case
    step = 15
    expected = scan(window, begin, 3 * 24 * 60, step)
    found = [
        window.covers(begin + timedelta(minutes=minute)) for minute in range(0, 3 * 24 * 60, step)
    ]
    assert found == expected


def test_the_first_saturday_of_the_handbook_over_ten_weeks():
    window, begin = handbook_001(), datetime(2026, 2, 1, tzinfo=UTC)
    expected = scan(window, begin, 70 * 24 * 60, 30)
    found = [
        window.covers(begin + timedelta(minutes=minute)) for minute in range(0, 70 * 24 * 60, 30)
    ]
    assert found == expected
    assert sum(found) == 3 * 8  # February, March and April: four hours each


@settings(deadline=None, max_examples=60)
@given(recurring(), st.integers(0, 3 * 24 * 60))
def test_the_next_window_is_the_first_minute_that_is_covered(case, minute):
    window, begin = case
    now = begin + timedelta(minutes=minute)
    span = window.current_or_next(now)
    assert span is not None
    start, end = span
    assert start < end and end > now
    assert start.tzinfo is UTC and end.tzinfo is UTC
    assert window.covers(start) and window.covers(end - timedelta(seconds=1))
    assert window.covers(now) == (start <= now)
    if start > now:
        assert not window.covers(start - timedelta(seconds=1))
        gap = (start - now) / 7
        assert not any(window.covers(now + gap * k) for k in range(7))


def test_the_handbooks_window_follows_daylight_saving():
    window = handbook_001()
    winter = window.current_or_next(datetime(2026, 1, 20, tzinfo=UTC))
    summer = window.current_or_next(datetime(2026, 6, 30, tzinfo=UTC))
    assert winter == (datetime(2026, 2, 7, 10, tzinfo=UTC), datetime(2026, 2, 7, 14, tzinfo=UTC))
    assert summer == (datetime(2026, 7, 4, 9, tzinfo=UTC), datetime(2026, 7, 4, 13, tzinfo=UTC))


def test_a_window_in_the_skipped_hour_starts_when_the_clock_jumps_or_not_at_all():
    half = Window(start="02:30", end="04:00", timezone=LA)
    assert half.current_or_next(datetime(2026, 3, 8, 8, tzinfo=UTC)) == (
        datetime(2026, 3, 8, 10, tzinfo=UTC),
        datetime(2026, 3, 8, 11, tzinfo=UTC),
    )
    inside = Window(start="02:15", end="02:45", timezone=LA)
    span = inside.current_or_next(datetime(2026, 3, 8, 8, tzinfo=UTC))
    assert span is not None and span[0].day == 9


def test_a_repeated_hour_is_one_window():
    window = Window(start="01:00", end="02:00", timezone=LA)
    assert window.current_or_next(datetime(2026, 11, 1, 7, tzinfo=UTC)) == (
        datetime(2026, 11, 1, 8, tzinfo=UTC),
        datetime(2026, 11, 1, 10, tzinfo=UTC),
    )


def test_a_window_past_midnight_belongs_to_the_day_it_starts_on():
    window = Window(weekdays=("fri",), start="22:00", end="04:00")
    friday = datetime(2026, 11, 20, tzinfo=UTC)
    assert window.covers(friday.replace(hour=23))
    assert window.covers(friday + timedelta(days=1, hours=3))
    assert not window.covers(friday + timedelta(days=1, hours=4))
    assert not window.covers(friday + timedelta(hours=3))


def test_absolute_windows_hold_their_start_and_not_their_end():
    window = Window.model_validate(
        {
            "from": "2026-12-20T18:00:00+01:00",
            "until": "2027-01-04T08:00:00+01:00",
            "reason": "xmas",
        }
    )
    start, end = datetime(2026, 12, 20, 17, tzinfo=UTC), datetime(2027, 1, 4, 7, tzinfo=UTC)
    assert window.current_or_next(start - timedelta(days=9)) == (start, end)
    assert window.covers(start) and not window.covers(end)
    assert not window.covers(start - timedelta(seconds=1))
    assert window.current_or_next(end) is None
    assert Window.model_validate(window.model_dump()) == window
    assert Window.model_validate_json(window.model_dump_json(by_alias=True)) == window


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "from and until, or start and end"),
        ({"start": "02:00"}, "from and until, or start and end"),
        ({"start": 1320, "end": "02:00"}, "in quotes"),
        ({"start": "2:00", "end": "24:00"}, "HH:MM"),
        ({"start": "02:00", "end": "06:00", "timezone": "PST"}, "America/Los_Angeles"),
        ({"start": "02:00", "end": "06:00", "timezone": "../etc"}, "IANA"),
        ({"start": "02:00", "end": "06:00", "timezone": ""}, "IANA"),
        ({"start": "02:00", "end": "06:00", "nth": 1}, "needs weekdays"),
        ({"start": "02:00", "end": "06:00", "nth": 6, "weekdays": ["sat"]}, "1 to 5"),
        ({"start": "02:00", "end": "06:00", "weekdays": ["sat", "sat"]}, "once"),
        ({"start": "02:00", "end": "06:00", "weekdays": ["saturday"]}, "sat"),
        ({"from": "2026-12-20T18:00:00Z"}, "both from and until"),
        ({"from": "2026-12-20T18:00:00", "until": "2026-12-21T18:00:00Z"}, "timezone"),
        ({"from": "2026-12-22T00:00:00Z", "until": "2026-12-21T00:00:00Z"}, "not before"),
        (
            {"from": "2026-12-20T00:00:00Z", "until": "2026-12-21T00:00:00Z", "start": "01:00"},
            "split it in two",
        ),
    ],
)
def test_a_bad_window_is_refused_with_the_remedy(values, words):
    with pytest.raises(ValidationError, match=words):
        Window.model_validate(values)


def test_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        handbook_001().covers(datetime(2026, 1, 1))
