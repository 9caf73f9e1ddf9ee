"""Who may do what, and whose word approves a plan."""

from typing import Any

import pytest
from pydantic import ValidationError

from blocks.people import ApprovalSpec, PeopleSpec
from flows.decisions.access import Who, allowed, may, member, no_approval, restricted

PEOPLE = PeopleSpec.model_validate(
    {
        "members": {"ada": {"slack": "U1", "shell": ["al"]}, "bob": {"slack": "U2"}, "eve": {}},
        "groups": {"leads": "S1", "oncall": "S2"},
        "roles": {"operator": ["oncall"], "approver": ["ada"]},
        "procedures": {"apply-serving": {"operator": ["bob"]}, "remediate-oom": {"approver": []}},
    }
)
NOBODY = PeopleSpec()


def test_who_a_slack_user_is() -> None:
    assert member(PEOPLE, "U1", ("S2",)) == Who(name="ada", slack="U1", groups=("S2",))
    assert member(PEOPLE, "U9").name == "slack:U9"


@pytest.mark.parametrize(
    ("role", "who", "procedure", "yes"),
    [
        ("viewer", Who(name="slack:U9"), "", True),
        ("operator", Who(name="slack:U9"), "", False),
        ("operator", Who(name="slack:U9", groups=("S2",)), "", True),
        ("operator", Who(name="oncall"), "", True),  # a name cannot be given to both: see below
        ("operator", Who(name="ada"), "", True),  # an approver may operate
        ("approver", Who(name="slack:U9", groups=("S2",)), "", False),
        ("operator", Who(name="bob"), "apply-serving", True),
        ("operator", Who(name="x", groups=("S2",)), "apply-serving", False),
        ("approver", Who(name="ada"), "apply-serving", True),  # left out: as in general
        ("approver", Who(name="ada"), "remediate-oom", False),  # none at all
    ],
)
def test_roles(role: Any, who: Who, procedure: str, yes: bool) -> None:
    assert may(PEOPLE, role, who, procedure) is yes


def test_where_nobody_is_named_nobody_operates_and_everybody_looks() -> None:
    assert allowed(NOBODY, "viewer") == ("*",)
    assert not may(NOBODY, "operator", Who(name="ada"))
    assert not restricted(NOBODY, "approver")


def word(
    by: str, source: str = "cli", *, asked: str = "bob", eyes: bool = False, **more: Any
) -> str:
    people = more.get("people", PEOPLE)
    rule = ApprovalSpec(four_eyes=eyes)
    procedure = more.get("procedure", "restore-context")
    return no_approval(people, rule, procedure, by=by, source=source, asked_by=asked)


def test_whose_word_counts() -> None:
    assert word("ada@desk") == "" and word("al@desk") == ""
    assert "bob is no approver" in word("bob", "slack")
    assert "no name" in word("", "ui")
    assert word("anybody", people=NOBODY) == "" and word("", people=NOBODY) == ""
    assert word("slack:U9", "slack", people=_with_group()) == ""  # the gateway knows the groups
    assert "no approver" in word("slack:U9", "cli", people=_with_group())
    assert "no name" in word("", "slack", people=_with_group())


def _with_group() -> PeopleSpec:
    return PeopleSpec.model_validate({"groups": {"g": "S1"}, "roles": {"approver": ["g"]}})


def test_four_eyes_are_two_people() -> None:
    assert "who asked" in word("ada", eyes=True, asked="al@desk")
    assert "who asked" in word("ada", "slack", eyes=True, asked="ada")
    assert word("ada", eyes=True, asked="alertmanager") == ""
    assert "nobody knows who asked" in word("ada", eyes=True, asked="unknown")
    assert "nobody knows who asked" in word("ada", eyes=True, asked="")
    assert "has no name" in word("", "ui", eyes=True, people=NOBODY)


@pytest.mark.parametrize(
    ("people", "words"),
    [
        ({"roles": {"approver": ["eve"]}}, "'eve' is neither under members"),
        ({"procedures": {"x": {"operator": ["g"]}}}, "procedures.x.operator"),
        ({"members": {"a": {}}, "groups": {"a": "S1"}}, "a member and a group"),
    ],
)
def test_a_name_that_means_nobody_or_two_is_refused(people: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PeopleSpec.model_validate(people)
