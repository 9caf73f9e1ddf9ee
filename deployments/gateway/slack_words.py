"""Texts of the Slack door: escaped, bounded, and in one place. Pure."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from blocks.errors import Permanent
from blocks.people import EVERYONE, PeopleSpec, Role
from blocks.slack_blocks import escape
from flows.decisions.access import allowed

TYPED = 300
"""Characters of what somebody typed that are ever repeated."""

HELP = """\
*`/runbook`* what can be done now
*`/runbook status [SERVICE]`* looks at the services now
*`/runbook run PROCEDURE [SERVICE] [key=value ...]`* asks for what is missing, then starts it; \
`/runbook PROCEDURE` is short for it, `dry_run=true` only plans
*`/runbook why RUN`* what a run saw, did and why (the first 8 digits are enough)
*`/runbook approve RUN [PLAN]`*, *`reject RUN`* answer a plan that waits
*`/runbook freeze 2h REASON`*, *`unfreeze`* no change in that time
*`/runbook ack INCIDENT`* you have it: nobody else is woken
*`/runbook close INCIDENT`* it is over, whatever its alert says
*`stack=NAME`* among the words, where several platforms share this app"""

MISSING: dict[Role, str] = {
    "viewer": "look",
    "operator": "start, freeze, acknowledge or close anything, or read a log",
    "approver": "approve or reject a plan",
}


class Told(Permanent):
    """An error whose text is Slack's markup already; any other error's is escaped first."""


def quoted(text: str, limit: int = TYPED) -> str:
    """What somebody typed, as code: one line, bounded, unable to leave its quotes."""
    line = " ".join(text.split()).replace("`", "'")
    cut = line if len(line) <= limit else line[: limit - 1] + "…"
    return f"`{escape(cut) or ' '}`"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or what there is. `known` are names of ours, safe in any text."""
    names = list(known)
    near = get_close_matches(word.lower()[:80], names, n=2, cutoff=0.55)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is: {', '.join(names[:30]) or 'nothing'}"


def no_role(people: PeopleSpec, role: Role, procedure: str, who: str, user: str) -> str:
    """What is told to somebody whose role is missing, and how it is given."""
    named = [n for n in allowed(people, role, procedure) if n != EVERYONE]
    key = f"people.procedures.{procedure}" if procedure in people.procedures else "people.roles"
    what = f" for {quoted(procedure)}" if procedure else ""
    holders = ", ".join(quoted(n, 60) for n in dict.fromkeys(named[:10]))
    lines = [f"You may not {MISSING[role]}{what} here: it needs the role *{role}*."]
    lines.append(f"These have it: {holders}." if named else "The inventory gives it to nobody.")
    name = who if not who.startswith("slack:") else "NAME"
    member = "" if name != "NAME" else f"`people.members.NAME.slack: {escape(user)}` and "
    lines.append(
        f"To grant it, put {member}{quoted(name, 60)} under `{escape(key)}.{role}` of the stack's "
        "inventory, then `runbooks apply STACK.yaml`."
    )
    return "\n".join(lines)


def no_channel(channels: Iterable[str]) -> str:
    """What is told where commands are not taken."""
    named = ", ".join(f"<#{c}>" for c in channels if re.fullmatch(r"[A-Z0-9]{2,30}", c))
    return "Commands are not taken in this channel" + (f"; use {named}." if named else ".")
