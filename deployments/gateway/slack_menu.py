"""What `/runbook` shows: what waits, how the services are, and what can be done now."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from blocks.errors import RunbookError
from blocks.incidents import Incident, open_incidents
from blocks.slack_blocks import (
    Block,
    Mrkdwn,
    actions,
    button,
    context,
    divider,
    escape,
    header,
    link,
    message,
    section,
)
from blocks.stack import StackSpec
from deployments.approvals import Waiting
from deployments.gateway.dispatch import prefect_errors
from deployments.gateway.slack_answers import waiting_here
from deployments.gateway.slack_call import Call
from deployments.gateway.slack_freeze import words_of
from deployments.gateway.slack_procedures import names
from deployments.gateway.slack_reading import LastCheck, last_check, run_url
from deployments.gateway.slack_words import quoted
from flows.decisions.health import Health
from flows.decisions.words import span

SHOWN, SERVICES, BUTTONS = 5, 30, 5
_MARK: dict[str | None, str] = {
    "ok": ":large_green_circle:",
    "warn": ":large_yellow_circle:",
    "fail": ":red_circle:",
    "unknown": ":white_circle:",
    None: ":white_circle:",
}
_WORD: dict[str | None, str] = {
    "ok": "ok",
    "warn": "to look at",
    "fail": "failed",
    "unknown": "unknown",
    None: "not checked",
}
_HEALTH = {"healthy": "ok", "broken": "fail", "loading": "warn", "unknown": "unknown"}
T = TypeVar("T")


async def show_menu(call: Call) -> None:
    """Answer with the menu; a part that cannot be read says so."""
    stack = call.spec.name
    incidents, waits, check = await asyncio.gather(
        _or_why(_incidents(stack)), _or_why(waiting_here(stack)), _or_why(last_check(call.spec))
    )
    blocks = [header(f"{stack}: what can be done now"), *_frozen(call.spec)]
    blocks += _incident_blocks(stack, incidents)
    blocks += _waiting_blocks(stack, waits)
    blocks += [divider(), *_service_blocks(check)]
    blocks.append(actions(_likely(stack, check)))
    blocks.append(context(Mrkdwn("`/runbook help` lists every command")))
    await call.say(f"{escape(stack)}: what can be done now", message(blocks))


async def _or_why(reading: Awaitable[T]) -> T | str:
    try:
        return await reading
    except RunbookError as e:
        return f"cannot be read: {e}"


async def _incidents(stack: str) -> list[Incident]:
    async with prefect_errors("incidents"):
        return await open_incidents(stack)


def _frozen(spec: StackSpec) -> list[Block]:
    now = datetime.now(UTC)
    on = [w for w in spec.freeze if w.covers(now)]
    return [context(f"frozen {words_of(w)}") for w in on[:3]]


def _incident_blocks(stack: str, found: list[Incident] | str) -> list[Block]:
    if isinstance(found, str):
        return [section(f"*Open incidents* {found}")]
    if not found:
        return [section("*Open incidents* none")]
    blocks = [section(f"*Open incidents* {len(found)}")]
    for incident in found[:SHOWN]:
        one, ack = incident.opened, incident.acknowledged
        who = f"{escape(ack.by)} has it" if ack else "*nobody has it*"
        age = span((datetime.now(UTC) - one.at).total_seconds())
        words = f"{one.severity} {quoted(one.service, 60)} {escape(one.title)} · {age} · {who}"
        blocks.append(section(Mrkdwn(f"{words} · `{one.id}`")))
        if not ack:
            value = json.dumps({"stack": stack, "incident": one.id, "service": one.service})
            log = button("Show log", "show-log", value)
            blocks.append(actions([button("Acknowledge", "ack", value), log]))
    return blocks


def _waiting_blocks(stack: str, found: list[Waiting] | str) -> list[Block]:
    if isinstance(found, str):
        return [section(f"*Waiting for an approval* {found}")]
    blocks = [section(f"*Waiting for an approval* {len(found) or 'none'}")]
    for one in found[:SHOWN]:
        blocks += answer_buttons(stack, one)
    return blocks


def answer_buttons(stack: str, one: Waiting) -> list[Block]:
    """A plan that waits, and the buttons that answer that very plan."""
    value = json.dumps(
        {"run": one.run_id, "digest": one.digest, "stack": stack, "service": one.service}
    )
    url = run_url(one.run_id)
    where = link(url, f"run {one.run_id[:8]}")
    words = (
        f"*{escape(one.procedure)}* of {quoted(one.service, 60)}, plan {quoted(one.digest, 20)}, "
        f"asked for by {escape(one.asked_by)}: {where}"
    )
    buttons = [
        button("Approve", "approve", value, style="primary"),
        button("Reject", "reject", value, style="danger"),
    ]
    return [section(Mrkdwn(words)), actions(buttons)]


def _service_blocks(check: LastCheck | None | str) -> list[Block]:
    if isinstance(check, str):
        return [section(f"*Services* {check}")]
    if check is None:
        return [section("*Services* never checked; start check-platform")]
    age = span((datetime.now(UTC) - check.report.started_at).total_seconds())
    lines = [f"*Services* as of the last check, {age} ago; `/runbook status` looks now"]
    listed = list(check.services.items())
    lines += [
        f"{_MARK[status]} {quoted(name, 60)} {_WORD[status]}" for name, status in listed[:SERVICES]
    ]
    if len(listed) > SERVICES:
        lines.append(f"… and {len(listed) - SERVICES} more")
    return [section(Mrkdwn("\n".join(lines)))]


def _likely(stack: str, check: LastCheck | None | str) -> list[Block]:
    """Buttons for what the last check suggests; a check is always there."""
    found: dict[tuple[str, str], None] = {}
    if isinstance(check, LastCheck):
        for one in check.report.findings:
            if one.suggests in names():
                subject = one.subject if one.subject in check.services else ""
                found.setdefault((one.suggests, subject))
    found.setdefault(("check-platform", ""))
    buttons = []
    for number, (procedure, service) in enumerate(list(found)[: BUTTONS - 1]):
        value = json.dumps({"stack": stack, "procedure": procedure, "service": service})
        buttons.append(button(f"{procedure} {service}".strip(), f"run:{number}", value))
    more = json.dumps({"stack": stack})
    return [*buttons, button("Help", "help", more)]


def status_text(stack: str, found: Mapping[str, Health]) -> str:
    """What was seen just now, a line for each service."""
    lines = [f"{quoted(stack)} now:"]
    for name, health in found.items():
        mark = _MARK[_HEALTH[health.status]]
        reason = escape(" ".join(health.reason.split())[:200])
        lines.append(f"{mark} {quoted(name, 60)} *{health.status}* {reason}")
    return "\n".join(lines)
