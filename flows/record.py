"""The record of a run: a page a person reads, and the same as data."""

import asyncio
import re
import textwrap

from flows.charts import timeline_png
from flows.decisions.diagnosis_advice import DEFINITIONS
from flows.decisions.plan import Plan, shown
from flows.report import Attempt, Report
from flows.run import Run
from tasks.records import attempted, publish_artifact, publish_event

# Glyphs of ordinary fonts: a browser on a bare server has no emoji.
_SIGN = {"passed": "✓", "planned": "✎", "failed": "✗", "error": "✗"}


async def publish(report: Report, run: Run) -> Report:
    """Publish the record everywhere; returns it with a note for whatever could not be.

    Slack comes first, so that the page can say whether people were told.
    """
    problems = []
    slack, channel = run.target.slack, run.target.service.escalate_to
    chart = await asyncio.to_thread(timeline_png, report) if report.attempts else ""
    if slack and report.verdict != "planned":
        problem = await run.teller.end(report, channel, chart)
        where = channel if channel and report.verdict != "passed" else slack.channel
        problems.append(problem or f"told {where} on Slack")
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
        await attempted("record", lambda: _publish_page(report, chart)),
    ]
    return report.model_copy(update={"notes": report.notes + tuple(p for p in problems if p)})


async def _publish_data(report: Report) -> None:
    await publish_artifact(
        f"{report.procedure}-data",
        report.model_dump(mode="json"),
        report.headline,
    )


async def _publish_page(report: Report, chart: str) -> None:
    await publish_artifact(f"{report.procedure}-record", page(report, chart), report.headline)


def page(report: Report, chart: str = "") -> str:
    """The markdown page of one run, what matters first; `chart` is base64 PNG."""
    parts = [
        f"# {_SIGN.get(report.verdict, '⚠')} {report.verdict.capitalize()}: "
        f"{report.stack}/{report.service}",
        f"**{_arrows(report.message)}**",
    ]
    if report.next_step:
        parts.append(f"> **What to do now:** {report.next_step}")
    parts += [f"> **Note:** {note}" for note in report.notes]
    if report.plan and not report.attempts:
        parts.append(f"## Plan `{report.plan.digest}`\n\n{plan_table(report.plan)}")
    for number, attempt in enumerate(report.attempts, 1):
        parts.append(_attempt(number, attempt, len(report.attempts)))
    if chart:
        parts.append(f"![what the verification saw](data:image/png;base64,{chart})")
    if report.diagnosis:
        parts.append(_diagnosis(report))
    parts.append(_facts(report))
    return "\n\n".join(parts) + "\n"


def _facts(report: Report) -> str:
    rows = [
        ("Procedure", report.procedure),
        ("Service before", report.seen or "not looked at"),
        ("Asked for by", f"{report.actor}, from {report.source}"),
        ("Started", f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {report.duration_s:.1f} s"),
        ("First act after", _seconds(report.first_act_s, "never: nothing was changed")),
        ("Verdict", report.verdict + (f" ({report.blocked_by})" if report.blocked_by else "")),
        ("Run", f"`{report.run_id}`"),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows)])
    return f"## Run\n\n{table}"


def _diagnosis(report: Report) -> str:
    found = report.diagnosis
    assert found is not None  # noqa: S101 - the caller checked
    meaning = DEFINITIONS[found.label]
    lines = [f"## Cause: `{found.label}`", meaning[:1].upper() + meaning[1:] + "."]
    if found.evidence:
        lines.append("```text\n" + "\n".join(map(_evidence, found.evidence[:3])) + "\n```")
    if found.facts:
        lines.append(" · ".join(f"{k} **{v}**" for k, v in found.facts.items()))
    if report.verdict != "passed" and found.advice != report.next_step:
        lines.append(f"**Advice:** {found.advice}")
    return "\n\n".join(lines)


# Which process wrote it, at what level, when and in which source line: no news to a reader.
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:.,]+ )?(?:\[[\w.]+:\d+\] )?")


def _evidence(line: str) -> str:
    """One quoted log line, folded: a code block of the UI does not wrap."""
    text = _PREFIX.sub("", line, count=1).replace("```", "'''")
    return textwrap.fill(textwrap.shorten(text, 400, placeholder=" …"), 72)


def plan_table(plan: Plan) -> str:
    """Before and after of every changed field, with the reason and the undo."""
    return _changes(plan) + "\n\n" + "\n".join([*_words(plan), f"- **Undo:** {plan.undo}"])


def _changes(plan: Plan) -> str:
    if plan.how != "apply":
        return f"**{plan.how.capitalize()}**, with the numbers it has."
    rows = [
        f"| `{name}` | {_cell(shown(before))} | **{_cell(shown(after))}** |"
        for name, (before, after) in plan.changes.items()
    ]
    return "\n".join(["| field | before | after |", "|---|---|---|", *rows])


def _words(plan: Plan) -> list[str]:
    # `label: label with ...`: the diagnosis names itself, once is enough.
    head, _, rest = plan.reason.partition(": ")
    named = {
        "Warning": plan.warning,
        "Why": rest if rest.startswith(head) else plan.reason,
        "Expected": plan.expected,
        "Costs": plan.costs,
    }
    return [f"- **{name}:** {text}" for name, text in named.items() if text]


def _attempt(number: int, attempt: Attempt, of: int) -> str:
    checked = attempt.verification
    outcome = "kept" if attempt.kept else "undone"
    words = [
        *_words(attempt.plan.model_copy(update={"expected": ""})),  # now it is known
        f"- **Verified:** {checked.outcome}, {checked.reason}; first token after "
        f"{_seconds(checked.first_token_s, 'never')}, watched for {checked.total_s:.1f} s",
    ]
    if attempt.diagnosis_after:
        words.append(f"- **Why it failed:** `{attempt.diagnosis_after.label}`")
    if attempt.undo:
        words.append(f"- **Undo:** {attempt.undo}")
    title = f"## Change: {outcome}" if of == 1 else f"## Change {number} of {of}: {outcome}"
    return "\n\n".join([title, _changes(attempt.plan), "\n".join(words)])


def _arrows(text: str) -> str:
    return text.replace(" -> ", " → ")


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.1f} s"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
