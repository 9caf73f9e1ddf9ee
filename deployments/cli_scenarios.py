"""Commands on scenarios: failures the product claims to handle, played on the sandbox."""

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from blocks.journal import home
from deployments import connection
from deployments.cli_base import JsonOption, err, out, plain, wait_for

if TYPE_CHECKING:
    from deployments.scenarios import Scenario

scenarios = typer.Typer(help="Failures the product claims to handle, played on the sandbox.")


@scenarios.command("list")
def scenario_list(as_json: JsonOption = False) -> None:
    """What can be played."""
    from deployments.scenarios import load_all

    found = load_all()
    if as_json:
        sys.stdout.write(json.dumps([s.model_dump() for s in found], indent=2) + "\n")
        return
    table = Table("scenario", "what happens", "expected", box=None, header_style="bold")
    for s in found:
        table.add_row(s.name, s.title, f"{s.expect.diagnosis or '-'} → {s.expect.verdict or '-'}")
    out.print(table)


@scenarios.command("play")
def scenario_play(
    name: Annotated[str, typer.Argument(help="see: runbooks scenario list; `all` plays each")],
    keep: Annotated[bool, typer.Option("--keep", help="leave the sandbox running")] = False,
    as_json: JsonOption = False,
) -> None:
    """Play one failure on the sandbox and compare what happened with what was expected."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    # A home of its own: a play is no stack of the operator's, and two servers on one database
    # get in each other's way.
    os.environ["RUNBOOKS_HOME"] = str(home() / "plays")
    connection.use_this_process()
    from deployments.scenarios import load_all, load_one

    chosen = load_all() if name == "all" else [load_one(name)]
    sys.exit(1 if wait_for(_play(chosen, keep, as_json)) else 0)


async def _play(chosen: list["Scenario"], keep: bool, as_json: bool) -> int:
    """Play them one after the other; how many came out otherwise."""
    from deployments.play_platform import whole
    from deployments.scenarios import play

    failed = 0
    async with contextlib.AsyncExitStack() as stack:
        if any(scenario.steps for scenario in chosen):
            await stack.enter_async_context(whole(lambda words: err.print(words, highlight=False)))
        for scenario in chosen:
            result = await play(scenario, keep=keep)
            failed += not result.ok
            if as_json:
                sys.stdout.write(result.model_dump_json(indent=2) + "\n")
                continue
            out.print(
                f"{'[green]ok[/]  ' if result.ok else '[red]FAIL[/]'} {scenario.name}: "
                f"{plain(result.headline)}",
                highlight=False,
            )
            for problem in result.problems:
                out.print(f"     {plain(problem)}", highlight=False)
    return failed
