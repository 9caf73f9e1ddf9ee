"""The `runbooks` command. Prefect is imported only by the commands that need it."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from blocks.errors import RunbookError
from deployments import cli_approval, cli_incident, cli_inventory
from deployments.cli_audit import audit
from deployments.cli_base import (
    JsonOption,
    LocalOption,
    ServiceOption,
    StackOption,
    connect,
    err,
    fail,
    need,
    out,
    plain,
    wait_for,
)
from deployments.cli_scenarios import scenarios

app = typer.Typer(
    name="runbooks",
    help="Operations handbooks of LLM platforms as Prefect flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli_inventory.add_to(app)
cli_approval.add_to(app)
cli_incident.add_to(app)
app.add_typer(scenarios, name="scenario")
app.add_typer(audit, name="audit")


def main() -> None:
    """Entry point: errors of ours are one line, never a traceback."""
    try:
        app()
    except RunbookError as e:
        fail(str(e))
    except (KeyboardInterrupt, asyncio.CancelledError) as e:
        # The lifecycle has put back what it had begun; a worker's run goes on by itself.
        fail("interrupted", 130 if isinstance(e, KeyboardInterrupt) else 143)


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="preferred port of the UI; the next free is used")
    ] = 4200,
    schedules: Annotated[bool, typer.Option("--schedules", help="activate schedules")] = False,
    gateway_host: Annotated[
        str,
        typer.Option(
            help="address the gateway listens on; with 0.0.0.0 let others reach its /alerts and "
            "/slack only, through a TLS proxy or a firewall"
        ),
    ] = "127.0.0.1",
    gateway_port: Annotated[
        int, typer.Option(help="preferred port of the gateway; the next free is used")
    ] = 4300,
) -> None:
    """Start Prefect server, worker and gateway on this machine, on loopback, until Ctrl-C."""
    from deployments.up import Platform, serve

    platform = Platform(
        port=port,
        schedules=schedules,
        say=lambda s: out.print(plain(s), highlight=False),
        gateway=(gateway_host, gateway_port),
    )

    def ready() -> None:
        out.print(f"ready: [bold]{platform.ui}[/] (Ctrl-C stops it)", highlight=False)
        out.print(f"alerts and Slack: {platform.gateway}", highlight=False)

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
    wait: Annotated[
        bool, typer.Option("--wait", help="where it needs approval, wait for somebody's")
    ] = False,
    as_json: JsonOption = False,
    local: LocalOption = False,
) -> None:
    """Run a procedure and follow it: 0 passed, 1 failed, 2 usage, 3 blocked or inconclusive."""
    connected = connect(local)
    from deployments.console import show
    from deployments.running import Request, run_here, run_there

    request = Request.parse(
        procedure, stack, service, parameter or [], dry_run, "yes" if yes else approve
    )
    request = request.waiting(wait)
    need(connected, ", or add --local")
    report = wait_for(run_here(request) if local else run_there(request, err))
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
    need(connect())
    from deployments.running import recent

    rows = wait_for(recent(limit))
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
        fail("give a log FILE (or -), or --service NAME with --stack")
    if service:
        if not stack:
            fail("--service needs --stack NAME or FILE.yaml")
        if not stack.endswith((".yaml", ".yml")):
            need(connect(), ", or give --stack FILE.yaml")
        from deployments.running import diagnose_service

        found = wait_for(diagnose_service(stack, service))
    elif file == "-":
        found = find(_chunks(sys.stdin.buffer), exit_code, oom_killed)
    else:
        try:
            with open(file, "rb") as f:
                found = find(_chunks(f), exit_code, oom_killed)
        except OSError as e:
            fail(f"{file}: {e.strerror}")
    if found.facts.get("no_evidence") and not found.evidence and exit_code is None:
        fail("the log is empty: nothing to diagnose; with --exit-code N it may still tell")
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    from rich.markdown import Markdown

    out.print(Markdown(explain(found)))


def _chunks(stream: Any) -> Any:
    return iter(lambda: stream.read(1 << 20), b"")


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
