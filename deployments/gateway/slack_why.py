"""The record of a run in short, for Slack. Pure."""

from typing import Any

from prefect.client.schemas.objects import FlowRun
from pydantic import ValidationError

from blocks.slack_blocks import escape, link
from deployments.gateway.slack_words import quoted
from flows.platform_report import PlatformReport, folded
from flows.report import Report

LINES = 12


def story(run: FlowRun, record: dict[str, Any] | None, url: str) -> str:
    """What a run saw, did and why; its state alone while it has recorded nothing."""
    where = link(url, f"run {str(run.id)[:8]}")
    if record is None:
        state = run.state
        said = escape(" ".join((state.message or "").split())[:300]) if state else ""
        name = state.name if state else "unknown"
        return f"{quoted(run.name, 100)} has no record yet: it is *{name}*. {said}\n{where}"
    try:
        if record.get("procedure") == "check-platform":
            return f"{_platform(PlatformReport.model_validate(record))}\n{where}"
        return f"{_service(Report.model_validate(record))}\n{where}"
    except ValidationError:  # of another kind, or of another version
        verdict = quoted(str(record.get("verdict", "?")), 40)
        return f"*{verdict}* {escape(str(record.get('message', ''))[:500])}\n{where}"


def _service(report: Report) -> str:
    why = f" ({report.blocked_by})" if report.blocked_by else ""
    lines = [
        f"*{report.verdict.upper()}*{why} {escape(report.procedure)} of "
        f"{quoted(report.stack + '/' + report.service, 120)}: {_line(report.message)}"
    ]
    if report.seen:
        lines.append(f"*Saw* {_line(report.seen)}")
    if report.diagnosis:
        lines.append(f"*Diagnosis* {quoted(report.diagnosis.label)}")
        lines += [f"> {_line(e, 200)}" for e in report.diagnosis.evidence[:3]]
    if report.plan:
        plan = report.plan
        lines.append(f"*Plan* {quoted(plan.digest)} {_line(plan.summary())}: {_line(plan.reason)}")
    for attempt in report.attempts:
        outcome = "kept" if attempt.kept else "undone"
        checked = attempt.verification
        lines.append(
            f"*{outcome.capitalize()}* {_line(attempt.plan.summary())}: "
            f"{checked.outcome}, {_line(checked.reason)}"
        )
    if report.approver:
        lines.append(f"*Approved by* {_line(report.approver)}")
    lines += [f"_{_line(note)}_" for note in report.notes[:3]]
    if report.next_step:
        lines.append(f"*To do* {_line(report.next_step)}")
    lines.append(
        f"asked for by {_line(report.actor, 80)}, from {report.source}, "
        f"{report.started_at:%Y-%m-%d %H:%M} UTC, took {report.duration_s:.0f} s"
    )
    return "\n".join(lines)


def _platform(report: PlatformReport) -> str:
    lines = [f"*{report.verdict.upper()}* {quoted(report.stack)}: {_line(report.message)}"]
    rows = [row for row in folded(report.findings) if row.first.status != "ok"]
    for row in rows[:LINES]:
        said = row.first.value or row.first.evidence
        lines.append(f"*{row.first.status}* {_line(row.what, 120)}: {_line(said, 200)}")
    if len(rows) > LINES:
        lines.append(f"… and {len(rows) - LINES} more in the record")
    lines.append(f"checked {report.started_at:%Y-%m-%d %H:%M} UTC")
    return "\n".join(lines)


def _line(text: str, limit: int = 300) -> str:
    return escape(" ".join(text.split())[:limit])
