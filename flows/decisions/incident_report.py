"""The draft of an incident report, from facts alone. Pure.

Handbook 001 P0: "Write incident report (within 24 hours)"; 002 "Resolution and Post-Mortem":
root cause, timeline, actions, preventive measures. What is not known is said to be unknown.
"""

import re
from datetime import datetime

from blocks.incidents import Incident, Telling
from blocks.models import Frozen
from flows.decisions.checklist import Box
from flows.decisions.words import span

UNKNOWN = "_unknown_"
LONGEST_CELL = 300
EVIDENCE_LINES = 12


class Action(Frozen):
    """One procedure that was run for the incident."""

    procedure: str
    service: str
    run_id: str
    at: datetime
    ended_at: datetime | None = None
    verdict: str = ""
    """Empty: it left no record."""
    message: str = ""
    by: str = ""
    approver: str = ""
    changes: tuple[tuple[str, str, str], ...] = ()
    """Field, before, after: of what was kept."""
    kept: int = 0
    """Changes that were verified and stayed."""
    undone: int = 0
    """Changes that did not help and were taken back."""
    cause: str = ""
    """Label of the diagnosis, with its meaning."""
    evidence: tuple[str, ...] = ()
    next_step: str = ""


class Facts(Frozen):
    """Everything that is known of one incident."""

    incident: Incident
    told: tuple[Telling, ...] = ()
    actions: tuple[Action, ...] = ()
    checklist: tuple[Box, ...] = ()
    gaps: tuple[str, ...] = ()
    """What could not be read or done, in words."""
    drafted_at: datetime


def draft(facts: Facts) -> str:
    """The report as markdown; the same facts make the same text."""
    opened = facts.incident.opened
    parts = [
        f"# Incident report (draft): {_cell(opened.title)}",
        _summary(facts),
        f"## Impact\n\n{_impact(facts)}",
        f"## Timeline (UTC)\n\n{_timeline(facts)}",
        f"## Actions\n\n{_actions(facts)}",
        f"## Cause\n\n{_cause(facts)}",
        f"## Evidence\n\n{_evidence(facts)}",
        f"## What is not known\n\n{_bullets(_not_known(facts))}",
        f"## Follow-ups\n\n{_bullets(_follow_ups(facts), box=True)}",
    ]
    if facts.checklist:
        # The first three characters are the box itself.
        lines = "\n".join(f"- {b.line[:3]} {_text(b.line[3:])}" for b in facts.checklist)
        parts.append(f"## Checklist\n\n{lines}")
    parts.append(f"_Drafted from the record {_when(facts.drafted_at)}; a person completes it._")
    return "\n\n".join(parts) + "\n"


def _summary(facts: Facts) -> str:
    opened, ack, end = facts.incident.opened, facts.incident.acknowledged, facts.incident.ended
    alert = opened.alert.get("name", "")
    rows = {
        "Incident": f"`{opened.id}`",
        "Severity": opened.severity,
        "Affected": f"{opened.stack}/{opened.service}",
        "Began": f"{_when(opened.at)}, from {opened.source}" + (f" ({alert})" if alert else ""),
        "Acknowledged": f"by {ack.by} after {_between(opened.at, ack.at)}" if ack else "by nobody",
        "Ended": f"{end.how} by {end.by}, {_when(end.at)}" if end else "not over at the time",
        "Lasted": _between(opened.at, end.at) if end else UNKNOWN,
    }
    table = "\n".join(f"| {k} | {_cell(v)} |" for k, v in rows.items())
    return f"## Summary\n\n| | |\n|---|---|\n{table}"


def _impact(facts: Facts) -> str:
    opened, end = facts.incident.opened, facts.incident.ended
    lasted = f"for {_between(opened.at, end.at)}" if end else "until after this draft"
    said = opened.alert.get("summary", "")
    words = f"{opened.stack}/{opened.service} was affected {lasted}: {_text(opened.title)}."
    words += f" The alert said: {_text(said)}." if said else ""
    return f"{words}\n\nUsers and requests affected: {UNKNOWN}; a person fills this in."


def _timeline(facts: Facts) -> str:
    incident = facts.incident
    opened, ack, end = incident.opened, incident.acknowledged, incident.ended
    moments = [(opened.at, f"opened as {opened.severity}, from {opened.source}: {opened.title}")]
    for one in facts.told:
        told, what = one.told, f"{one.told.person} ({one.told.role}) told by {one.told.way}"
        if one.heard is None:
            what += ": whether it went out is not known"
        elif not one.heard.sent:
            what += f": FAILED, {one.heard.problem or 'no reason was kept'}"
        moments.append((told.at, what))
    for action in facts.actions:
        who = f", by {action.by}" if action.by else ""
        moments.append((action.at, f"{action.procedure} on {action.service} began{who}"))
        if action.ended_at:
            became = action.verdict or "no record of its verdict"
            moments.append((action.ended_at, f"{action.procedure}: {became}. {action.message}"))
    if ack:
        moments.append((ack.at, f"acknowledged by {ack.by}, from {ack.source}"))
    if end:
        moments.append((end.at, f"{end.how} by {end.by}"))
    # Sorting by the time alone keeps what happened at one instant in the order of its telling.
    rows = [f"| {_clock(at)} | {_cell(what)} |" for at, what in sorted(moments, key=_first)]
    return "\n".join(["| when | what |", "|---|---|", *rows])


def _first(moment: tuple[datetime, str]) -> datetime:
    return moment[0]


def _actions(facts: Facts) -> str:
    if not facts.actions:
        return "No procedure was run for this incident. What was done by hand: " + UNKNOWN + "."
    parts = []
    for action in facts.actions:
        head = f"**{action.procedure}** on {action.service} (run `{action.run_id[:8]}`): "
        head += f"{action.verdict or 'no record'}. {_text(action.message)}"
        approved = f" Approved by {_text(action.approver)}." if action.approver else ""
        undone = f" Taken back because it did not help: {action.undone}." if action.undone else ""
        parts.append(f"{head.rstrip()}{approved}{undone}")
        if action.changes:
            rows = [f"| {' | '.join(map(_cell, change))} |" for change in action.changes]
            parts.append("\n".join(["| field | before | after |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _cause(facts: Facts) -> str:
    found = list(dict.fromkeys(a.cause for a in facts.actions if a.cause))
    if not found:
        return f"{UNKNOWN}: no diagnosis is on record."
    return _bullets(found) + "\n\nWhat led to it in turn: " + UNKNOWN + "."


def _evidence(facts: Facts) -> str:
    lines = list(dict.fromkeys(e for a in facts.actions for e in a.evidence))
    if not lines:
        return "None on record."
    quoted = [line[:LONGEST_CELL].replace("```", "'''") for line in lines[:EVIDENCE_LINES]]
    more = len(lines) - len(quoted)
    return "```text\n" + "\n".join(quoted) + "\n```" + (f"\n\n… and {more} more." if more else "")


def _not_known(facts: Facts) -> list[str]:
    incident = facts.incident
    unsure = [t for t in facts.told if t.heard is None]
    checks = [
        (True, "how many users and requests were affected"),
        (not any(a.cause for a in facts.actions), "the cause"),
        (incident.acknowledged is None, "whether anybody worked on it: nobody acknowledged"),
        (incident.ended is None, "when it ended"),
        (not facts.actions, "what was done by hand, and what helped"),
    ]
    gaps = [words for missing, words in checks if missing]
    gaps += [f"whether {t.told.person} was reached by {t.told.way}" for t in unsure]
    silent = [a for a in facts.actions if not a.verdict]
    gaps += [f"what {a.procedure} (run {a.run_id[:8]}) came to: it left no record" for a in silent]
    return [*gaps, *facts.gaps]


def _follow_ups(facts: Facts) -> list[str]:
    ups = [f"{a.procedure}: {a.next_step}" for a in facts.actions if a.next_step]
    ups += [
        f"{t.told.way} did not reach {t.told.person}: {t.heard.problem}"
        for t in facts.told
        if t.heard and not t.heard.sent
    ]
    if facts.incident.acknowledged is None:
        ups.append("find out why nobody acknowledged")
    return [*dict.fromkeys(ups), "complete and review this report; agree on preventive measures"]


def _bullets(lines: list[str], *, box: bool = False) -> str:
    return "\n".join(f"- {'[ ] ' if box else ''}{_text(line)}" for line in lines)


def harmless(value: str) -> str:
    """One line of text that mentions nobody, links nowhere and shows no image in markdown.

    Mattermost reads Slack's `<!channel>` and `<URL|words>` as well.
    """
    line = re.sub(r"([\\\[\]!])", r"\\\1", " ".join(value.split())[:1000])
    return line.replace("@", "@\u200b").replace("<", "<\u200b")


def harmless_url(value: str) -> str:
    """A link as it is; empty where it is none. What could end it, or begin another, is encoded."""
    if not re.fullmatch(r"https?://[^\s<>]{1,1000}", value):
        return ""
    return re.sub(r"[\[\]()!@|`\\*]", lambda found: f"%{ord(found[0]):02X}", value)


def _text(value: str) -> str:
    """One line that starts no heading, no table and no mark-up of its own."""
    return harmless(value).replace("<\u200b", "&lt;")


def _cell(value: str) -> str:
    return _text(value).replace("|", "\\|")


def _between(since: datetime, until: datetime) -> str:
    return span((until - since).total_seconds())


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
