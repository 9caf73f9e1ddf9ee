"""Start a run on the Prefect server, once for each key."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.errors import Permanent, Transient
from deployments.nudge import nudge

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Between tries while the server is busy or restarts; longer is the caller's business."""
OURS_TO_MEND = (400, 404, 405, 409, 413, 422)
"""Answers that a repetition does not change. Not 401 and 403: those are the server's settings."""
UNFINISHED = [
    StateType.SCHEDULED,
    StateType.PENDING,
    StateType.RUNNING,
    StateType.PAUSED,
    StateType.CANCELLING,
]
TEMPLATE = "__prefect_kind"
"""Begins a template that the server would fill in, from its variables."""


@asynccontextmanager
async def prefect_errors(what: str) -> AsyncIterator[None]:
    """Turn the errors of Prefect's client into ours.

    Raises:
        Transient: the server does not answer, is busy, or refuses our key.
        Permanent: it refuses what was asked for.
    """
    try:
        yield
    except PrefectHTTPStatusError as e:
        code = e.response.status_code
        if code not in OURS_TO_MEND:
            raise Transient(f"{what}: the Prefect server answers {code}") from e
        raise Permanent(f"{what}: the Prefect server refuses it ({code}): {_detail(e)}") from e
    except ObjectNotFound as e:
        raise Permanent(f"{what}: the Prefect server does not know it") from e
    except (httpx.HTTPError, OSError) as e:
        raise Transient(f"{what}: the Prefect server does not answer ({type(e).__name__})") from e
    except RuntimeError as e:
        if "Failed to reach API" in str(e):  # Prefect's check of the server's version
            raise Transient(f"{what}: the Prefect server does not answer") from e
        raise


def _detail(error: PrefectHTTPStatusError) -> str:
    try:
        said = error.response.json()
        return str(said.get("detail") or said.get("exception_detail") or said)[:300]
    except (ValueError, AttributeError):
        return "no reason given"


async def start_run(
    procedure: str,
    parameters: dict[str, Any],
    *,
    key: str,
    queue: str | None,
    tags: Iterable[str],
) -> tuple[str, bool]:
    """Start a deployed procedure; with a key that was used before, nothing is started again.

    Args:
        procedure: name of the flow and of its deployment.
        parameters: of the run; `service` is left out where the procedure has none.
        key: of this wish: two runs of one procedure never have the same.
        queue: work queue of the host that can reach the service; None: the deployment's.
        tags: of the run; the deployment's are added.

    Returns:
        The id of the run, and whether this call made it.

    Raises:
        Transient: the Prefect server did not answer, several times.
        Permanent: it is not deployed, or its parameters are refused.
    """
    if _has_template(parameters):
        raise Permanent(f"{procedure}: a parameter holds {TEMPLATE!r}; give plain values")
    tagged = sorted(set(tags))
    for pause in (*PAUSES_S, None):
        try:
            # Prefect's client would sleep 2 s and more when its database is busy.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                run_id, created = await _create(procedure, parameters, key, queue, tagged)
            break
        except Transient:
            if pause is None:
                raise
            await asyncio.sleep(pause)
    if created:
        await asyncio.to_thread(nudge)
    return run_id, created


def _has_template(value: Any) -> bool:
    if isinstance(value, dict):
        return TEMPLATE in value or any(map(_has_template, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_template, value))


async def _create(
    procedure: str, parameters: dict[str, Any], key: str, queue: str | None, tags: list[str]
) -> tuple[str, bool]:
    async with prefect_errors(f"the run of {procedure}"), get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(f"{procedure}/{procedure}")
        except ObjectNotFound as e:
            raise Permanent(f"{procedure} is not deployed; restart `runbooks up`") from e
        takes = (deployment.parameter_openapi_schema or {}).get("properties", {})
        body: dict[str, Any] = {
            "parameters": {k: v for k, v in parameters.items() if k != "service" or k in takes},
            "idempotency_key": key,
            "tags": tags,
        }
        if queue:
            body["work_queue_name"] = queue
        answer = await client._client.post(
            f"/deployments/{deployment.id}/create_flow_run", json=body
        )
    return str(answer.json()["id"]), answer.status_code == 201


async def run_with(key: str) -> str:
    """The id of the run that was made with a key; empty when there is none.

    Raises:
        Transient: the Prefect server does not answer.
    """
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    async with prefect_errors("runs"), get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=wanted, limit=1)
    return str(found[0].id) if found else ""


async def unfinished(procedure: str, stack: str, service: str) -> str:
    """The id of a run of this procedure on this service that has not ended; empty: none.

    Raises:
        Transient: the Prefect server does not answer.
    """
    tags = [f"procedure:{procedure}", f"stack:{stack}", f"service:{service}"]
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=tags),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
    )
    async with prefect_errors("runs"), get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=wanted, limit=1)
    return str(found[0].id) if found else ""


async def answers() -> bool:
    """Whether the Prefect server says now that it is well."""
    try:
        async with get_client() as client:
            (await client._client.get("/health", timeout=5)).raise_for_status()
    except (httpx.HTTPError, OSError, RuntimeError):
        return False
    return True
