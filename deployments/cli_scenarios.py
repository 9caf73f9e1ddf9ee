"""Commands on scenarios: failures the product claims to handle, played on the sandbox."""

import json
import os
import sys
from typing import Annotated

import typer
from rich.table import Table

from blocks.journal import home
from deployments import connection
from deployments.cli_base import JsonOption, out, plain, wait_for

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
        table.add_row(s.name, s.title, f"{s.expect.diagnosis or '-'} → {s.expect.verdict}")
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
    from deployments.scenarios import load_all, load_one, play

    chosen = load_all() if name == "all" else [load_one(name)]
    failed = 0
    for scenario in chosen:
        result = wait_for(play(scenario, keep=keep))
        failed += not result.ok
        if as_json:
            sys.stdout.write(result.model_dump_json(indent=2) + "\n")
            continue
        out.print(
            f"{'[green]ok[/]  ' if result.ok else '[red]FAIL[/]'} {scenario.name}: "
            f"{plain(result.report.headline)}",
            highlight=False,
        )
        for problem in result.problems:
            out.print(f"     {plain(problem)}", highlight=False)
    sys.exit(1 if failed else 0)
