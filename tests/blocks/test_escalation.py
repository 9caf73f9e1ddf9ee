"""The escalation of an inventory: both handbooks' matrices, and faults that name their remedy."""

from pathlib import Path
from typing import Any

import pytest

from blocks.errors import Permanent
from blocks.stack import StackSpec, parse_stack, read_stack_file

ROOT = Path(__file__).resolve().parents[2]
BASE = """\
name: p
services:
  a:
    url: http://h:8000
    runtime: {kind: docker, container: c}
slack: {token: "${SLACK}", channel: "#ops"}
people:
  members: {ada: {slack: U1}, bob: {email: bob@example.net}}
escalation:
  rotations: {primary: {people: [ada, bob], starts: 2026-11-02}}
  contacts: {manager: bob}
  notify: {mattermost: "${MM}"}
"""
ROW = "  severities: {P0: {path: [primary, manager], via: [slack, mattermost], respond_min: 15}}\n"


def refused(text: str) -> str:
    with pytest.raises(Permanent) as e:
        parse_stack(text, "s.yaml")
    return str(e.value)


def test_a_whole_section_is_read() -> None:
    spec = parse_stack(BASE + ROW, "s.yaml").escalation
    assert spec
    assert spec.severities["P0"].path == ("primary", "manager")
    assert spec.rotations["primary"].at == "09:00" and spec.rotations["primary"].days == 7
    assert spec.business_hours.start == "09:00"


FAULTS = {
    "no role": (
        ROW.replace("manager]", "cto]"),
        "s.yaml:13: escalation.severities.P0.path.1: 'cto' is no role here",
        "(known: manager, primary)",
    ),
    "no way": (
        ROW.replace("[slack, mattermost]", "[slack, smoke]"),
        "escalation.severities.P0.via.1: 'smoke' is no way to reach people",
        "(known: mattermost, slack)",
    ),
    "no pagerduty": (
        ROW.replace("[slack,", "[pagerduty,"),
        "pagerduty needs a section escalation.pagerduty",
        "routing_key",
    ),
    "neither time": (
        ROW.replace(", respond_min: 15", ""),
        "escalation.severities.P0: needs one of respond_min",
        "next_business_day: true",
    ),
    "both times": (
        ROW.replace("respond_min: 15", "respond_min: 15, next_business_day: true"),
        "needs one of respond_min",
        "not both",
    ),
    "a role twice": (ROW.replace("manager]", "primary]"), "path names one twice", "remove it"),
    "P5": (ROW.replace("P0", "P5"), "escalation.severities.P5", "'P0', 'P1', 'P2' or 'P3'"),
    "P3 pages": (
        ROW.replace("P0", "P3").replace("[slack,", "[pagerduty,")
        + '  pagerduty: {routing_key: "${PD}"}\n',
        "escalation.severities.P3.via: nobody is paged for P3",
        "remove pagerduty",
    ),
    "a page on the next day": (
        ROW.replace("respond_min: 15", "next_business_day: true").replace("[slack,", "[pagerduty,")
        + '  pagerduty: {routing_key: "${PD}"}\n',
        "nobody is paged for the next business day",
        "remove pagerduty",
    ),
    "a pager of no role": (
        ROW + '  pagerduty: {routing_key: "${PD}", by_role: {boss: "${PD}"}}\n',
        "escalation.pagerduty.by_role.boss: 'boss' is no role here",
        "manager",
    ),
    "a key itself": (
        ROW + "  pagerduty: {routing_key: 0123456789abcdef0123456789abcdef}\n",
        "escalation.pagerduty.routing_key: must be a reference",
        "${ENV_NAME}",
    ),
    "hours turned round": (
        ROW + '  business_hours: {start: "17:00", end: "09:00"}\n',
        "escalation.business_hours: end '09:00' is not after start '17:00'",
        "",
    ),
    "hours without quotes": (
        ROW + "  business_hours: {start: 9}\n",
        "escalation.business_hours.start",
        "",
    ),
    "answered in hours": (
        ROW.replace("respond_min: 15", "respond_min: 15min"),
        "escalation.severities.P0.respond_min",
        "number",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_its_place_and_its_remedy(case: str) -> None:
    text, place, remedy = FAULTS[case]
    said = refused(BASE + text)
    assert place in said and remedy in said
    assert "0123456789abcdef" not in said


IN_BASE = {
    "no such member in a rotation": (
        ("[ada, bob]", "[ada, eve]"),
        "escalation.rotations.primary.people.1: 'eve' is not under people.members",
        "(known: ada, bob)",
    ),
    "no such contact": (
        ("{manager: bob}", "{manager: eve}"),
        "escalation.contacts.manager: 'eve' is not under people.members",
        "(known: ada, bob)",
    ),
    "a role twice": (
        ("{manager: bob}", "{manager: bob, primary: ada}"),
        "escalation.contacts.primary: is under rotations too",
        "keep one",
    ),
    "another weekday": (
        ("2026-11-02", "2026-11-03"),
        "starts 2026-11-03 is a tue, and weekday is mon",
        "change one",
    ),
    "no Slack": (
        ('slack: {token: "${SLACK}", channel: "#ops"}\n', ""),
        "escalation.severities.P0.via.0: slack needs the stack's section slack",
        "(known: mattermost)",
    ),
    "a way's own name": (
        ("mattermost:", "pagerduty:"),
        "escalation.notify: 'pagerduty' is a way of its own",
        "another name",
    ),
    "a URL itself": (
        ("${MM}", "mmost://h/0123456789abcdef"),
        "escalation.notify.mattermost: must be a reference",
        "${ENV_NAME}",
    ),
    "not a time": (("starts: 2026-11-02", "starts: 2026-11-02, at: 9am"), "primary.at", ""),
}


@pytest.mark.parametrize("case", IN_BASE)
def test_people_and_ways_are_checked_against_the_rest(case: str) -> None:
    (old, new), place, remedy = IN_BASE[case]
    assert old in BASE
    said = refused(BASE.replace(old, new) + ROW)
    assert place in said and remedy in said
    assert "0123456789abcdef" not in said


def matrix(path: str) -> dict[str, Any]:
    spec = read_stack_file(ROOT / path)
    assert isinstance(spec, StackSpec) and spec.escalation
    return dict(spec.escalation.severities)


def test_the_matrix_of_handbook_001_is_shipped() -> None:
    rows = matrix("docs/examples/escalation-path.yaml")
    assert [(n, r.respond_min, len(r.path), r.watch_min) for n, r in rows.items()] == [
        ("P0", 15, 4, 30),
        ("P1", 30, 3, 15),
        ("P2", 120, 2, 0),
        ("P3", None, 1, 0),
    ]
    assert rows["P0"].path == ("primary", "secondary", "manager", "cto")
    assert rows["P3"].next_business_day and "pagerduty" not in rows["P3"].via
    assert [i.text for i in rows["P0"].checklist][3] == "Implement fix or rollback"
    assert len(rows["P1"].checklist) == 6


def test_the_matrix_of_handbook_002_is_shipped() -> None:
    rows = matrix("deployments/stacks/vllm-single.yaml")
    assert [(n, r.respond_min, r.when, r.via) for n, r in rows.items()] == [
        ("P0", 15, "always", ("pagerduty", "slack")),
        ("P1", 60, "business-hours", ("pagerduty", "slack")),
        ("P2", 240, "always", ("email",)),
        ("P3", None, "always", ("ticket",)),
    ]
