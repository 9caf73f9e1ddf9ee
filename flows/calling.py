"""When a procedure that nobody watches could not help, people are called."""

import asyncio
import time

from prefect.logging import get_run_logger

from blocks.errors import Permanent
from blocks.incidents import read_incident
from blocks.slack_blocks import Mrkdwn, join, message, section
from blocks.slack_client import open_slack
from flows.decisions.escalation import calls_for_people, severity_of
from flows.report import Options, Report
from flows.run import Run
from tasks.escalations import start_escalation
from tasks.records import RECORD_S, attempted

GIVE_UP_S = 900
"""How long a server that is away is asked again; people must hear of it some other way then, s."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
REJECTED = " rejected the plan "
"""In the message of a run whose plan a person rejected (flows.approval)."""


def needs_people(options: Options, report: Report) -> bool:
    """Whether a run that nobody watches leaves something to a person (calls_for_people)."""
    return not options.dry_run and calls_for_people(
        source=report.source,
        procedure=report.procedure,
        verdict=report.verdict,
        blocked_by=report.blocked_by,
        rejected=report.blocked_by == "not-approved" and REJECTED in report.message,
    )


async def call_people(run: Run, report: Report) -> Report:
    """Start the escalation where the stack has one and the run needs a person.

    A server that is away is asked again for a quarter of an hour; then Slack is told directly. A
    call that fails is a note in the record, and changes no verdict.

    Args:
        run: whose stack and options count.
        report: what people are called for, of this run or of a part of it.
    """
    if run.spec.escalation is None or not needs_people(run.options, report):
        return report
    try:
        note = await _persistently(run, report)
    except Exception as e:  # noqa: BLE001 - whatever fails, the verdict stands
        note = f"NOBODY COULD BE CALLED: {type(e).__name__}: {str(e)[:200]}"
        problem = await attempted("the call in Slack", lambda: _tell_slack(run, report, note))
        note += f"; {problem}" if problem else ""
    get_run_logger().warning(note)
    return report.model_copy(update={"notes": (*report.notes, note)})


async def _persistently(run: Run, report: Report) -> str:
    """Call until it is done; what was done. Raises what the last try raised."""
    until, pause = time.monotonic() + GIVE_UP_S, PAUSE_S
    while True:
        try:
            async with asyncio.timeout(RECORD_S):
                return await _call(run, report)
        except Permanent:  # trying again does not help: Slack must be told now
            raise
        except Exception as e:
            if time.monotonic() + pause >= until:
                raise
            words = "people could not be called yet (%s: %s); again in %g s"
            get_run_logger().error(words, type(e).__name__, str(e)[:200], pause)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 2 * pause)


async def _call(run: Run, report: Report) -> str:
    incident = await read_incident(report.incident) if report.incident else None
    severity = severity_of(report.procedure, incident.opened.severity if incident else None)
    assert run.spec.escalation is not None  # noqa: S101 - the caller looked
    if severity not in run.spec.escalation.severities:
        return f"nobody is called: the matrix has no row {severity}"
    options = Options(actor=report.actor, source=report.source, incident=report.incident)
    begun = await start_escalation(
        report.stack,
        report.service,
        severity,
        f"{report.procedure}: {report.message}",
        report.incident or report.run_id,
        options.model_dump(mode="json"),
    )
    if incident and incident.ended:
        return f"nobody else is called: the incident is {incident.ended.how}"
    if incident and incident.acknowledged:
        return f"nobody else is called: {incident.acknowledged.by} has it"
    return f"people are called ({severity}): escalate-incident, run {begun[:8]}"


async def _tell_slack(run: Run, report: Report, note: str) -> None:
    """Everybody in the channel of calls, with no help of the Prefect server."""
    if run.spec.slack is None or run.spec.escalation is None:
        raise Permanent("the stack has no section slack")
    channel = run.spec.escalation.channel or run.spec.slack.channel
    words = join(Mrkdwn("<!channel> "), f"{report.headline}\n{note}\nCall them by hand.")
    client = await open_slack(run.spec.slack)
    await client.post(channel, message([section(words)]), f"{note}: {report.headline}"[:300])
