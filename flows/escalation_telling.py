"""Tell the people of one step, by every way of the severity; each is written down before."""

import asyncio
from datetime import UTC, datetime
from functools import partial

from prefect import runtime
from prefect.logging import get_run_logger

from blocks.escalation import PAGER, SLACK
from blocks.incidents import Heard, Telling, Told, heard, read_told, tell_once
from blocks.pagerduty import Action, Page
from blocks.people import Member
from flows.decisions.escalation import Step
from flows.decisions.incident_report import harmless, harmless_url
from flows.decisions.words import span
from flows.escalation_slack import call
from flows.escalation_state import Escalation
from tasks.records import RECORD_S, attempted
from tasks.telling import send_notice, send_page


async def tell(run: Escalation, step: Step) -> None:
    """Tell one role, unless it was told; a telling that a killed run did not finish is repeated."""
    if not step.person:
        run.note(f"nobody to tell as {step.role}: {step.why_nobody}")
        return
    via = run.row.via
    await asyncio.gather(
        *(_tell(run, step, run.number(step.number, via.index(way)), way) for way in step.ways)
    )


async def _tell(run: Escalation, step: Step, number: int, way: str) -> None:
    entry = run.told.get(number)
    if entry and entry.heard:
        return
    told = Told(
        role=step.role, person=step.person, way=way, at=datetime.now(UTC), run_id=run.run_id
    )
    if entry is None and not await _claimed(run, number, told):
        return
    if entry:
        run.note(f"{entry.told.person} told by {way} again: a killed run left open whether it went")
    failed = await attempted(way, lambda: _send(run, step, way))
    words = f"{step.person} ({step.role}) {'NOT reached' if failed else 'told'} by {way}"
    (get_run_logger().error if failed else get_run_logger().info)(words)
    run.note(f"{words}{f': {failed}' if failed else ''}")
    fact = Heard(sent=not failed, problem=failed[:500], at=datetime.now(UTC))
    run.told[number] = Telling(number=number, told=told, heard=fact)
    run.note(await attempted("the fact", lambda: heard(run.opened.id, number, fact)))


async def _claimed(run: Escalation, number: int, told: Told) -> bool:
    """Write down who is told. False: another run did, and knows what became of it."""
    run.told[number] = Telling(number=number, told=told)
    try:
        new = await asyncio.wait_for(tell_once(run.opened.id, number, told), RECORD_S)
        if not new:
            run.told |= {one.number: one for one in await read_told(run.opened.id)}
    except Exception as e:  # noqa: BLE001 - a server that is away must not silence a page
        run.note(f"{told.person} was told by {told.way} without a fact: {type(e).__name__}")
    return run.told[number].heard is None


async def _send(run: Escalation, step: Step, way: str) -> None:
    matrix = run.matrix
    if way == PAGER and matrix.pagerduty:
        await send_page(matrix.pagerduty, "trigger", page_of(run, step), step.role)
    elif way == SLACK:
        await call(run, step)
    else:
        title, body = words_of(run, step)
        member = run.spec.people.members.get(step.person, Member())
        await send_notice(way, matrix.notify[way], title, body, member.email)


def page_of(run: Escalation, step: Step | None = None) -> Page:
    """What PagerDuty shows."""
    opened = run.opened
    details = {"incident": opened.id, "opened": opened.at.isoformat(), **opened.alert}
    if step:
        details |= {"told": f"{step.person} ({step.role})", "acknowledge": _how(run)}
    return Page(
        incident=opened.id,
        summary=f"{run.severity} {opened.stack}/{run.service}: {opened.title}",
        source=f"{opened.stack}/{run.service}",
        severity=run.severity,
        details={k: str(v)[:1000] for k, v in details.items()},
        link=str(runtime.flow_run.ui_url or ""),
    )


def words_of(run: Escalation, step: Step) -> tuple[str, str]:
    """Title and text of a message to one person; what an alert says is text and nothing else."""
    opened, row = run.opened, run.row
    said = {k: opened.alert.get(k, "") for k in ("summary", "url")}
    lines = [
        f"{step.person}: you are told as {step.role}.",
        harmless(opened.title),
        row.meaning,
        f"Opened {opened.at:%Y-%m-%d %H:%M} UTC, from {opened.source}.",
        f"summary: {harmless(said['summary'])}" if said["summary"] else "",
        f"url: {url}" if (url := harmless_url(said["url"])) else "",
        f"Answer {answer_in(run)}; {_how(run)}. Else the next one is told.",
    ]
    title = f"{run.severity} {opened.stack}/{run.service}: incident {opened.id}"
    return title, "\n".join(line for line in lines if line)


def answer_in(run: Escalation) -> str:
    """`within 15 min`, or on the next business day."""
    minutes = run.row.respond_min
    return "on the next business day" if minutes is None else f"within {span(60 * minutes)}"


def _how(run: Escalation) -> str:
    return f"acknowledge in Slack: /runbook ack {run.opened.id}"


async def settle_pages(run: Escalation, action: Action) -> None:
    """Tell PagerDuty that somebody has it, or that it is over; only where it was paged."""
    spec = run.matrix.pagerduty
    roles = {t.told.role for t in run.told.values() if t.told.way == PAGER}
    if not (spec and roles) or action in run.settled:
        return
    keys = {spec.by_role.get(role, spec.routing_key): role for role in sorted(roles)}
    page, problems = page_of(run), []
    for role in keys.values():
        send = partial(send_page, spec, action, page, role)
        problems.append(await attempted(f"PagerDuty {action}", send))
        run.note(problems[-1])
    if not any(problems):
        run.settled.add(action)
