"""The record of a run: a page a person reads, and the same as data."""

import asyncio

from blocks.target import Target
from flows.charts import timeline_png
from flows.decisions.plan import Plan, shown
from flows.report import Attempt, Report
from tasks.records import attempted, publish_artifact, publish_event, publish_slack

_MARK = {"passed": "✅", "planned": "📝", "failed": "❌", "error": "💥"}


async def publish(report: Report, target: Target) -> Report:
    """Publish the record everywhere; returns it with a note for whatever could not be.

    Slack comes first, so that the page can say whether people were told.
    """
    problems = []
    if target.slack and report.verdict != "planned":
        slack, channel = target.slack, None
        if report.verdict != "passed":
            channel = target.service.escalate_to
        title = f"{_MARK.get(report.verdict, '⚠️')} {report.procedure} {report.service}"
        problem = await attempted(
            "Slack", lambda: publish_slack(slack, title, slack_text(report), channel)
        )
        problems.append(problem or f"told {channel or slack.channel} on Slack")
    elif report.verdict not in ("passed", "planned"):
        problems.append("nobody was told: the stack has no slack section")
    report = report.model_copy(update={"notes": report.notes + tuple(p for p in problems if p)})
    problems = [
        await attempted(
            "event",
            lambda: publish_event(
                f"runbooks.{report.procedure}.{report.verdict}",
                f"runbooks.service.{report.stack}.{report.service}",
                {"run_id": report.run_id, "message": report.message, "actor": report.actor},
            ),
        ),
        await attempted("data", lambda: _publish_data(report)),
        await attempted("record", lambda: _publish_page(report)),
    ]
    return report.model_copy(update={"notes": report.notes + tuple(p for p in problems if p)})


async def _publish_data(report: Report) -> None:
    await publish_artifact(
        f"{report.procedure}-data",
        "result",
        report.model_dump(mode="json"),
        report.headline,
    )


async def _publish_page(report: Report) -> None:
    chart = await asyncio.to_thread(timeline_png, report) if report.attempts else ""
    await publish_artifact(
        f"{report.procedure}-record", "markdown", page(report, chart), report.headline
    )


def slack_text(report: Report) -> str:
    """The message people get: verdict, cause, change, what to do."""
    lines = [f"*{report.verdict.upper()}* `{report.stack}/{report.service}`: {report.message}"]
    if report.diagnosis:
        lines.append(f"*Diagnosis* `{report.diagnosis.label}`")
        lines += [f"> {line[:200]}" for line in report.diagnosis.evidence[:2]]
    if report.plan:
        lines.append(f"*Plan* {report.plan.summary()}")
    if report.next_step:
        lines.append(f"*You* {report.next_step}")
    return "\n".join([*lines, f"_by {report.actor} from {report.source}, run {report.run_id[:8]}_"])


def page(report: Report, chart: str = "") -> str:
    """The markdown page of one run; `chart` is base64 PNG."""
    parts = [
        f"# {_MARK.get(report.verdict, '⚠️')} {report.verdict.capitalize()}: "
        f"{report.procedure} on {report.stack}/{report.service}",
        report.message,
    ]
    if report.next_step:
        parts.append(f"**What to do now:** {report.next_step}")
    parts.append(_facts(report))
    if report.diagnosis:
        parts.append(_diagnosis(report))
    if report.plan and not report.attempts:
        parts.append(f"## Plan `{report.plan.digest}`\n\n{plan_table(report.plan)}")
    for number, attempt in enumerate(report.attempts, 1):
        parts.append(_attempt(number, attempt))
    if chart:
        parts.append(f"## Timeline\n\n![what the verification saw](data:image/png;base64,{chart})")
    if report.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {n}" for n in report.notes))
    return "\n\n".join(parts) + "\n"


def _facts(report: Report) -> str:
    rows = [
        ("Verdict", report.verdict + (f" ({report.blocked_by})" if report.blocked_by else "")),
        ("Before", report.seen or "not looked at"),
        ("Started", f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC by {report.actor}"),
        ("Door", report.source),
        ("First act", _seconds(report.first_act_s, "nothing was changed")),
        ("Duration", f"{report.duration_s:.1f} s"),
        ("Run", f"`{report.run_id}`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows)])


def _diagnosis(report: Report) -> str:
    found = report.diagnosis
    assert found is not None  # noqa: S101 - the caller checked
    lines = [f"## Diagnosis: `{found.label}`", found.advice]
    if found.evidence:
        lines.append(
            "```text\n" + "\n".join(e.replace("```", "'''") for e in found.evidence) + "\n```"
        )
    if found.facts:
        rows = "\n".join(f"| {k} | {_cell(v)} |" for k, v in found.facts.items())
        lines.append(f"| fact | value |\n|---|---|\n{rows}")
    return "\n\n".join(lines)


def plan_table(plan: Plan) -> str:
    """Before and after of every changed field, with the reason and the undo."""
    rows = "\n".join(
        f"| `{name}` | {_cell(shown(before))} | **{_cell(shown(after))}** |"
        for name, (before, after) in plan.changes.items()
    )
    words = [f"**Why:** {plan.reason}"]
    words += [f"**Expected:** {plan.expected}"] if plan.expected else []
    words += [f"**Costs:** {plan.costs}"] if plan.costs else []
    words += [f"**Warning:** {plan.warning}"] if plan.warning else []
    words += [f"**Undo:** {plan.undo}"]
    return f"| field | before | after |\n|---|---|---|\n{rows}\n\n" + "\n\n".join(words)


def _attempt(number: int, attempt: Attempt) -> str:
    checked = attempt.verification
    lines = [
        f"## Act {number}: {'kept' if attempt.kept else 'undone'}",
        plan_table(attempt.plan),
        f"**Verification:** {checked.outcome}, {checked.reason} "
        f"(act {attempt.act_s:.1f} s, first token after "
        f"{_seconds(checked.first_token_s, 'never')}, watched {checked.total_s:.1f} s)",
    ]
    if attempt.diagnosis_after:
        lines.append(f"**Why it failed:** `{attempt.diagnosis_after.label}`")
    if attempt.undo:
        lines.append(f"**Undo:** {attempt.undo}")
    return "\n\n".join(lines)


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.1f} s"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
