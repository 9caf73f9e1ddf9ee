"""Commands on the inventory: find it, register it, test it, read this machine."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli_base import (
    JsonOption,
    LocalOption,
    StackOption,
    connect,
    fail,
    need,
    out,
    wait_for,
)


def add_to(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (init, apply, doctor, reading):
        app.command()(command)


def apply(
    file: Annotated[Path, typer.Argument(help="the inventory, e.g. stack.yaml")],
    check: Annotated[bool, typer.Option("--check", help="validate only")] = False,
    local: LocalOption = False,
) -> None:
    """Validate an inventory and register it: blocks, locks, work queues."""
    connected = check or connect(local)
    from blocks.stack import read_stack_file

    spec = read_stack_file(file)
    services = ", ".join(spec.services)
    if check:
        out.print(f"{file}: valid; stack {spec.name}, services {services}", highlight=False)
        return
    need(connected, ", or add --local")
    from deployments.bootstrap import register, set_schedules

    wait_for(register(spec))
    out.print(f"registered stack [bold]{spec.name}[/]: {services}", highlight=False)
    if spec.schedules:
        out.print(f"{wait_for(set_schedules(True))} schedule(s) active")


def init(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="where the inventory is written")
    ] = Path("stack.yaml"),
    host: Annotated[
        str, typer.Option(help="Docker Engine: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")
    ] = "unix:///var/run/docker.sock",
    force: Annotated[bool, typer.Option("--force", help="overwrite an existing file")] = False,
) -> None:
    """Discover what runs on a Docker host and write a commented inventory."""
    from deployments.discover import init_command

    raise typer.Exit(init_command(output, host, force))


def doctor(
    stack: StackOption = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="show what is well too")] = False,
    as_json: JsonOption = False,
) -> None:
    """Test every connection and permission a stack needs, and Prefect's own health."""
    if not stack:
        fail("--stack is missing: a registered name or FILE.yaml")
    connect()
    from deployments.doctor import doctor_command

    raise typer.Exit(doctor_command(stack, as_json=as_json, verbose=verbose))


def reading(
    disk: Annotated[
        list[str] | None, typer.Option("--disk", help="mount point; repeat for more; default /")
    ] = None,
) -> None:
    """Print this machine's readings as JSON: what `hosts: kind: command` asks for over ssh."""
    from deployments.reading import reading as read

    out.print(read(tuple(disk or ("/",))), highlight=False, soft_wrap=True, markup=False)
