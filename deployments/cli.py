"""The `runbooks` command. Prefect is imported only by the commands that need it."""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from blocks.errors import RunbookError
from deployments import connection

T = TypeVar("T")
app = typer.Typer(
    name="runbooks",
    help="Operations handbooks of LLM platforms as Prefect flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenarios = typer.Typer(help="Failures the product claims to handle, played on the sandbox.")
app.add_typer(scenarios, name="scenario")
out, err = Console(), Console(stderr=True)

USAGE, NOT_DONE = 2, 3


def main() -> None:
    """Entry point: errors of ours are one line, never a traceback."""
    try:
        app()
    except RunbookError as e:
        _fail(str(e))
    except (KeyboardInterrupt, asyncio.CancelledError) as e:
        # The lifecycle has put back what it had begun; a worker's run goes on by itself.
        _fail("interrupted", 130 if isinstance(e, KeyboardInterrupt) else 143)


def _fail(message: str, code: int = USAGE) -> NoReturn:
    err.print(f"[red]error:[/] {_plain(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _await(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def _connect(local: bool = False) -> bool:
    """Point Prefect at the server, or at this process; False when there is neither.

    A local run beside a live `runbooks up` of the same home uses its server: two servers on
    one SQLite database get in each other's way.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if local else "WARNING")
    url = connection.running_up() if local else connection.find_server()
    if url:
        connection.use_server(url)
    elif local:
        connection.use_this_process()
    return bool(url) or local


def _need(connected: bool, otherwise: str = "") -> None:
    if not connected:
        _fail(f"no server answers: start one with `runbooks up`{otherwise}", NOT_DONE)


StackOption = Annotated[str, typer.Option("--stack", help="registered name, or FILE.yaml")]
ServiceOption = Annotated[str, typer.Option("--service", help="service in the stack")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]
LocalOption = Annotated[
    bool, typer.Option("--local", help="in this process, without a running server")
]


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="the inventory, e.g. stack.yaml")],
    check: Annotated[bool, typer.Option("--check", help="validate only")] = False,
    local: LocalOption = False,
) -> None:
    """Validate an inventory and register it: blocks, locks, work queues."""
    connected = check or _connect(local)
    from blocks.stack import read_stack_file

    spec = read_stack_file(file)
    services = ", ".join(spec.services)
    if check:
        out.print(f"{file}: valid; stack {spec.name}, services {services}", highlight=False)
        return
    _need(connected, ", or add --local")
    from deployments.bootstrap import register, set_schedules

    _await(register(spec))
    out.print(f"registered stack [bold]{spec.name}[/]: {services}", highlight=False)
    if spec.schedules:
        out.print(f"{_await(set_schedules(True))} schedule(s) active")


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="preferred port of the UI; the next free is used")
    ] = 4200,
    schedules: Annotated[bool, typer.Option("--schedules", help="activate schedules")] = False,
) -> None:
    """Start Prefect server and worker on this machine, on loopback, until Ctrl-C."""
    from deployments.up import Platform, serve

    platform = Platform(
        port=port, schedules=schedules, say=lambda s: out.print(_plain(s), highlight=False)
    )

    def ready() -> None:
        out.print(f"ready: [bold]{platform.ui}[/] (Ctrl-C stops it)", highlight=False)

    asyncio.run(serve(platform, ready))
    out.print("stopped")


@app.command()
def run(
    procedure: Annotated[str, typer.Argument(help="e.g. remediate-oom")],
    stack: StackOption = "",
    service: ServiceOption = "",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="key=value; repeat for more")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="plan only")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="approve whatever it plans")] = False,
    approve: Annotated[str, typer.Option(help="approve the plan with this digest")] = "",
    as_json: JsonOption = False,
    local: LocalOption = False,
) -> None:
    """Run a procedure and follow it: 0 passed, 1 failed, 2 usage, 3 blocked or inconclusive."""
    connected = _connect(local)
    from deployments.console import show
    from deployments.running import Request, run_here, run_there

    request = Request.parse(
        procedure, stack, service, parameter or [], dry_run, "yes" if yes else approve
    )
    _need(connected, ", or add --local")
    report = _await(run_here(request) if local else run_there(request, err))
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        show(report, out)
    from flows.report import EXIT_CODES

    sys.exit(EXIT_CODES[report.verdict])


@app.command()
def runs(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 15, as_json: JsonOption = False
) -> None:
    """Recent runs, newest first."""
    _need(_connect())
    from deployments.running import recent

    rows = _await(recent(limit))
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = Table("when (UTC)", "run", "state", "took", "by", box=None, header_style="bold")
    for row in rows:
        table.add_row(*(str(row[k]) for k in ("at", "name", "state", "took", "actor")))
    out.print(table if rows else "no runs yet; try: runbooks scenario play kv-cache-too-small")


@app.command()
def diagnose(
    file: Annotated[str, typer.Argument(help="a log file, or - for standard input")] = "",
    exit_code: Annotated[int | None, typer.Option(help="exit code of the process")] = None,
    oom_killed: Annotated[
        bool, typer.Option("--oom-killed", help="the engine says the kernel killed it for memory")
    ] = False,
    stack: StackOption = "",
    service: ServiceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Name the root cause in a vLLM (or neighbour's) log, with evidence and what to do."""
    from flows.decisions.diagnosis import diagnose as find
    from flows.decisions.diagnosis import explain

    if bool(file) == bool(service):
        _fail("give a log FILE (or -), or --service NAME with --stack")
    if service:
        if not stack:
            _fail("--service needs --stack NAME or FILE.yaml")
        if not stack.endswith((".yaml", ".yml")):
            _need(_connect(), ", or give --stack FILE.yaml")
        from deployments.running import diagnose_service

        found = _await(diagnose_service(stack, service))
    elif file == "-":
        found = find(_chunks(sys.stdin.buffer), exit_code, oom_killed)
    else:
        try:
            with open(file, "rb") as f:
                found = find(_chunks(f), exit_code, oom_killed)
        except OSError as e:
            _fail(f"{file}: {e.strerror}")
    if found.facts.get("no_evidence") and not found.evidence and exit_code is None:
        _fail("the log is empty: nothing to diagnose; with --exit-code N it may still tell")
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    from rich.markdown import Markdown

    out.print(Markdown(explain(found)))


def _chunks(stream: Any) -> Any:
    return iter(lambda: stream.read(1 << 20), b"")


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
    connection.use_this_process()
    from deployments.scenarios import load_all, load_one, play

    chosen = load_all() if name == "all" else [load_one(name)]
    failed = 0
    for scenario in chosen:
        result = _await(play(scenario, keep=keep))
        failed += not result.ok
        if as_json:
            sys.stdout.write(result.model_dump_json(indent=2) + "\n")
            continue
        out.print(
            f"{'[green]ok[/]  ' if result.ok else '[red]FAIL[/]'} {scenario.name}: "
            f"{_plain(result.report.headline)}",
            highlight=False,
        )
        for problem in result.problems:
            out.print(f"     {_plain(problem)}", highlight=False)
    sys.exit(1 if failed else 0)


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="play, then stop everything and exit 0 if it passed")
    ] = False,
) -> None:
    """A vLLM server dies of a KV cache that is too small; watch it being diagnosed and healed."""
    from deployments.demo import tell

    sys.exit(asyncio.run(tell(out, leave=leave)))


if __name__ == "__main__":
    main()
