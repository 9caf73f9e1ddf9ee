"""Tell the right people of an incident until somebody has it, and draft its report.

Handbooks: 001 "On-Call Responsibilities" (rotation, matrix, checklists), 002 "Severity Levels".
"""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from blocks.alert_routes import Severity
from blocks.errors import Permanent, RunbookError, Unsafe
from blocks.incidents import Incident, Opened, incident_of, open_incident, read_incident
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack
from flows.decisions.escalation import Step, due
from flows.decisions.words import span
from flows.escalation_lead import take
from flows.escalation_record import draft_report, publish, recall, refresh, tick, watch
from flows.escalation_slack import shout, show_checklist
from flows.escalation_state import PROCEDURE, Escalation
from flows.escalation_telling import settle_pages, tell
from flows.procedure import state_of, tag
from flows.report import Options, Report
from tasks.records import attempted

Title = Annotated[str, Field(min_length=1, max_length=300)]
Watch = Annotated[float, Field(ge=0, le=604_800)]
Poll = Annotated[float, Field(ge=0.05, le=60)]


@flow(name="escalate-incident", flow_run_name="escalate-incident {stack} {service} {severity}")
async def escalate_incident(
    stack: str,
    service: str,
    severity: Severity,
    title: Title,
    watch_s: Watch = 0,
    poll_s: Poll = 5,
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Tell the people of an incident, one role after the other, until somebody acknowledges.

    By the stack's severity matrix: who, by what, how fast they must answer, and whether at
    night. Posts the severity's checklist and ticks what it sees done; drafts the incident report
    when the incident is over, or when nobody answered. Changes nothing on the service. Handbook:
    on-call responsibilities, severity levels.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service that is affected, or * for the whole platform.
        severity: Row of the stack's matrix, P0 to P3.
        title: What is wrong, in one line.
        watch_s: How long it waits at most, seconds; 0: from the severity, a week at most.
        poll_s: From one look at the incident to the next, seconds.
        options: Actor and source; the incident where there is one; a dry run says whom it would
            tell, and when.
    """
    spec = await load_stack(stack)
    if service != "*":
        spec.service(service)
    run = await _begin(spec, service, severity, title, options)
    run.watch_s, run.poll_s = watch_s, poll_s
    await tag(
        PROCEDURE,
        options,
        f"stack:{spec.name}",
        f"service:{service}",
        *([] if options.dry_run else [f"incident:{run.opened.id}"]),
    )
    try:
        report = _planned(run) if options.dry_run else await _escalate(run)
    except Unsafe as e:
        words = "look at the run that does it"
        report = run.report("blocked", str(e), blocked_by=e.reason, next_step=words)
    except RunbookError as e:
        report = run.report("error", str(e), next_step="tell the people on call by hand")
    return state_of(await publish(report))


async def _begin(
    spec: StackSpec, service: str, severity: Severity, title: str, options: Options
) -> Escalation:
    """The incident that is meant; a new one is opened, but not by a dry run.

    Its id comes from the run's, so that the same run, started again, opens no second one.

    Raises:
        Permanent: `options.incident` is none, or one of another stack.
    """
    run_id = str(flow_run.id)
    if not re.fullmatch(r"([0-9a-f]{8})?", options.incident):
        raise Permanent(
            f"options.incident {options.incident[:40]!r} is no incident's id: 8 hex digits, or "
            "nothing to open a new one"
        )
    known = options.incident or incident_of(run_id)
    opened = Opened(
        id=known,
        stack=spec.name,
        service=service,
        severity=severity,
        title=title,
        source=options.source,
        at=datetime.now(UTC),
    )
    run = Escalation(spec, service, severity, options, run_id, Incident(opened=opened), poll_s=5)
    try:
        if not options.dry_run:
            await open_incident(opened)
        found = await read_incident(known)
    except Exception as e:  # noqa: BLE001 - who is on call must hear of it all the same
        run.note(f"the incident could not be opened on the server: {type(e).__name__}")
        return run
    run.incident = found or run.incident
    if run.opened.stack != spec.name:
        raise Permanent(f"incident {known} is of stack {run.opened.stack!r}, not of {spec.name!r}")
    return run


def _planned(run: Escalation) -> Report:
    """What a dry run says: the whole path."""
    for step in run.planned.steps:
        who = f"{step.person} ({step.role}) by {', '.join(step.ways)}" if step.person else ""
        run.note(f"{step.at:%Y-%m-%d %H:%M} UTC: {who or f'nobody: {step.why_nobody}'}")
    steps, until = len(run.planned.steps), run.planned.exhausted_at
    message = (
        f"would tell {steps} role{'s' * (steps != 1)}, the last to answer by {until:%H:%M} UTC"
    )
    return run.report("planned", message)


async def _escalate(run: Escalation) -> Report:
    """Tell, wait, and tell the next one, until it is over or nobody is left."""
    _ = run.row  # an inventory without this severity is an error before anybody is told
    try:
        await take(run)
        await recall(run)
    except Unsafe:
        raise
    except Exception as e:  # noqa: BLE001 - a page sent twice is better than none
        run.note(f"whether another run escalates it could not be read: {type(e).__name__}")
    # Acknowledged and ended are facts on the server: nothing here could be waited for.
    while (report := await _look_and_tell(run)) is None:  # noqa: ASYNC110
        await asyncio.sleep(_pause(run))
    if run.taken_by:
        return report
    if report.verdict not in ("passed", "inconclusive"):
        run.note(await attempted("the call to everybody", lambda: shout(run, report)))
    await draft_report(run)
    run.note(await attempted("the checklist", lambda: show_checklist(run, report)))
    return report.model_copy(update={"notes": tuple(run.notes)})


async def _look_and_tell(run: Escalation) -> Report | None:
    """One round; the report once there is nothing left to wait for."""
    await refresh(run)
    ack, ended = run.incident.acknowledged, run.incident.ended
    if led := run.taken_by:
        words = f"run {led.run_id[:8]} escalates it now, as {led.severity or 'before'}"
        return run.report("blocked", words, blocked_by="locked", next_step="look at that run")
    if not ended:
        at = ack.at if ack else None
        # Told one by one: a step that nobody could be reached by makes the next one due.
        while step := _next(run, due(run.planned, at, datetime.now(UTC), run.unreached)):
            await tell(run, step)
    if ack or ended:
        await settle_pages(run, "resolve" if ended else "acknowledge")
    await watch(run)
    tick(run)
    run.note(await attempted("the checklist", lambda: show_checklist(run)))
    return _over(run)


def _next(run: Escalation, steps: Sequence[Step]) -> Step | None:
    """The first of the steps that was not told yet."""
    left = (s for s in steps if s.number not in run.done)
    step = next(left, None)
    if step:
        run.done.add(step.number)
    return step


def _pause(run: Escalation) -> float:
    """Until the next poll, or the next step where that is sooner, s.

    A run that has waited for an hour asks the server less often.
    """
    now = datetime.now(UTC)
    rested = min(30.0, (time.monotonic() - run.began) / 100)
    times = [*(s.at for s in run.planned.steps), run.planned.exhausted_at]
    soon = min(((t - now).total_seconds() for t in times if t > now), default=run.poll_s)
    return max(0.05, min(max(run.poll_s, rested), soon))


def _over(run: Escalation) -> Report | None:
    """The report, once there is nothing left to wait for."""
    opened, ack, ended = run.opened, run.incident.acknowledged, run.incident.ended
    late = time.monotonic() - run.began >= run.bound_s
    if ended:
        watching = _still_watched(run)
        if watching and not late and datetime.now(UTC) < ended.at + 2 * _watch(run):
            return None
        lasted = span((ended.at - opened.at).total_seconds())
        if watching:
            return _not_well(run, f"{ended.how} after {lasted}")
        had = f"{ack.by} had it" if ack else "nobody had acknowledged it"
        return run.report("passed", f"{ended.how} by {ended.by} after {lasted}; {had}")
    if ack:
        if not late:
            return None
        words = f"acknowledged by {ack.by}, and not over after {span(run.bound_s)}; not watched on"
        return run.report("inconclusive", words, next_step=f"ask {ack.by}, and start this again")
    if datetime.now(UTC) >= run.planned.exhausted_at or late:
        return _nobody(run)
    return None


def _watch(run: Escalation) -> timedelta:
    return timedelta(minutes=run.row.watch_min)


def _not_well(run: Escalation, words: str) -> Report:
    """It is over, they say; but it did not stay healthy, or nobody could look."""
    minutes = f"{run.row.watch_min:g} min"
    if run.health in ("", "unknown"):
        words += f", but it could not be watched for {minutes}: its health is not known"
        return run.report("inconclusive", words, next_step="look at the service")
    words += f", but it was not healthy for {minutes} since: {run.health}"
    return run.report("failed", words, next_step="look at the service; open the incident again")


def _still_watched(run: Escalation) -> bool:
    """Whether it ended with a fix whose watch is not over."""
    ended = run.incident.ended
    if not (ended and ended.how == "resolved" and run.row.watch_min) or run.service == "*":
        return False
    return "watched" not in run.seen


def _nobody(run: Escalation) -> Report:
    """Nobody acknowledged: the loudest there is."""
    reached = [t.told for t in run.mine.values() if t.heard and t.heard.sent]
    next_step = f"act now: call people, and acknowledge: /runbook ack {run.opened.id}"
    what = f"{run.severity} {run.opened.title}"
    if not run.done:
        words = f"{what}: nobody was to be told within {span(run.bound_s)}; not waited for longer"
        return run.report("inconclusive", words, next_step="start this again, or tell people")
    if not reached:
        return run.report("error", f"NOBODY COULD BE TOLD of {what}", next_step=next_step)
    people = ", ".join(dict.fromkeys(f"{t.person} ({t.role})" for t in reached))
    return run.report("failed", f"NOBODY ANSWERED {what}; told: {people}", next_step=next_step)
