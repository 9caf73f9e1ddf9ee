"""When a procedure that nobody watches could not help, people are called."""

from flows.report import Report
from flows.run import Run
from tasks.escalations import start_escalation
from tasks.records import attempted

UNWATCHED = ("alert", "schedule")
HOPELESS = ("attempts-exhausted", "approval-expired", "frozen")
"""Refusals that leave a broken service as it is, with nobody looking."""


async def call_people(run: Run, report: Report) -> Report:
    """Start the escalation where the stack has one and the run needs a person.

    Who started it by hand sees how it ended. A call that fails is a note in the record.
    """
    spec, options = run.spec.escalation, run.options
    lost = report.verdict in ("failed", "error", "inconclusive") or report.blocked_by in HOPELESS
    if spec is None or options.dry_run or options.source not in UNWATCHED or not lost:
        return report
    facts = await run.teller.incident_facts()
    severity = facts.opened.severity if facts else _severity(report.procedure)
    if severity not in spec.severities:
        return report
    options = options.model_copy(update={"approval": "", "dry_run": False})
    problem = await attempted(
        "the call for a person",
        lambda: start_escalation(
            report.stack,
            report.service,
            severity,
            f"{report.procedure}: {report.message}",
            options.incident or report.run_id,
            options.model_dump(mode="json"),
        ),
    )
    note = problem or f"people are called ({severity}): escalate-incident"
    return report.model_copy(update={"notes": (*report.notes, note)})


def _severity(procedure: str) -> str:
    """Of a failed run without an incident (handbook 001: P0 down, P1 degraded, P2 minor)."""
    if procedure == "remediate-outage":
        return "P0"
    return "P1" if procedure.startswith("remediate-") else "P2"
