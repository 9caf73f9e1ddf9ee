"""Acting tasks. Never retried: whether an act happened is the journal's business."""

import asyncio
import hashlib
import time
from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.errors import RunbookError
from blocks.models import Frozen, Receipt, ServiceState, Serving
from blocks.target import Target, runtime_of
from tasks.reads import look


@task(name="apply-config", task_run_name="apply to {target.name}", cache_policy=NO_CACHE, retries=0)
async def apply_config(target: Target, receipt: Receipt) -> None:
    """Put `receipt.after` in place and start the service."""
    changes = receipt.before.diff(receipt.after)
    get_run_logger().info("%s: applying %s", target.label, changes)
    await runtime_of(target).act(receipt)


@task(
    name="restore-config", task_run_name="restore {target.name}", cache_policy=NO_CACHE, retries=0
)
async def restore_config(target: Target, receipt: Receipt) -> None:
    """Put `receipt.before` back, with the recorded run state."""
    get_run_logger().info("%s: restoring the recorded config", target.label)
    await runtime_of(target).restore(receipt)


@task(name="keep-config", task_run_name="keep {target.name}", cache_policy=NO_CACHE, retries=0)
async def keep_config(target: Target, receipt: Receipt) -> None:
    """Give up the way back of a verified change."""
    await runtime_of(target).commit(receipt)


class Glimpse(Frozen):
    """One look with what shows whether a loading server still moves."""

    at_s: float
    state: ServiceState
    serving: Serving | None
    log_mark: str


@task(name="watch-service", task_run_name="watch {target.name}", cache_policy=NO_CACHE, retries=0)
async def watch_service(target: Target, decide: Callable[[Glimpse], bool]) -> None:
    """Look again and again until `decide` has seen enough.

    Looks come quickly at first and settle at `policy.poll_s`, so that a fast start is
    noticed fast and a slow one is not hammered.
    """
    began, pause = time.monotonic(), min(0.2, target.service.policy.poll_s)
    while True:
        state, serving = await look(target)
        mark = await _log_mark(target) if serving is None or not serving.reachable else ""
        glimpse = Glimpse(
            at_s=time.monotonic() - began, state=state, serving=serving, log_mark=mark
        )
        if decide(glimpse):
            return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, target.service.policy.poll_s)


async def _log_mark(target: Target) -> str:
    """A digest of the log's end: another value means the server is still moving."""
    try:
        tail = await runtime_of(target).read_log(64 * 1024)
    except RunbookError:
        return ""
    return hashlib.sha256(tail).hexdigest()[:16]
