"""What every command of `runbooks` shares: its output, its errors, its connection."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from deployments import connection

T = TypeVar("T")
out, err = Console(), Console(stderr=True)

USAGE, NOT_DONE = 2, 3


def fail(message: str, code: int = USAGE) -> NoReturn:
    """End with one line on standard error."""
    err.print(f"[red]error:[/] {plain(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def plain(text: str) -> str:
    """Text that rich must not read as markup."""
    return text.replace("[", r"\[")


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(coroutine)


def connect(local: bool = False) -> bool:
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


def need(connected: bool, otherwise: str = "") -> None:
    """End here when no server answers; `otherwise` says what else would do."""
    if not connected:
        fail(f"no server answers: start one with `runbooks up`{otherwise}", NOT_DONE)


StackOption = Annotated[str, typer.Option("--stack", help="registered name, or FILE.yaml")]
ServiceOption = Annotated[str, typer.Option("--service", help="service in the stack")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]
LocalOption = Annotated[
    bool, typer.Option("--local", help="in this process, without a running server")
]
