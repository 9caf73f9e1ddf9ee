"""Which alert starts what: the first route that matches; never more than the storm rule says."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.alert_routes import AlertRoute, AlertsSpec, Storm
from blocks.regex_cost import tries
from flows.decisions.alert_routing import (
    Routed,
    Start,
    Unrouted,
    admits,
    matches,
    route,
    severity_of,
)

SERVICES = ("wintermute", "armitage")
PROCEDURES = ("remediate-outage", "remediate-oom", "remediate-latency")
names = st.sampled_from(["alertname", "job", "severity", "service"])
values = st.sampled_from(["", "a", "ab", "b", "critical", "warning", *SERVICES])
labels = st.dictionaries(names, values)
matchers = st.one_of(values, st.sampled_from(["~a", "~a.*", "~", "~.*", "~(a|b)", "~crit"]))
routes = st.builds(
    AlertRoute,
    match=st.dictionaries(names, matchers, min_size=1),
    procedure=st.sampled_from(["", "no-such-procedure", *PROCEDURES]),
    service=st.sampled_from(["", "nobody", *SERVICES]),
    severity=st.sampled_from([None, "P0", "P1", "P2", "P3"]),
)


def spec(*given_routes, **more):
    return AlertsSpec(token="${TOKEN}", routes=given_routes, **more)


def go(found, alerts):
    return route(found, alerts, SERVICES, PROCEDURES)


def by_hand(one, found):
    """The rule, said another way."""
    for label, wanted in one.match.items():
        value = found.get(label, "")
        pattern = wanted[1:] if wanted.startswith("~") else re.escape(wanted)
        if not re.search(rf"\A(?:{pattern})\Z", value):
            return False
    return True


@given(labels, st.lists(routes, max_size=6))
def test_first_route_that_matches_decides(found, given_routes):
    got = go(found, spec(*given_routes))
    first = next((r for r in given_routes if by_hand(r, found)), None)
    if first is None:
        assert isinstance(got, Unrouted)
        assert got.why == "unmatched"
    elif isinstance(got, Routed):
        assert got.route == first
        assert got.procedure == first.procedure
        assert got.service == (first.service or found["service"])
    else:
        assert got.why in ("unknown-service", "unknown-procedure", "told-only")


@given(labels, st.lists(routes, max_size=6))
def test_only_known_names_are_ever_started(found, given_routes):
    got = go(found, spec(*given_routes))
    assert got.service in ("", *SERVICES)
    if isinstance(got, Routed):
        assert got.procedure in PROCEDURES
        assert got.service
    else:
        assert got.reason


@pytest.mark.parametrize(
    ("wanted", "value", "holds"),
    [
        ("VllmDown", "VllmDown", True),
        ("VllmDown", "VllmDown2", False),
        ("~Vllm.*", "VllmDown", True),
        ("~Vllm", "VllmDown", False),  # the whole value
        ("~down|slow", "slow", True),
        ("~down|slow", "slower", False),
        ("", None, True),  # a missing label is an empty one
        ("x", None, False),
        ("~x?", None, True),
    ],
)
def test_matcher(wanted, value, holds):
    found = {} if value is None else {"alertname": value}
    assert matches(AlertRoute(match={"alertname": wanted}), found) is holds


def test_service_label_can_have_another_name():
    alerts = spec(
        AlertRoute(match={"job": "a"}, procedure="remediate-oom"), service_label="llm_service"
    )
    got = go({"job": "a", "llm_service": "armitage", "service": "wintermute"}, alerts)
    assert isinstance(got, Routed)
    assert got.service == "armitage"


def test_service_of_an_unmatched_alert_is_known_all_the_same():
    got = go({"service": "armitage", "severity": "page"}, spec())
    assert got == Unrouted(why="unmatched", reason=got.reason, service="armitage", severity="P0")


@pytest.mark.parametrize(
    ("label", "severity"),
    [("critical", "P0"), ("PAGE", "P0"), ("error", "P1"), ("high", "P1"), ("warning", "P2")]
    + [("info", "P3"), ("", "P3")],
)
def test_severity(label, severity):
    assert severity_of({"severity": label}) == severity
    forced = AlertRoute(match={"a": "b"}, severity="P1")
    assert severity_of({"severity": label}, forced) == "P1"


@pytest.mark.parametrize("pattern", ["~(", "~[a", "~*", "~(?P<x", "~a{99999999999999}"])
def test_bad_regular_expression_is_refused_with_the_inventory(pattern):
    with pytest.raises(ValidationError, match=r"alertname: .* is no regular expression"):
        AlertRoute(match={"alertname": pattern})


@pytest.mark.parametrize(
    "parameters",
    [{"stack": "x"}, {"service": "y"}, {"options": {"approval": "yes"}}, {"options": 1}],
)
def test_route_cannot_set_what_the_alert_decides_nor_approve(parameters):
    with pytest.raises(ValidationError, match=r"is set from the alert|dry_run only"):
        AlertRoute(match={"a": "b"}, parameters=parameters)
    assert AlertRoute(match={"a": "b"}, parameters={"options": {"dry_run": True}, "n": 1})


storms = st.builds(
    Storm,
    per_service=st.integers(1, 4),
    total=st.integers(1, 6),
    window_s=st.integers(1, 50),
)
arrivals = st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["a", "b", "c"])), max_size=60)


def play(storm, gaps):
    """Alerts at growing times; what was started, and what was dropped."""
    history, dropped, now = [], [], 1000.0
    for gap, service in gaps:
        now += gap
        if words := admits(history, now, storm, service):
            dropped.append((now, service, words))
        else:
            history.append(Start(service=service, at=now))
    return history, dropped


@given(storms, arrivals)
def test_never_more_than_the_bounds_in_any_window(storm, gaps):
    history, _ = play(storm, gaps)
    for last in history:
        window = [s for s in history if last.at - storm.window_s < s.at <= last.at]
        assert len(window) <= storm.total
        assert sum(s.service == last.service for s in window) <= storm.per_service


@given(storms, arrivals)
def test_nothing_is_dropped_under_the_bounds(storm, gaps):
    history, dropped = play(storm, gaps)
    for at, service, words in dropped:
        window = [s for s in history if at - storm.window_s < s.at <= at]
        mine = sum(s.service == service for s in window)
        assert mine >= storm.per_service or len(window) >= storm.total
        assert service in words or "platform" in words


def test_clock_that_was_set_back_opens_no_window():
    storm = Storm(per_service=1, total=1, window_s=60)
    assert admits([Start(service="a", at=5000.0)], 1000.0, storm, "b")


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|a)*b",
        "(a|ab)*c",
        ".*.*.*.*x",
        "a?" * 30 + "a" * 30,
        "(a?){30}a{30}",
        "(?:a|a)" * 30 + "b",
        "(?=.*.*.*.*)x",
        "(?>a+)+b",
        "(?:(?:a{0,9}){0,9}){0,9}b",
        "a" * 501,
    ],
)
def test_regular_expression_that_could_take_for_ever_is_refused(pattern):
    with pytest.raises(ValidationError, match="too many ways|more than 500"):
        AlertRoute(match={"alertname": f"~{pattern}"})


@pytest.mark.parametrize(
    "pattern",
    [
        "Vllm(Down|Slow|Frozen)",
        ".*",
        ".*a.*b.*",
        "(Foo|Bar)?.*",
        "(?i)vllm.*",
        "[a-z-]+",
        r"(\w+)-\1",
    ],
)
def test_regular_expression_as_people_write_them_is_taken(pattern):
    assert AlertRoute(match={"alertname": f"~{pattern}"}).match


fragments = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "ab", ""]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{0,3}", "{2}", "*?"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        ),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
    ),
    max_leaves=8,
)


@given(fragments, fragments)
def test_the_bound_only_grows_with_the_pattern(one, two):
    assert tries(one + two) == pytest.approx(tries(one) + tries(two))
    assert tries(f"(?:{one})*") >= tries(one)


def test_only_the_first_characters_of_a_value_are_matched():
    one = AlertRoute(match={"alertname": "~a*"})
    assert matches(one, {"alertname": "a" * 256 + "b"})
    assert not matches(one, {"alertname": "a" * 255 + "b"})
