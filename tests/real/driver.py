"""Runs one procedure and dies at a chosen point, as kill -9 does.

`child` is its entry point in a forked process.
"""

import asyncio
import json
import os
import signal
from typing import Any, NoReturn


def die(*_: Any, **__: Any) -> NoReturn:
    """What nothing catches."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def before(owner: Any, name: str, number: int = 1) -> None:
    """Die when `owner.name` is called for the `number`-th time."""
    original, calls = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            die()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, number: int = 1) -> None:
    """Die when the `number`-th call of the synchronous `owner.name` has returned."""
    original, calls = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(1)
        if len(calls) == number:
            die()
        return result

    setattr(owner, name, wrapped)


def after_write(number: int) -> None:
    """Die when the engine has carried out our write `number` (from 0)."""
    from blocks.docker_host import Engine

    original, calls = Engine.call, []

    def call(self: Any, what: str, target: Any, work: Any, patience: Any = 1) -> Any:
        result = original(self, what, target, work, patience)
        if what in ("create", "connect", "disconnect", "update", "stop", "rename", "start"):
            if len(calls) == number:
                die()
            calls.append(what)
        return result

    Engine.call = call  # type: ignore[method-assign]


def arm(point: str) -> None:
    """Patch the chosen point."""
    from blocks import command_runtime, docker_recreate
    from blocks.journal import Journal
    from flows import lifecycle

    kind, _, number = point.partition(":")
    if kind == "write":
        after_write(int(number))
    elif kind == "undo-write":
        # Armed by the undo itself: its own writes are counted.
        original = lifecycle._undo

        def undo(*args: Any, **kwargs: Any) -> Any:
            after_write(int(number))
            return original(*args, **kwargs)

        lifecycle._undo = undo
    else:
        {
            "before-begin": lambda: before(Journal, "begin"),
            "after-begin": lambda: after(Journal, "begin"),
            "file-edited": lambda: after(command_runtime, "edit_file"),
            "restarted": lambda: before(lifecycle, "verify"),
            "verifying": _verifying,
            "verified": lambda: after(Journal, "advance"),
            "committed": lambda: before(Journal, "finish"),
            "recorded": lambda: after(Journal, "record"),
            "undoing": lambda: before(lifecycle, "_undo"),
            "file-restored": lambda: after(command_runtime, "restore_file"),
            "undone": lambda: before(Journal, "finish"),
            "removing": lambda: before(docker_recreate, "commit"),
        }[kind]()


def _verifying() -> None:
    from flows.verify import Verifier

    before(Verifier, "saw_enough", 2)


async def main(point: str, procedure: str, stack: str, service: str, more: str) -> None:
    """Run the flow with the point armed."""
    from deployments.running import load_flow
    from flows.report import Options

    flow = load_flow(procedure)
    if point != "never":
        arm(point)
    options = Options(actor="driver", source="cli")
    await flow(stack=stack, service=service, options=options, **json.loads(more), return_state=True)


def child(
    environment: dict[str, str], point: str, procedure: str, stack: str, service: str, more: str
) -> None:
    """Entry point in a forked process; the Prefect settings were read before the fork."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_HOME,
        temporary_settings,
    )

    os.environ.update(environment)
    with temporary_settings(
        {
            PREFECT_API_URL: environment["PREFECT_API_URL"],
            PREFECT_HOME: environment["PREFECT_HOME"],
            PREFECT_CLIENT_MAX_RETRIES: int(environment["PREFECT_CLIENT_MAX_RETRIES"]),
        }
    ):
        asyncio.run(main(point, procedure, stack, service, more))
