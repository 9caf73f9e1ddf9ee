"""Who may do what. Pure: the people of the inventory, and who asks, are arguments."""

from blocks.models import Frozen
from blocks.people import EVERYONE, ApprovalSpec, PeopleSpec, Role


class Who(Frozen):
    """Somebody, as far as they can be known."""

    name: str
    """A member's name, or what else is known: `slack:U123`, the name of a shell's user."""
    slack: str = ""
    """Slack user id; empty from elsewhere."""
    groups: tuple[str, ...] = ()
    """Slack user group ids."""


def member(people: PeopleSpec, slack: str, groups: tuple[str, ...] = ()) -> Who:
    """Who a Slack user is."""
    names = (name for name, m in people.members.items() if m.slack and m.slack == slack)
    return Who(name=next(names, f"slack:{slack}"), slack=slack, groups=groups)


INCLUDES: dict[Role, tuple[Role, ...]] = {
    "viewer": ("viewer", "operator", "approver"),
    "operator": ("operator", "approver"),
    "approver": ("approver",),
}
"""A role -> the roles that have it."""


def allowed(people: PeopleSpec, role: Role, procedure: str = "") -> tuple[str, ...]:
    """Names of members and groups, or *, that have the role for a procedure."""
    own = people.procedures.get(procedure)

    def named(one: Role) -> tuple[str, ...]:
        given: tuple[str, ...] | None = getattr(own, one) if own else None
        general: tuple[str, ...] = getattr(people.roles, one)
        return general if given is None else given

    return tuple(name for one in INCLUDES[role] for name in named(one))


def may(people: PeopleSpec, role: Role, who: Who, procedure: str = "") -> bool:
    """Whether somebody has the role; a group counts by its Slack id."""
    groups = {name for name, group in people.groups.items() if group in who.groups}
    mine = {EVERYONE, who.name, *groups}
    return not mine.isdisjoint(allowed(people, role, procedure))


def restricted(people: PeopleSpec, role: Role, procedure: str = "") -> bool:
    """Whether the inventory names anybody for the role: where it does not, a shell is enough."""
    return bool(allowed(people, role, procedure))


def no_approval(
    people: PeopleSpec,
    rule: ApprovalSpec,
    procedure: str,
    *,
    by: str,
    source: str,
    asked_by: str,
) -> str:
    """Why somebody's word does not approve a plan; empty when it does.

    A name from a shell or a form is what they say of themselves, and so is the `source`: whoever
    reaches the Prefect API is trusted. Of a Slack user the gateway has checked name and groups.

    Args:
        people: of the stack.
        rule: of the stack.
        procedure: of the plan.
        by: who approves; `USER@HOST` from a shell.
        source: from where: slack, cli, ui, ...
        asked_by: who asked for the run.
    """
    name, asker = (_person(people, who) for who in (by, asked_by))
    if rule.four_eyes and not name:
        return "it has no name, and four eyes are needed"
    if rule.four_eyes and asker in ("", "unknown"):
        return "four eyes are needed, and nobody knows who asked for the run"
    if rule.four_eyes and name == asker:
        return "who asked for the run may not approve it (four_eyes)"
    if not restricted(people, "approver", procedure):
        return ""
    if not name:
        return "it has no name, and only approvers of the inventory may approve"
    if may(people, "approver", Who(name=name), procedure):
        return ""
    # Of a Slack user the gateway knows the groups; nobody else does.
    if source == "slack" and set(people.groups) & set(allowed(people, "approver", procedure)):
        return ""
    return f"{name} is no approver of {procedure}"


def _person(people: PeopleSpec, actor: str) -> str:
    """The member behind a name; `USER@HOST` of a shell is its user."""
    name = actor.strip().partition("@")[0]
    return next((m for m, one in people.members.items() if name in one.shell), name)
