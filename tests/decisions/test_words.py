"""Numbers as people say them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decisions.words import span

UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86_400}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0, "0 s"), (45, "45 s"), (119.9, "119 s"), (720, "12 min")]
    + [(3599, "59 min"), (3600, "1 h"), (12_600, "3.5 h"), (86_400, "24 h"), (345_600, "4 days")],
)
def test_spans_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


@given(st.floats(0, 1e7))
def test_no_span_is_overstated_and_none_by_half(seconds: float) -> None:
    number, unit = span(seconds).split()
    said = float(number) * UNITS[unit]
    assert re.fullmatch(r"[0-9.]+", number) and said <= seconds + 1e-6
    assert seconds - said < max(1, seconds / 2)
