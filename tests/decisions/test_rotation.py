"""On call: exactly one person at any instant, changed at the handover and nowhere else."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from blocks.escalation import EscalationSpec, RotationSpec
from blocks.windows import WEEKDAYS
from flows.decisions.rotation import on_duty, shift_at

ZONES = st.sampled_from(
    ["UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"]
)
DAYS = st.dates(date(2024, 1, 1), date(2027, 12, 31))
INSTANTS = st.datetimes(datetime(2024, 1, 1), datetime(2029, 12, 31), timezones=st.just(UTC))


@st.composite
def rotations(draw: st.DrawFn) -> RotationSpec:
    starts = draw(DAYS)
    people = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True))
    hour, minute = draw(st.integers(0, 23)), draw(st.sampled_from([0, 15, 30, 59]))
    return RotationSpec(
        people=tuple(people),
        starts=starts,
        weekday=WEEKDAYS[starts.weekday()],
        at=f"{hour:02}:{minute:02}",
        days=draw(st.sampled_from([1, 2, 7, 14, 28])),
    )


def weekly(**more: object) -> RotationSpec:
    """Handbook 001: a week, Monday 9 AM to Monday 9 AM."""
    return RotationSpec.model_validate(
        {"people": ["ada", "bob", "cy"], "starts": "2026-11-02", "at": "09:00", **more}
    )


def at(text: str, zone: str = "America/Los_Angeles") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def test_the_handover_of_the_handbook_is_on_monday_at_nine() -> None:
    def who(when: str) -> str:
        shift = shift_at(weekly(), "America/Los_Angeles", at(when))
        assert shift
        return shift.person

    assert who("2026-11-02T09:00") == "ada"
    assert who("2026-11-09T08:59") == "ada"
    assert who("2026-11-09T09:00") == "bob"
    assert who("2026-11-16T09:00") == "cy"
    assert who("2026-11-23T09:00") == "ada"


def test_summer_time_moves_no_handover_on_the_wall() -> None:
    zone = ZoneInfo("Europe/Berlin")
    rotation = weekly(starts="2026-03-23")  # the clock is put forward on 29 March
    first = shift_at(rotation, "Europe/Berlin", at("2026-03-25T12:00", "Europe/Berlin"))
    assert first
    assert first.ends - first.begins == timedelta(days=7, hours=-1)
    assert first.ends.astimezone(zone).isoformat() == "2026-03-30T09:00:00+02:00"


def test_a_handover_in_the_skipped_hour_happens_once() -> None:
    rotation = weekly(starts="2026-03-22", weekday="sun", at="02:30")
    before = shift_at(rotation, "Europe/Berlin", datetime(2026, 3, 29, 1, 29, tzinfo=UTC))
    after = shift_at(rotation, "Europe/Berlin", datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
    assert before and after
    assert (before.person, after.person) == ("ada", "bob")


def test_a_handover_in_the_doubled_hour_is_the_first_of_the_two() -> None:
    rotation = weekly(starts="2026-10-18", weekday="sun", at="02:30")
    shift = shift_at(rotation, "Europe/Berlin", datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    assert (
        shift
        and shift.person == "bob"
        and shift.begins == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )


@given(rotations(), ZONES, INSTANTS)
def test_exactly_one_turn_holds_any_instant(
    rotation: RotationSpec, zone: str, now: datetime
) -> None:
    shift = shift_at(rotation, zone, now)
    starts = datetime.combine(rotation.starts, datetime.min.time()).replace(tzinfo=UTC)
    if shift is None:
        assert now < starts + timedelta(days=2)
        return
    assert shift.begins <= now < shift.ends
    assert shift.person == rotation.people[shift.number % len(rotation.people)]


@given(rotations(), ZONES, INSTANTS)
def test_turns_follow_one_another_without_gap_or_overlap_and_cycle(
    rotation: RotationSpec, zone: str, now: datetime
) -> None:
    shift = shift_at(rotation, zone, now)
    if shift is None:
        return
    following = shift_at(rotation, zone, shift.ends)
    last = shift_at(rotation, zone, shift.ends - timedelta(microseconds=1))
    assert following and last
    assert last == shift
    assert (following.begins, following.number) == (shift.ends, shift.number + 1)
    later = shift
    for _ in rotation.people:
        later = shift_at(rotation, zone, later.ends)  # type: ignore[assignment]
    assert later.person == shift.person


@given(rotations(), ZONES, INSTANTS, st.integers(0, 10**7))
def test_it_never_goes_back(rotation: RotationSpec, zone: str, now: datetime, seconds: int) -> None:
    first, second = (shift_at(rotation, zone, t) for t in (now, now + timedelta(seconds=seconds)))
    if first:
        assert second and second.number >= first.number


@given(rotations(), ZONES, INSTANTS)
def test_the_handover_is_at_its_time_on_the_wall(
    rotation: RotationSpec, zone: str, now: datetime
) -> None:
    shift = shift_at(rotation, zone, now)
    if shift is None:
        return
    wall = shift.begins.astimezone(ZoneInfo(zone))
    hour, minute = map(int, rotation.at.split(":"))
    off = (wall.hour * 60 + wall.minute) - (hour * 60 + minute)
    assert off % 1440 in (0, 30, 60)  # later only where the clock was put forward over it
    if off:
        assert (
            wall.utcoffset()
            != (wall - timedelta(hours=12)).astimezone(UTC).astimezone(ZoneInfo(zone)).utcoffset()
        )


SPEC = EscalationSpec.model_validate(
    {
        "severities": {"P0": {"path": ["primary"], "via": ["slack"], "respond_min": 15}},
        "rotations": {"primary": weekly().model_dump()},
        "contacts": {"manager": "eve"},
    }
)


def test_before_it_starts_nobody_is_on_call_and_that_is_said() -> None:
    duty = on_duty(SPEC, "primary", "America/Los_Angeles", at("2026-11-02T08:59"))
    assert duty.person == ""
    assert duty.why_nobody == (
        "the rotation primary starts on 2026-11-02 09:00 (America/Los_Angeles): nobody yet"
    )


def test_a_contact_always_has_the_role_and_an_unknown_one_nobody() -> None:
    now = at("1999-01-01T00:00")
    assert on_duty(SPEC, "manager", "UTC", now).person == "eve"
    gone = on_duty(SPEC, "cto", "UTC", now)
    assert gone.person == "" and "no role" in gone.why_nobody
