"""What a person reads in a terminal."""

import logging

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.decisions.finding import Status
from flows.decisions.plan import shown
from flows.gpu_watch import GpuWatch
from flows.platform_page import SIGN, action, fine, measured
from flows.platform_report import PlatformReport, folded
from flows.report import Report

ENGINE_TALK = (
    "Finished in state",
    "Beginning flow run",
    "Worker '",
    "Flow run '",
    "Running 1 deployment pull",
    "Executing deployment step",
    "Deployment step",
    "All deployment steps",
    "Starting temporary server",
    "Stopping temporary server",
)
"""How Prefect's own lines begin; a procedure's story is told by the others."""


def quieten() -> None:
    """Keep Prefect's own lines out of the terminal."""

    def ours(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(ENGINE_TALK)

    # On the loggers: a starting flow run sets their handlers up anew.
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(ours)


_SHADE: dict[Status, str] = {"fail": "red", "unknown": "yellow", "warn": "yellow", "ok": "green"}
_COLOUR = {"passed": "green", "planned": "cyan", "failed": "red", "error": "red"}


def show(report: Report | PlatformReport | GpuWatch, console: Console) -> None:
    """The outcome as a person reads it in a terminal."""
    colour = _COLOUR.get(report.verdict, "yellow")
    body = Text(report.message)
    if report.next_step:
        body.append(f"\n\nwhat to do now: {report.next_step}")
    console.print(Panel(body, title=report.headline.split(":")[0], border_style=colour))
    if isinstance(report, PlatformReport):
        _findings(report, console)
    elif isinstance(report, Report):
        _change(report, console)
    else:
        for found in report.findings:
            words = " ".join(filter(None, [found.check, found.value, found.evidence]))
            console.print(f"{SIGN[found.status]} {words}", markup=False, highlight=False)
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)


def _change(report: Report, console: Console) -> None:
    if report.diagnosis:
        console.print(f"diagnosis [bold]{report.diagnosis.label}[/]", highlight=False)
        for line in report.diagnosis.evidence[:3]:
            console.print(f"  {line}", style="dim", markup=False, highlight=False)
    if report.plan:
        table = Table("field", "before", "after", title=f"plan {report.plan.digest}", box=None)
        for name, (before, after) in report.plan.changes.items():
            table.add_row(name, shown(before), shown(after))
        console.print(table)


def _findings(report: PlatformReport, console: Console) -> None:
    """What is wrong, worst first, each with what to do below it; then what is fine."""
    table = Table("", "what", "measured", "how it is known", box=None, header_style="bold")
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    for row in folded(f for f in report.findings if f.status != "ok"):
        known = Text(row.first.evidence)
        if do := action(report, row):
            known.append(("\n" if row.first.evidence else "") + do.replace("`", ""), style="cyan")
        sign = Text(SIGN[row.first.status], style=_SHADE[row.first.status])
        table.add_row(sign, Text(row.what), Text(measured(row.first)), known)
    if table.row_count:
        console.print(table)
    if counts := fine(report.findings):
        console.print(f"{SIGN['ok']} {counts}", style="green", markup=False, highlight=False)
