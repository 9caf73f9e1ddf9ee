"""Observing tasks: read-only, retried when transient, never cached."""

import asyncio
from datetime import datetime
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.errors import RunbookError, Transient
from blocks.models import Frozen, ServiceState, Serving, ServingConfig
from blocks.target import Target, answers, runtime_of


async def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Retry only what may pass by itself."""
    try:
        await state.result()
    except Transient:
        return True
    except BaseException:  # noqa: BLE001 - the class decides, whatever it is
        return False
    return False


class Observation(Frozen):
    """One look at a service: state, config as written, and what the server answers."""

    state: ServiceState
    config: ServingConfig
    serving: Serving | None


async def look(target: Target) -> tuple[ServiceState, Serving | None]:
    """State and answers of one service, now. An engine that does not answer is `unknown`."""
    try:
        state = await runtime_of(target).state()
    except RunbookError as e:
        state = ServiceState(phase="unknown", detail=str(e))
    if state.phase in ("exited", "missing"):
        return state, None
    return state, await answers(target)


@task(
    name="read-service",
    task_run_name="read {target.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 3],
    timeout_seconds=120,
    retry_condition_fn=is_transient,
)
async def read_service(target: Target) -> Observation:
    """State, serving config and answers of one service.

    Raises:
        Transient: the engine does not answer. Permanent: no such container or file.
    """
    config, (state, serving) = await asyncio.gather(runtime_of(target).read_config(), look(target))
    get_run_logger().info(
        "%s: %s, max_model_len %s, %s",
        target.label,
        state.phase,
        config.max_model_len,
        (serving.problem or "decoding") if serving else "not asked",
    )
    return Observation(state=state, config=config, serving=serving)


@task(
    name="read-log",
    task_run_name="read log of {target.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 3],
    timeout_seconds=120,
    retry_condition_fn=is_transient,
)
async def read_log(target: Target, since: datetime | None = None) -> bytes:
    """The last 4 MiB of the log of the latest start; with `since`, of all since then."""
    return await runtime_of(target).read_log(since=since)
