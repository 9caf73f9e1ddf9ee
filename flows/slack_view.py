"""The card of an incident in Slack: what an SRE reads on a phone, and the buttons below it."""

import json
import textwrap
from typing import Any

from blocks.models import Frozen
from blocks.slack_blocks import (
    Block,
    Mrkdwn,
    actions,
    button,
    code,
    confirmation,
    context,
    header,
    join,
    message,
    section,
)
from flows.decisions.plan import Plan, shown
from flows.report import Report

_MARK = {
    "passed": "✅",
    "planned": "📝",
    "failed": "❌",
    "error": "💥",
    "blocked": "⚠️",
    "inconclusive": "⚠️",
}
LINES, WIDTH = 4, 160
"""Lines of evidence, and characters of each."""


class CardView(Frozen):
    """What is known of one incident (or run) now. Empty: not known, and not shown."""

    key: str
    """Of blocks.slack_card.show: the incident's id, or the run's without one."""
    stack: str
    service: str
    title: str
    """What is wrong, in one line."""
    severity: str = ""
    """P0..P3."""
    status: str = ""
    """What is being done about it, or was done; one sentence."""
    verdict: str = ""
    """Of the run, once it has ended."""
    procedure: str = ""
    diagnosis: str = ""
    """Its label."""
    evidence: tuple[str, ...] = ()
    plan: Plan | None = None
    awaiting: bool = False
    """The plan waits for somebody: Approve and Reject are shown."""
    digest: str = ""
    """Default: the plan's."""
    expires: str = ""
    """Until when it waits, as people read it."""
    incident: str = ""
    open: bool = False
    """The incident has not ended."""
    acknowledged_by: str = ""
    run_id: str = ""
    run_url: str = ""
    """Of the run in the Prefect UI."""
    asked_by: str = ""
    approver: str = ""
    notes: tuple[str, ...] = ()
    next_step: str = ""


def card(view: CardView) -> tuple[list[Block], str]:
    """Blocks and the words of the notification, within Slack's limits."""
    sign = _MARK.get(view.verdict, "✋" if view.awaiting else "🔴" if view.open else "🔧")
    head = " ".join(filter(None, (sign, view.severity, f"{view.service}: {view.title}")))
    blocks = [header(head), *_found(view), *_plan(view)]
    if rows := _buttons(view):
        blocks.append(actions(rows))
    blocks += _after(view)
    text = f"{head}. {_line(view)}" if _line(view) else head
    return message(blocks, view.run_url), text


def view_of(report: Report, **more: Any) -> CardView:
    """The card of a run that has ended; `more` are further fields (open, run_url, severity…)."""
    found = report.diagnosis
    values: dict[str, Any] = {
        "key": report.incident or report.run_id,
        "stack": report.stack,
        "service": report.service,
        "title": report.message,
        "verdict": report.verdict,
        "procedure": report.procedure,
        "status": report.message,
        "diagnosis": found.label if found else "",
        "evidence": found.evidence if found else (),
        "plan": report.attempts[-1].plan if report.attempts else report.plan,
        "incident": report.incident,
        "run_id": report.run_id,
        "asked_by": f"{report.actor}, from {report.source}" if report.actor else "",
        "approver": report.approver,
        "notes": report.notes,
        "next_step": report.next_step,
    }
    return CardView(**{**values, **more})


def table(plan: Plan) -> str:
    """Field, before and after in columns; what is done where no number changes."""
    if plan.how != "apply":
        return f"{plan.how} {plan.service}, with the numbers it has"
    rows = [("field", "before", "after")]
    rows += [(k, shown(before), shown(after)) for k, (before, after) in plan.changes.items()]
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c}".rstrip() for a, b, c in rows)


def _line(view: CardView) -> str:
    """What goes on, in one sentence."""
    if view.awaiting:
        until = f" until {view.expires}" if view.expires else ""
        return f"A plan waits for approval{until}"
    return "" if view.status == view.title else view.status


def _found(view: CardView) -> list[Block]:
    where = join(Mrkdwn("*"), f"{view.stack}/{view.service}", Mrkdwn("*"))
    verdict = Mrkdwn(f" · *{view.verdict.upper()}*") if view.verdict else Mrkdwn("")
    lines = [join(where, verdict), view.title, _line(view)]
    blocks = [section(join(*filter(None, lines), by="\n"))]
    if view.diagnosis:
        blocks.append(section(join(Mrkdwn("*Diagnosis* "), _mono(view.diagnosis))))
    if view.evidence:
        kept = [textwrap.shorten(line, WIDTH, placeholder=" …") for line in view.evidence[:LINES]]
        blocks.append(section(code("\n".join(kept))))
    return blocks


def _plan(view: CardView) -> list[Block]:
    plan = view.plan
    if plan is None:
        return []
    title = join(Mrkdwn("*Plan* "), _mono(plan.digest), f" {plan.procedure}")
    words = {
        "Warning": plan.warning,
        "Why": plan.reason,
        "Expected": plan.expected,
        "Costs": plan.costs,
        "Undo": plan.undo,
    }
    if not view.awaiting:  # it is decided: only what was changed is still news
        words = {}
    lines = [join(Mrkdwn(f"*{name}:* "), text) for name, text in words.items() if text]
    table_block = section(join(title, Mrkdwn("\n"), code(table(plan))))
    return [table_block, *([section(join(*lines, by="\n"))] if lines else [])]


def _buttons(view: CardView) -> list[Block]:
    digest = view.digest or (view.plan.digest if view.plan else "")
    ids = {
        "run": view.run_id,
        "digest": digest,
        "stack": view.stack,
        "service": view.service,
        "incident": view.incident,
    }
    value = json.dumps(ids, separators=(",", ":"))
    rows: list[Block] = []
    if view.awaiting and view.run_id and digest:
        what = f"{view.plan.procedure}: {view.plan.summary()}" if view.plan else f"plan {digest}"
        asked = confirmation(
            f"Change {view.service}?", f"{what}\non {view.stack}/{view.service}", "Approve"
        )
        rows.append(button("Approve", "approve", value, "primary", asked))
        rows.append(button("Reject", "reject", value, "danger"))
    if view.incident and view.open and not view.acknowledged_by:
        rows.append(button("Acknowledge", "ack", value))
    rows.append(button("Show log", "show-log", value))
    if view.run_url:
        rows.append(button("Open in Prefect", "open", "", url=view.run_url))
    return rows


def _after(view: CardView) -> list[Block]:
    blocks = []
    if view.next_step:
        blocks.append(section(join(Mrkdwn("*What to do now:* "), view.next_step)))
    if view.notes:
        blocks.append(context("\n".join(note[:300] for note in view.notes[:5])))
    facts = {
        "acknowledged by": view.acknowledged_by,
        "approved by": view.approver,
        "asked for by": view.asked_by,
        "incident": view.incident,
        "run": view.run_id[:8],
    }
    told = " · ".join(f"{name} {value}" for name, value in facts.items() if value)
    return [*blocks, *([context(told)] if told else [])]


def _mono(text: str) -> Mrkdwn:
    return join(Mrkdwn("`"), text.replace("`", "'"), Mrkdwn("`"))
