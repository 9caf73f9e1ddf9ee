"""Commands on incidents: which are open, who has one, and that one is over."""

import asyncio
import getpass
import json
import re
import socket
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from deployments.cli_base import (
    NOT_DONE,
    JsonOption,
    StackOption,
    connect,
    fail,
    need,
    out,
    plain,
    wait_for,
)

IncidentArgument = Annotated[str, typer.Argument(help="id of the incident: 8 hex digits")]


def add_to(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (incidents, ack, close):
        app.command()(command)


def incidents(stack: StackOption = "", as_json: JsonOption = False) -> None:
    """Incidents that are not over, the oldest first."""
    need(connect())
    from blocks.incidents import open_incidents

    found = wait_for(open_incidents(stack))
    if as_json:
        sys.stdout.write(json.dumps([i.model_dump(mode="json") for i in found], indent=2) + "\n")
        return
    table = Table("incident", box=None, header_style="bold")
    for name in ("", "service", "since (UTC)", "who has it"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in found:
        opened, has = one.opened, one.acknowledged
        table.add_row(
            opened.id,
            opened.severity,
            plain(f"{opened.stack}/{opened.service}"),
            f"{opened.at.astimezone(UTC):%m-%d %H:%M}",
            plain(has.by) if has else "nobody",
            plain(opened.title),
        )
    out.print(table if found else "no incident is open")


def ack(incident: IncidentArgument) -> None:
    """You have the incident: nobody else is called."""
    _write(incident, "acknowledged")


def close(incident: IncidentArgument) -> None:
    """The incident is over: its escalation stops, and its report is drafted."""
    _write(incident, "closed")


def _write(incident: str, what: str) -> None:
    name = incident.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{8}", name):
        fail(f"{incident[:40]!r} is no incident: 8 hex digits; see: runbooks incidents")
    need(connect())
    done, words = wait_for(_say(name, what))
    if not done:
        fail(words, NOT_DONE)
    out.print(plain(words), highlight=False)


async def _say(incident: str, what: str) -> tuple[bool, str]:
    """Write the fact; whether it is as asked for now, and words for the person."""
    from blocks.audit_log import AuditLog
    from blocks.incidents import Acknowledged, Ended, add, read_incident

    who, now = f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC)
    found = await read_incident(incident)
    if found is None:
        return False, f"there is no incident {incident}; see: runbooks incidents"
    if found.ended:
        return what == "closed", f"{incident} is over already: {found.ended.how}"
    if what == "closed":
        new = await add(incident, Ended(by=who, how="closed", at=now))
    else:
        new = await add(incident, Acknowledged(by=who, source="cli", at=now))
    if not new:
        now_has = await read_incident(incident)
        has = now_has.acknowledged.by if now_has and now_has.acknowledged else "somebody"
        said = "is over already" if what == "closed" else f"is acknowledged already: {has} has it"
        return what == "closed", f"{incident} {said}"
    record = {"stack": found.opened.stack, "incident": incident, "what": what, "by": who}
    problem = ""
    try:
        await asyncio.to_thread(AuditLog().append, "incident", {**record, "source": "cli"})
    except Exception as e:  # noqa: BLE001 - the fact stands; that it is not in the log is said
        problem = f"; the audit log could not be written: {type(e).__name__}"
    words = "closed" if what == "closed" else "yours; nobody else is called"
    return True, f"{incident} is {words}{problem}"
