"""Commands on the runs that wait for an approval."""

import getpass
import json
import socket
import sys
from typing import Annotated

import typer
from rich.table import Table

from deployments.cli_base import NOT_DONE, JsonOption, connect, fail, need, out, plain, wait_for

RunArgument = Annotated[str, typer.Argument(help="id of the run, or its beginning")]
DigestOption = Annotated[
    str, typer.Option(help="the plan that is meant; default: the one it waits with now")
]


def add_to(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (waiting, approve, reject):
        app.command()(command)


def waiting(as_json: JsonOption = False) -> None:
    """Runs that wait for an approval, the oldest first."""
    need(connect())
    from deployments.approvals import waiting as find

    found = wait_for(find())
    if as_json:
        sys.stdout.write(json.dumps([w.model_dump(mode="json") for w in found], indent=2) + "\n")
        return
    table = Table("run", "procedure", "service", "plan", "asked by", box=None, header_style="bold")
    for w in found:
        table.add_row(w.run_id, w.procedure, f"{w.stack}/{w.service}", w.digest, w.asked_by)
    out.print(table if found else "no run waits for an approval")


def approve(run: RunArgument, digest: DigestOption = "") -> None:
    """Approve the plan that a run waits with; the run checks that it still holds."""
    _answer(run, "approve", digest)


def reject(run: RunArgument, digest: DigestOption = "") -> None:
    """Reject the plan that a run waits with; nothing is changed."""
    _answer(run, "reject", digest)


def _answer(run: str, decision: str, digest: str) -> None:
    need(connect())
    from deployments.approvals import Answer, answer, find

    async def say() -> Answer:
        actor = f"{getpass.getuser()}@{socket.gethostname()}"
        whole = await find(run)
        return await answer(whole, decision, actor=actor, source="cli", digest=digest)  # type: ignore[arg-type]

    done = wait_for(say())
    if done.status != "resumed":
        fail(done.words, NOT_DONE)
    out.print(plain(done.words), highlight=False)
