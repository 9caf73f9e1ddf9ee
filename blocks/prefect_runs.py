"""Ended runs of this product, in the order of their ends, a page at a time."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterEndTime,
)
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort

from blocks.audit_models import Data, EndedRun, StateChange
from blocks.prefect_health import prefect_client

PAGE = 50
"""Runs that are held at once."""
TAG = "procedure:"
_INSTANT = timedelta(milliseconds=1)
_AT_ONCE, _ARTIFACTS = 4, 100


async def ended_runs(since: datetime, until: datetime) -> AsyncIterator[list[EndedRun]]:
    """Runs with a tag `procedure:*` that ended in this time, by the end, at most a page at once.

    The server cannot sort by the end upwards: the time is halved until a part of it fits a
    page, so that nothing grows with the number of runs. Source: `/flow_runs/filter`, `/count`.

    Raises:
        Transient: the server does not answer.
    """
    async with prefect_client() as client:
        parts = [(since, until)]
        while parts:
            begin, end = parts.pop()
            count = await client.count_flow_runs(flow_run_filter=_between(begin, end))
            if count > PAGE and end - begin > _INSTANT:
                middle = begin + (end - begin) / 2
                # Both ends belong to a part: the halves must not share one.
                parts += [(middle + timedelta(microseconds=1), end), (begin, middle)]
                continue
            async for page in _pages(client, begin, end, count):
                yield page


def _between(begin: datetime, end: datetime) -> FlowRunFilter:
    return FlowRunFilter(end_time=FlowRunFilterEndTime(after_=begin, before_=end))


async def _pages(
    client: PrefectClient, begin: datetime, end: datetime, count: int
) -> AsyncIterator[list[EndedRun]]:
    """The runs of a part of time; more than a page only where all ended in one instant."""
    for offset in range(0, count, PAGE):
        runs = await client.read_flow_runs(
            flow_run_filter=_between(begin, end),
            sort=FlowRunSort.ID_DESC,  # of one instant too, page by page
            limit=PAGE,
            offset=offset,
        )
        ours = [r for r in runs if r.end_time and r.state and _procedure(r)]
        ours.sort(key=lambda r: (r.end_time, str(r.id)))
        if ours:
            yield await _whole(client, ours)


async def _whole(client: PrefectClient, runs: list[FlowRun]) -> list[EndedRun]:
    gate, data = asyncio.Semaphore(_AT_ONCE), await _data(client, runs)

    async def one(run: FlowRun) -> EndedRun:
        async with gate:
            states = await client.read_flow_run_states(run.id)
        return _read(run, states, data.get(run.id, []))

    return list(await asyncio.gather(*map(one, runs)))


async def _data(client: PrefectClient, runs: list[FlowRun]) -> dict[UUID, list[Data]]:
    """What the procedures of a page reported; a run has one, or one for each platform."""
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[r.id for r in runs]),
        type=ArtifactFilterType(any_=["result"]),
    )
    found = list[Artifact]()
    while True:
        page = await client.read_artifacts(
            artifact_filter=wanted,
            sort=ArtifactSort.ID_DESC,
            limit=_ARTIFACTS,
            offset=len(found),
        )
        found += page
        if len(page) < _ARTIFACTS:
            break
    data: dict[UUID, list[Data]] = {}
    for one in sorted(found, key=lambda a: str(a.created)):
        if one.flow_run_id and str(one.key or "").endswith("-data"):
            made = Data(id=str(one.id), key=str(one.key), data=_value(one.data))
            data.setdefault(one.flow_run_id, []).append(made)
    return data


def _value(data: Any) -> Any:
    """The server hands JSON data back as its text."""
    try:
        return json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return data


def _read(run: FlowRun, states: list[State[Any]], data: list[Data]) -> EndedRun:
    assert run.end_time is not None and run.state is not None  # noqa: S101 - filtered by it
    return EndedRun(
        id=str(run.id),
        name=run.name,
        procedure=_procedure(run),
        tags=tuple(sorted(run.tags)),
        parameters=dict(run.parameters),
        created=run.created,
        started=run.start_time,
        ended=run.end_time,
        states=tuple(
            StateChange(
                id=str(s.id),
                type=s.type.value,
                name=str(s.name),
                at=s.timestamp,
                message=(s.message or "")[:1000],
            )
            for s in states or [run.state]
        ),
        data=tuple(data),
    )


def _procedure(run: FlowRun) -> str:
    return next((t.removeprefix(TAG) for t in sorted(run.tags) if t.startswith(TAG)), "")


async def last_end(tag: str, state: str) -> datetime | None:
    """When a run with this tag last ended in a state of this name; None when none did.

    Raises:
        Transient: the server does not answer.
    """
    body = {
        "flow_runs": {"tags": {"all_": [tag]}, "state": {"name": {"any_": [state]}}},
        "sort": "END_TIME_DESC",
        "limit": 1,
    }
    async with prefect_client() as client:
        answer = await client._client.post("/flow_runs/filter", json=body)
        answer.raise_for_status()
        found = answer.json()
    return datetime.fromisoformat(found[0]["end_time"]) if found and found[0]["end_time"] else None
