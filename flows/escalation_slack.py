"""The escalation in Slack: one checklist that is updated in place, and a call to each person."""

import json
import time
from datetime import UTC, datetime

from prefect import runtime

from blocks.errors import Permanent
from blocks.people import Member
from blocks.slack_blocks import (
    Block,
    Mrkdwn,
    actions,
    button,
    context,
    fields,
    header,
    join,
    mention,
    message,
    section,
)
from blocks.slack_card import CardRef, show, thread
from blocks.slack_workspace import SlackSpec
from flows.decisions.escalation import Step
from flows.decisions.words import span
from flows.escalation_state import Escalation
from flows.report import Report

PAUSE_S = 30.0
"""After Slack failed: the path must not wait for it at every poll."""
_MARK = {"passed": "✅", "failed": "🔴", "error": "🔴"}


async def show_checklist(run: Escalation, report: Report | None = None) -> None:
    """Create or update the message, where there is something new. Raises as `slack_card.show`."""
    if run.spec.slack is None or (time.monotonic() < run.slack_after and report is None):
        return
    blocks, text = checklist(run, report)
    now = json.dumps(blocks)
    if now == run.posted:
        return
    run.slack_after = time.monotonic() + PAUSE_S
    await _show(run, run.spec.slack, blocks, text)
    run.posted, run.slack_after = now, 0


async def call(run: Escalation, step: Step) -> None:
    """Call one person in the checklist's thread, by a mention where their Slack id is known.

    Raises:
        Permanent: the stack has no Slack, or it refuses. Transient: it does not answer.
    """
    if run.spec.slack is None:
        raise Permanent("the stack has no section slack any more")
    member = run.spec.people.members.get(step.person, Member())
    who = join(mention(member.slack), f" ({step.person})") if member.slack else step.person
    minutes = run.row.respond_min
    answer = "on the next business day" if minutes is None else f"within {span(60 * minutes)}"
    words = join(
        who,
        f": *{run.severity}* {run.spec.name}/{run.service}, you are *{step.role}*. "
        f"{run.opened.title}\nAcknowledge {answer}: the button above, "
        f"or `/runbook ack {run.opened.id}`.",
    )
    ref = await _show(run, run.spec.slack, *checklist(run))
    title = f"{step.person}: {run.severity} {run.opened.title}"
    await thread(run.spec.slack, ref, message([section(words)]), title)


async def shout(run: Escalation, report: Report) -> None:
    """Nobody answered: everybody in the channel is told, once."""
    if run.spec.slack is None:
        return
    ref = await _show(run, run.spec.slack, *checklist(run, report))
    words = join(Mrkdwn("<!channel> "), f"*{report.message}*\n{report.next_step}")
    await thread(run.spec.slack, ref, message([section(words)]), report.headline)


def checklist(run: Escalation, report: Report | None = None) -> tuple[list[Block], str]:
    """The message: what is wrong, who has it, the boxes, and who is told next."""
    opened, ack = run.opened, run.incident.acknowledged
    url = str(runtime.flow_run.ui_url or "")
    title = f"{run.severity} incident: {opened.stack}/{run.service}"
    told = [t.told for t in run.told.values() if t.heard and t.heard.sent]
    boxes = "\n".join(b.line.replace("[x]", "☑").replace("[ ]", "☐") for b in run.checklist)
    blocks = [
        header(title),
        section(join(f"*{opened.title}*", f"\n{run.row.meaning}" if run.row.meaning else "")),
        fields(
            [
                ("Opened", f"{opened.at:%Y-%m-%d %H:%M} UTC, from {opened.source}"),
                ("Told", ", ".join(dict.fromkeys(f"{t.person} ({t.role})" for t in told)) or "-"),
                ("Acknowledged", f"{ack.by}, {ack.at:%H:%M} UTC" if ack else "nobody yet"),
                ("Incident", f"`{opened.id}`"),
            ]
        ),
        section(boxes),
        context(_status(run, report)),
    ]
    value = {"incident": opened.id, "stack": opened.stack, "service": run.service}
    buttons = [button("Open in Prefect", "open", "", url=url)] if url else []
    if not (ack or run.incident.ended):
        have = button("I have it", "ack", json.dumps(value | {"run": run.run_id}), style="primary")
        buttons.insert(0, have)
    whole = [*blocks, *([actions(buttons)] if buttons else [])]
    return message(whole, url), f"{title}: {opened.title}"


def _status(run: Escalation, report: Report | None) -> str:
    if report:
        return f"{_MARK.get(report.verdict, '⚠️')} {report.message}"
    if run.incident.ended or run.incident.acknowledged:
        return "Nobody else is told."
    steps = [s for s in run.planned.steps if s.number not in run.done and s.at > datetime.now(UTC)]
    if steps:
        who = f"{steps[0].person or 'nobody'} ({steps[0].role})"
        return f"Next, unless acknowledged: {who} at {steps[0].at:%a %H:%M} UTC"
    return f"The last of the path; to be answered by {run.planned.exhausted_at:%a %H:%M} UTC"


async def _show(run: Escalation, slack: SlackSpec, blocks: list[Block], text: str) -> CardRef:
    key = f"{run.opened.id}-checklist"
    return await show(slack, key, blocks, text, channel=run.matrix.channel or None)
