"""What a person reads in a terminal."""

import logging

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from flows.decisions.plan import shown
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


_COLOUR = {"passed": "green", "planned": "cyan", "failed": "red", "error": "red"}


def show(report: Report, console: Console) -> None:
    """The outcome as a person reads it in a terminal."""
    colour = _COLOUR.get(report.verdict, "yellow")
    body = report.message
    if report.next_step:
        body += f"\n\nwhat to do now: {report.next_step}"
    console.print(Panel(body, title=report.headline.split(":")[0], border_style=colour))
    if report.diagnosis:
        console.print(f"diagnosis [bold]{report.diagnosis.label}[/]", highlight=False)
        for line in report.diagnosis.evidence[:3]:
            console.print(f"  {line}", style="dim", markup=False, highlight=False)
    if report.plan:
        table = Table("field", "before", "after", title=f"plan {report.plan.digest}", box=None)
        for name, (before, after) in report.plan.changes.items():
            table.add_row(name, shown(before), shown(after))
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)
