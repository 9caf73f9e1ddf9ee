"""Whether Prefect may forget: its database vacuum against the last verified export. Pure."""

from datetime import datetime, timedelta

from blocks.models import Frozen
from flows.decisions.finding import Status

EXPORT = "runbooks audit export"
DAILY = "runbooks up --schedules, or schedules: true in a stack: export-audit runs daily"
SWITCH = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
PERIOD = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
MARGIN = timedelta(days=1)
"""Before events are forgotten: time to mend what holds the export up."""


class VacuumFacts(Frozen):
    """What a Prefect server is set to forget."""

    flow_runs: bool
    """Whether ended flow runs are deleted, with their states, logs and artifacts."""
    keeps_runs: timedelta
    """After their end."""
    keeps_events: timedelta


def judge_vacuum(
    facts: VacuumFacts, exported: datetime | None, now: datetime
) -> tuple[Status, str, str]:
    """Status, words, and what to set; nothing is ever set by itself.

    Args:
        facts: the server's settings.
        exported: when the last verified export began; None: there is none.
        now: the present.
    """
    age = now - exported if exported else None
    when = (
        f"last verified export {exported:%Y-%m-%d %H:%M} UTC"
        if exported
        else ("there is no verified export")
    )
    keeps = _days(facts.keeps_runs)
    if not facts.flow_runs:
        if age is None or age > facts.keeps_events - MARGIN:
            return "ok", f"the vacuum of flow runs is off; {when}: leave it off", ""
        return "ok", f"the vacuum of flow runs is off; {when}", ""
    if age is None or age >= facts.keeps_runs:
        said = f"Prefect deletes flow runs {keeps} after their end, and {when}: they are lost"
        return "fail", said, f"set {SWITCH}=events and restart the server; then: {EXPORT}"
    return "ok", f"flow runs are deleted {keeps} after their end; {when}", ""


def judge_events(
    facts: VacuumFacts, exported: datetime | None, now: datetime
) -> tuple[Status, str, str]:
    """Status, words, and what to do: events go first. See `judge_vacuum`."""
    keeps = _days(facts.keeps_events)
    if exported is None:
        return "warn", f"no verified export; Prefect keeps events for {keeps}", f"{EXPORT}; {DAILY}"
    age = now - exported
    if age > max(facts.keeps_events - MARGIN, facts.keeps_events / 2):
        said = f"the last verified export is {_days(age)} old; Prefect keeps events for {keeps}"
        return "warn", said, f"{EXPORT}; {DAILY}"
    return "ok", f"the last verified export is {_days(age)} old", ""


def how_to_switch_on(facts: VacuumFacts) -> str:
    """What may be set once a verified export is there, and the export runs daily."""
    seconds = int(facts.keeps_runs.total_seconds())
    return f"{SWITCH}=events,flow_runs {PERIOD}={seconds}, then restart the server"


def _days(span: timedelta) -> str:
    days = span.total_seconds() / 86400
    return f"{days:.0f} d" if days >= 1.95 else f"{span.total_seconds() / 3600:.0f} h"
