"""What an escalation sees of the incident, and the record it leaves: report, artifact, event."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from prefect.logging import get_run_logger
from pydantic import ValidationError

from blocks.errors import RunbookError
from blocks.incident_runs import IncidentRun, read_incident_runs
from blocks.incidents import read_incident, read_lead, read_told
from blocks.journal import home, write_atomically
from blocks.target import runtime_of, target_of
from flows.decisions.checklist import Seen
from flows.decisions.diagnosis_advice import DEFINITIONS
from flows.decisions.health import judge
from flows.decisions.incident_report import Action, Facts, draft
from flows.decisions.plan import shown
from flows.escalation_state import PROCEDURE, Escalation
from flows.report import Report
from flows.verify import expectation
from tasks.reads import look
from tasks.records import attempted, publish_artifact, publish_event


async def refresh(run: Escalation) -> None:
    """Read the facts anew; while the server is away, those that are known stand."""
    try:
        async with asyncio.timeout(60):
            found = await read_incident(run.opened.id)
            runs = await read_incident_runs(
                run.opened.id, run.opened.stack, run.service, run.opened.at, leave=PROCEDURE
            )
            leading = (await read_lead(run.opened.id)).runs
    except Exception as e:  # noqa: BLE001 - the path goes on whatever the server does
        words = f"the facts could not be read for a while ({type(e).__name__})"
        get_run_logger().warning(words)
        run.note(words)
        return
    run.incident = found or run.incident
    run.actions = tuple(map(action_of, runs))
    # Not where this run could write no turn of its own: then the last one may be dead.
    if any(led.run_id == run.run_id for led in leading) and leading[-1].run_id != run.run_id:
        run.taken_by = leading[-1]


async def recall(run: Escalation) -> None:
    """Who was told by runs before this one. Raises what Prefect's client raises."""
    run.told = {one.number: one for one in await read_told(run.opened.id)}


def action_of(run: IncidentRun) -> Action:
    """A run with what its record says; without a record nothing is assumed."""
    known = {"procedure": run.procedure, "run_id": run.id, "at": run.at, "ended_at": run.ended_at}
    try:
        report = Report.model_validate(run.record)
    except ValidationError:
        record = run.record or {}
        words = {k: str(record.get(k) or "") for k in ("service", "verdict", "message")}
        return Action.model_validate(known | words | {"service": words["service"] or "?"})
    found, kept = report.diagnosis, [a for a in report.attempts if a.kept]
    return Action(
        procedure=run.procedure,
        run_id=run.id,
        at=run.at,
        ended_at=run.ended_at,
        service=report.service,
        verdict=report.verdict,
        message=report.message,
        by=f"{report.actor}, from {report.source}",
        approver=report.approver,
        changes=tuple(
            (name, shown(before), shown(after))
            for attempt in kept
            for name, (before, after) in attempt.plan.changes.items()
        ),
        kept=len(kept),
        undone=len(report.attempts) - len(kept),
        cause=f"{found.label}: {DEFINITIONS[found.label]}" if found else "",
        evidence=found.evidence if found else (),
        next_step=report.next_step,
    )


def tick(run: Escalation) -> None:
    """Tick what the facts show; a box is never unticked."""
    ack, end = run.incident.acknowledged, run.incident.ended
    reached = [t for t in run.told.values() if t.heard and t.heard.sent]
    if reached:
        first = min(reached, key=lambda t: t.told.at)
        run.seen.setdefault("told", Seen(at=first.told.at, how=first.told.person))
    if ack:
        run.seen.setdefault("acknowledged", Seen(at=ack.at, how=ack.by))
    if end:
        run.seen.setdefault("resolved", Seen(at=end.at, how=f"{end.how} by {end.by}"))
    for action in run.actions:
        seen = Seen(
            at=action.ended_at or action.at, how=f"{action.procedure}, run {action.run_id[:8]}"
        )
        if action.cause and action.cause.partition(":")[0] not in ("unknown", "healthy_noise"):
            run.seen.setdefault("diagnosed", seen)
        if action.verdict == "passed" and action.kept:
            run.seen.setdefault("fixed", seen)


async def watch(run: Escalation) -> None:
    """One look at the service after the fix, or after the end; healthy for long enough: a tick.

    What cannot be looked at is not healthy: the time begins anew.
    """
    begun = "fixed" in run.seen or run.incident.ended is not None
    if not (run.row.watch_min and begun) or run.service == "*" or "watched" in run.seen:
        return
    now = datetime.now(UTC)
    status, why = await _health(run)
    run.health = status
    if status != "healthy":
        run.healthy_since = None
        run.note(f"watched after the fix: {status}: {why}"[:300])
        return
    run.healthy_since = run.healthy_since or now
    if (now - run.healthy_since).total_seconds() >= 60 * run.row.watch_min:
        run.seen["watched"] = Seen(at=now, how=f"healthy for {run.row.watch_min:g} min")


async def _health(run: Escalation) -> tuple[str, str]:
    target = target_of(run.spec, run.service)
    try:
        async with asyncio.timeout(60):
            state, serving = await look(target)
            config = await runtime_of(target).read_config()
    except (RunbookError, TimeoutError) as e:
        return "unknown", str(e) or "no answer within 60 s"
    found = judge(state, serving, expectation(target, config))
    return found.status, found.reason


def report_path(run: Escalation) -> Path:
    """Where the draft is kept on this host."""
    return home() / "incidents" / f"{run.opened.at:%Y-%m-%d}-{run.opened.id}.md"


async def draft_report(run: Escalation) -> None:
    """Write the draft of the incident report: a file of this host, and an artifact."""
    path, now = report_path(run), datetime.now(UTC)
    run.seen["drafted"] = Seen(at=now, how=path.name)
    facts = Facts(
        incident=run.incident,
        told=tuple(run.told[n] for n in sorted(run.told)),
        actions=run.actions,
        checklist=run.checklist,
        gaps=tuple(run.notes),
        drafted_at=now,
    )
    text = draft(facts)
    problem = await attempted(
        "the report's file", lambda: asyncio.to_thread(write_atomically, path, text)
    )
    title = f"Incident {run.opened.id}: {run.opened.title}"
    failed = await attempted("the report", lambda: publish_artifact("incident-report", text, title))
    run.note(problem or f"the incident report was drafted: incidents/{path.name}")
    run.note(failed)
    if problem and failed:
        del run.seen["drafted"]


async def publish(report: Report) -> Report:
    """The record; whatever cannot be published becomes a note, and changes no verdict."""
    level = get_run_logger().info if report.verdict in ("passed", "planned") else None
    (level or get_run_logger().error)(report.headline)
    payload = {"run_id": report.run_id, "message": report.message, "actor": report.actor}
    payload["incident"] = report.incident
    problems = [
        await attempted(
            "event",
            lambda: publish_event(
                f"runbooks.{PROCEDURE}.{report.verdict}",
                f"runbooks.service.{report.stack}.{report.service}",
                payload,
            ),
        ),
        await attempted(
            "data",
            lambda: publish_artifact(
                f"{PROCEDURE}-data", report.model_dump(mode="json"), report.headline
            ),
        ),
    ]
    return report.model_copy(update={"notes": (*report.notes, *(p for p in problems if p))})
