"""Prefect itself, read and repaired through its API: the server, its clock, runs under way."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from blocks.errors import Transient
from blocks.models import Frozen
from blocks.prefect_models import POOL, ActiveRun

_PAGE = 200
_ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


class ServerFacts(Frozen):
    """What a Prefect server says of itself."""

    version: str
    now: datetime
    """Its clock, to the second."""
    skew_s: float
    """This machine's clock minus the server's, seconds; +-1 s is the resolution."""
    lease_storage: str
    """Module that keeps the leases, e.g. `prefect.server.concurrency.lease_storage.filesystem`."""
    lease_folder: str
    """Where it keeps them when that is a folder, on its own machine."""


@asynccontextmanager
async def prefect_client() -> AsyncIterator[PrefectClient]:
    """A client of the server in use, whose errors are ours.

    Raises:
        Transient: the server does not answer, or answers an error.
    """
    try:
        async with get_client() as client:
            yield client
    except httpx.HTTPStatusError as e:
        path = e.request.url.path
        raise Transient(
            f"Prefect answered {e.response.status_code} to {path}; is it the version that "
            "llm-runbooks asks for? pip show prefect"
        ) from e
    except httpx.HTTPError as e:
        raise Transient(
            f"the Prefect server does not answer ({type(e).__name__}); start it: runbooks up"
        ) from e


async def read_server() -> ServerFacts:
    """Version, clock and lease storage of the server.

    Source: `/admin/version`, `/admin/settings`, the Date header. Raises Transient when it does
    not answer.
    """
    async with prefect_client() as client:
        version = await client._client.get("/admin/version")
        version.raise_for_status()
        here = datetime.now(UTC)
        answer = await client._client.get("/admin/settings")
        answer.raise_for_status()
        there = parsedate_to_datetime(version.headers["Date"])
        said = answer.json()
    kept = str(said.get("server", {}).get("concurrency", {}).get("lease_storage") or "")
    return ServerFacts(
        version=str(version.json()),
        now=there,
        skew_s=round((here - there).total_seconds(), 1),
        lease_storage=kept,
        lease_folder=str(Path(said["home"]) / "concurrency_leases") if said.get("home") else "",
    )


async def read_active_runs(stack: str, leave: str = "") -> tuple[ActiveRun, ...]:
    """Runs of this product that have not ended, with their latest heartbeat.

    Args:
        stack: only those on this stack; `*` for every one.
        leave: id of a run to leave out (the caller's own).

    Raises:
        Transient: the server does not answer.
    """
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE)))
    found: list[FlowRun] = []
    async with prefect_client() as client:
        while True:
            page = await client.read_flow_runs(
                flow_run_filter=wanted, limit=_PAGE, offset=len(found)
            )
            found += page
            if len(page) < _PAGE:
                break
        ours = [r for r in found if str(r.id) != leave and _is_ours(r) and _is_on(r, stack)]
        gate = asyncio.Semaphore(8)

        async def read(run: FlowRun) -> ActiveRun:
            async with gate:
                beat = await _last_beat(client, run.id)
            assert run.state is not None and run.state.type is not None  # noqa: S101 - filtered by it
            return ActiveRun.model_validate(
                {
                    "id": str(run.id),
                    "name": run.name,
                    "state": run.state.type.value,
                    "state_id": str(run.state.id),
                    "since": run.state.timestamp,
                    "last_beat": beat,
                }
            )

        return tuple(await asyncio.gather(*map(read, ours)))


def _is_ours(run: FlowRun) -> bool:
    return run.work_pool_name == POOL or any(t.startswith("procedure:") for t in run.tags)


def _is_on(run: FlowRun, stack: str) -> bool:
    return stack == "*" or f"stack:{stack}" in run.tags or run.parameters.get("stack") == stack


async def _last_beat(client: PrefectClient, run_id: UUID) -> datetime | None:
    # By the server's clock: that of the run's host may be wrong by more than a silence.
    page = await client.read_events(
        EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run_id}"]),
            occurred=EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1)),
        ),
        limit=1,
    )
    return page.events[0].received if page.events else None


async def end_run(run: ActiveRun, reason: str) -> bool:
    """Set a run to Crashed if it still is in the very state that was judged; whether it was done.

    Raises:
        Transient: the server does not answer.
    """
    async with prefect_client() as client:
        try:
            now = await client.read_flow_run(UUID(run.id))
            if now.state is None or str(now.state.id) != run.state_id:
                return False
            crashed: State[None] = Crashed(message=reason)
            done = await client.set_flow_run_state(now.id, crashed, force=True)
        except ObjectNotFound:
            return False
    return done.status == SetStateStatus.ACCEPT


async def read_ends(run_ids: Iterable[str]) -> dict[str, datetime | None]:
    """When each of these runs ended; None for one that has not. A deleted one is left out.

    Raises:
        Transient: the server does not answer.
    """
    ends: dict[str, datetime | None] = {}
    async with prefect_client() as client:
        for run_id in set(run_ids):
            try:
                run = await client.read_flow_run(UUID(run_id))
            except ObjectNotFound:
                continue
            over = run.state is not None and run.state.is_final()
            ends[run_id] = run.state.timestamp if over and run.state else None
    return ends
