"""Pings of scheduled procedures, as Prefect hooks: `@flow(..., **dead_man.HOOKS)`.

`start` is asked when a run begins, `success` when it ended green: only `passed` and `planned` are
Completed (`flows.procedure.state_of`). A run that fails, crashes, is killed or never begins asks
nothing, and that silence is the alarm. Only a run that a schedule started pings: one by hand
proves nothing about the schedule.
"""

import asyncio
from typing import Any, Literal

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_logger
from pydantic import ValidationError

from blocks.dead_man import DeadMan, ping
from blocks.errors import RunbookError
from blocks.stack import is_file, read_stack_file
from blocks.stack_blocks import registered

SCHEDULED = "auto-scheduled"
"""Prefect's own tag on the runs that its scheduler makes."""
EVERY = "*"
LOOKUP_S = 15
"""A server that restarts must not hold up the procedure for the sake of a ping."""
Moment = Literal["start", "success"]


async def tell_start(flow: Flow[Any, Any], run: FlowRun, state: State) -> None:
    """Hook `on_running`: say that a scheduled run began."""
    await _tell(flow.name, run, "start")


async def tell_success(flow: Flow[Any, Any], run: FlowRun, state: State) -> None:
    """Hook `on_completion`: say that a scheduled run ended green."""
    await _tell(flow.name, run, "success")


HOOKS: dict[str, Any] = {"on_running": [tell_start], "on_completion": [tell_success]}


async def _tell(procedure: str, run: FlowRun, moment: Moment) -> None:
    """Ask every URL that the run's stacks name; whatever fails is logged, and no more."""
    if SCHEDULED not in (run.tags or ()):
        return
    logger = get_logger("flow_runs").getChild("dead_man")
    try:
        async with asyncio.timeout(LOOKUP_S):
            checks = await checks_of(procedure, str(run.parameters.get("stack", EVERY)))
    except Exception as e:  # noqa: BLE001 - a ping must not stop a procedure
        logger.warning("no dead-man ping: %s: %s", type(e).__name__, str(e)[:200])
        return
    urls = {check.start if moment == "start" else check.success for check in checks.values()}
    for note in filter(None, await asyncio.gather(*(ping(url) for url in sorted(urls)))):
        logger.warning("%s", note)


async def checks_of(procedure: str, stack: str) -> dict[str, DeadMan]:
    """Stack -> its check of this procedure, for the stacks that a run is about and that have one.

    Args:
        procedure: name of the flow.
        stack: registered name, path of an inventory, or * for every registered one.

    Raises:
        Permanent: the inventory file cannot be read.
    """
    if is_file(stack):
        spec = await asyncio.to_thread(read_stack_file, stack)
        return {spec.name: spec.dead_man[procedure]} if procedure in spec.dead_man else {}
    found = {}
    for name, values in (await registered()).items():
        said = (values.get("dead_man") or {}).get(procedure)
        if said and stack in (EVERY, name):
            try:
                found[name] = DeadMan.model_validate(said)
            except (ValidationError, RunbookError):  # edited into nonsense: the others still ping
                get_logger("flow_runs").warning("stack %s: dead_man.%s is no ping", name, procedure)
    return found
