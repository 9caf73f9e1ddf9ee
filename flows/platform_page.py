"""The report of a platform as a page that is read in twenty seconds, and as a Slack message."""

import re
from collections import Counter

from flows.decisions.finding import WORST_FIRST, Finding, Status
from flows.platform_report import PlatformReport, Row, advice, command, folded

ROWS = 15
"""Of the first table: what fits one screen."""
SLACK_ROWS = 12
CELL_CHARS = 220

# Glyphs of ordinary fonts: a browser on a bare server has no emoji.
SIGN: dict[Status, str] = {"fail": "✗", "unknown": "?", "warn": "⚠", "ok": "✓"}
_VERDICT = {"passed": "✓", "failed": "✗", "error": "✗"}
_MARK: dict[Status, str] = {"fail": "❌", "unknown": "❔", "warn": "⚠️", "ok": "✅"}
_HEADS: dict[Status, str] = {"fail": "Failed", "unknown": "Unknown", "warn": "To look at", "ok": ""}


def page(report: PlatformReport) -> str:
    """The markdown page: what is wrong, worst first, then what is fine in one line."""
    head = f"# {_VERDICT.get(report.verdict, '⚠')} {report.verdict.capitalize()}: {report.stack}"
    parts = [head, f"**{_text(report.message)}**"]
    rows = folded(f for f in report.findings if f.status != "ok")
    if rows:
        parts.append(table(report, rows[:ROWS]))
    if len(rows) > ROWS:
        parts.append(f"... and {len(rows) - ROWS} more: see {report.procedure}-findings below.")
    if counts := fine(report.findings):
        parts.append(f"{SIGN['ok']} {_text(counts)}")
    parts += [f"> **Note:** {_text(note)}" for note in report.notes]
    parts.append(
        f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {report.duration_s:.1f} s, asked for by "
        f"{_text(report.actor)} from {report.source}, run `{report.run_id}`"
    )
    return "\n\n".join(parts) + "\n"


def whole(report: PlatformReport) -> str:
    """Every finding, the fine ones too: the second page."""
    rows = folded(report.findings)
    head = f"# Every finding of {report.stack}\n\n{_text(report.message)}"
    return f"{head}\n\n{table(report, rows, most=100)}\n" if rows else f"{head}\n"


def table(report: PlatformReport, rows: list[Row], most: int = 3) -> str:
    """Rows as markdown."""
    lines = ["| | what | measured | how it is known | do this |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (
            SIGN[row.first.status],
            f"{_cell(row.first.check)} · **{_cell(row.names(most))}**",
            _cell(measured(row.first)),
            _cell(row.first.evidence),
            _do(report, row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(finding: Finding) -> str:
    """`value (wanted: threshold)`; where nothing was measured, that."""
    if not finding.value:
        return "not measured" if finding.status == "unknown" else ""
    return f"{finding.value} (wanted: {finding.threshold})" if finding.threshold else finding.value


def action(report: PlatformReport, row: Row) -> str:
    """What to do, as plain text; the command is in backticks."""
    run = command(report, row.first)
    more = len(row.subjects) - 1
    words = [f"`{run}`" + (f" and {more} more" if more else "")] if run else []
    return ": ".join([*words, *filter(None, [advice(report, row.first)])])


def _do(report: PlatformReport, row: Row) -> str:
    text = _line(action(report, row)).replace("|", "\\|")
    return text.replace("<", "&lt;").replace("![", "!\\[")


def fine(findings: tuple[Finding, ...]) -> str:
    """`decoding 5, restarts 5, ...`: how often each check found nothing; GPUs together."""
    said = (re.sub(r" \d+\b", "", f.check) for f in findings if f.status == "ok")
    return ", ".join(f"{check} {count}" for check, count in Counter(said).items())


def slack_message(report: PlatformReport) -> tuple[str, str]:
    """Title and body: one section per kind of finding, worst first; one line when all is well.

    Sections are separated by empty lines (blocks.slack_workspace.post).
    """
    rows = folded(f for f in report.findings if f.status != "ok")
    if not rows:
        return f"✅ {report.stack}: {report.procedure}", report.message
    worst = rows[0].first.status
    title = f"{_MARK[worst]} {report.stack}: {report.procedure} {report.verdict}"
    shown = rows[:SLACK_ROWS]
    sections = [f"*{report.message}*"]
    for status in WORST_FIRST:
        mine = [row for row in shown if row.first.status == status]
        if mine:
            lines = [f"{_MARK[status]} *{_HEADS[status]}*", *(_bullet(report, r) for r in mine)]
            sections.append("\n".join(lines))
    if len(rows) > len(shown):
        sections.append(f"… and {len(rows) - len(shown)} more: see the record")
    sections.append(f"_by {report.actor} from {report.source}, run {report.run_id[:8]}_")
    return title, "\n\n".join(sections)


def _bullet(report: PlatformReport, row: Row) -> str:
    """At most 240 characters: twelve of them never fill a section."""
    known = " — ".join(filter(None, (measured(row.first), row.first.evidence)))
    do = command(report, row.first)
    text = _line(f"• *{row.what}*: {known}")
    room = 238 - (len(do) + 5 if do else 0)
    text = text if len(text) <= room else text[: room - 1].rstrip() + "…"
    return f"{text} → `{do}`" if do else text


def _text(text: str) -> str:
    """A text that somebody else wrote, on one line, its markdown signs harmless."""
    for sign, harmless in _MARKDOWN.items():
        text = text.replace(sign, harmless)
    return _line(text)


_MARKDOWN = {"\\": "\\\\", "<": "&lt;", "*": "\\*", "|": "\\|", "`": "'", "[": "\\["}


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _cell(text: str) -> str:
    short = text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 2].rstrip() + " …"
    return _text(short)
