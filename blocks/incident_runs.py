"""The procedure runs of one incident, as the Prefect server has them."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun

from blocks.models import Frozen
from blocks.prefect_health import prefect_client

_MOST = 100
_BEFORE = timedelta(minutes=1)
"""Clocks differ: a run of the incident may seem to have been asked for before it opened."""


class IncidentRun(Frozen):
    """One run and the record it left."""

    id: str
    procedure: str
    at: datetime
    """Its start; where it has not started, when it should."""
    ended_at: datetime | None = None
    record: dict[str, Any] | None = None
    """The data artifact of its report; None: it left none, or not yet."""


async def read_incident_runs(
    incident: str, stack: str, service: str, since: datetime, leave: str = ""
) -> tuple[IncidentRun, ...]:
    """Runs that belong to an incident: by their tag, or by their options; the oldest first.

    Args:
        incident: its id.
        stack: of the incident.
        service: of the incident; `*`: any.
        since: when it opened.
        leave: a procedure to leave out (the caller's own).

    Raises:
        Transient: the server does not answer.
    """
    wide = [f"stack:{stack}", *([f"service:{service}"] if service != "*" else [])]
    begun = FlowRunFilterExpectedStartTime(after_=since - _BEFORE)
    found: dict[UUID, FlowRun] = {}
    async with prefect_client() as client:
        for tags, when in (([f"incident:{incident}"], None), (wide, begun)):
            wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=tags), expected_start_time=when)
            page = await client.read_flow_runs(flow_run_filter=wanted, limit=_MOST)
            found |= {r.id: r for r in page if _belongs(r, incident)}
        kept = [r for r in found.values() if _procedure(r) not in ("", leave)]
        records = await _records(client, [r.id for r in kept])
    runs = [
        IncidentRun(
            id=str(r.id),
            procedure=_procedure(r),
            at=r.start_time or r.expected_start_time or since,
            ended_at=r.end_time,
            record=records.get(r.id),
        )
        for r in kept
    ]
    return tuple(sorted(runs, key=lambda run: (run.at, run.id)))


def _belongs(run: FlowRun, incident: str) -> bool:
    options = run.parameters.get("options")
    named = options.get("incident") if isinstance(options, dict) else None
    return f"incident:{incident}" in run.tags or named == incident


def _procedure(run: FlowRun) -> str:
    return next((t.split(":", 1)[1] for t in run.tags if t.startswith("procedure:")), "")


async def _records(client: PrefectClient, runs: list[UUID]) -> dict[UUID, dict[str, Any]]:
    """The latest data artifact of each run."""
    if not runs:
        return {}
    found = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=runs),
            type=ArtifactFilterType(any_=["result"]),
        )
    )
    ours = [a for a in found if str(a.key or "").endswith("-data") and a.flow_run_id]
    records: dict[UUID, dict[str, Any]] = {}
    for artifact in sorted(ours, key=lambda a: str(a.created)):
        # The server hands JSON data back as its text.
        data = artifact.data
        try:
            value = json.loads(data) if isinstance(data, str) else data
        except ValueError:
            continue
        if isinstance(value, dict) and artifact.flow_run_id:
            records[artifact.flow_run_id] = value
    return records
