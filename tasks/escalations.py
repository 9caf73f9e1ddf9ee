"""Calling people: a run of escalate-incident, started once for an incident or a failed run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from blocks.errors import Permanent, Transient
from blocks.incidents import incident_of, read_incident

ESCALATE = "escalate-incident"
FOLLOWERS = 100
"""How many runs may follow each other for one key, each after the one before has ended."""
REFUSED = (400, 404, 405, 409, 413, 422)
"""Answers that a repetition does not change."""


@task(
    name="start-escalation",
    task_run_name="call a person for {service}",
    cache_policy=NO_CACHE,
    retries=0,
)
async def start_escalation(
    stack: str, service: str, severity: str, title: str, key: str, options: dict[str, Any]
) -> str:
    """`begin_escalation` as a task; who calls it tries again."""
    return await begin_escalation(stack, service, severity, title, key, options)


async def begin_escalation(
    stack: str, service: str, severity: str, title: str, key: str, options: dict[str, Any]
) -> str:
    """Start the escalation, unless one goes on for this key and severity; the id of its run.

    A service that went down twice in one incident calls its people once. A run that has ended
    (killed, or nobody answered) is followed by another one, as long as the incident is neither
    acknowledged nor over. Safe at any time, and from several processes at once.

    Args:
        stack: of the service.
        service: what is wrong with whom.
        severity: P0 to P3.
        title: one line; over 300 characters it is cut.
        key: the incident, or the run that failed.
        options: of the new run, `incident` included where there is one.

    Raises:
        Transient: the Prefect server does not answer, or is busy.
        Permanent: escalate-incident is not deployed, or the server refuses its parameters.
    """
    known = f"escalate:{key}:{severity}"
    wanted: dict[str, Any] = {"stack": stack, "service": service, "severity": severity}
    wanted |= {"title": title[:300] or ESCALATE, "options": options}
    tags = [f"procedure:{ESCALATE}", f"stack:{stack}", f"service:{service}"]
    async with _errors(), get_client() as client:
        deployment = await client.read_deployment_by_name(f"{ESCALATE}/{ESCALATE}")
        run = await _create(client, deployment.id, wanted, known, tags)
        for _ in range(FOLLOWERS):
            if run.state is None or not run.state.is_final():
                break
            incident = options.get("incident") or incident_of(str(run.id))
            found = await read_incident(incident)
            if found and (found.acknowledged or found.ended):
                break
            # Its incident goes on, so that nobody is told twice of what a killed run told.
            options = options | {"incident": incident}
            wanted |= {"options": options}
            run = await _create(client, deployment.id, wanted, f"{known}:{run.id}", tags)
    return str(run.id)


async def resume_escalation(run_id: str) -> str:
    """Follow a run of escalate-incident that died; the id of the run that goes on.

    For whoever finds it dead (sweep-runs). One that did not crash is left alone, and so is a dry
    run. Raises as `begin_escalation`; Permanent too where the run is none of escalate-incident.
    """
    async with _errors(), get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
    given = run.parameters
    options = dict(given.get("options") or {})
    if f"procedure:{ESCALATE}" not in run.tags or not {"stack", "service"} <= set(given):
        raise Permanent(f"run {run_id[:8]} is none of {ESCALATE}")
    if run.state is None or not run.state.is_crashed() or options.get("dry_run"):
        return run_id
    options["incident"] = options.get("incident") or incident_of(run_id)
    found = await _incident(str(options["incident"]))
    if found and (found.acknowledged or found.ended):
        return run_id
    return await begin_escalation(
        given["stack"],
        given["service"],
        given["severity"],
        given["title"],
        options["incident"],
        options,
    )


async def _incident(incident: str) -> Any:
    async with _errors():
        return await read_incident(incident)


async def _create(
    client: PrefectClient, deployment: UUID, parameters: dict[str, Any], key: str, tags: list[str]
) -> FlowRun:
    """A run; the one that was made with this key before, as it is now."""
    return await client.create_flow_run_from_deployment(
        deployment, parameters=parameters, idempotency_key=key, tags=tags
    )


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """The errors of Prefect's client as ours."""
    try:
        yield
    except ObjectNotFound as e:
        raise Permanent(f"{ESCALATE} is not deployed; restart `runbooks up`") from e
    except PrefectHTTPStatusError as e:
        code = e.response.status_code
        kind = Permanent if code in REFUSED else Transient
        raise kind(f"the Prefect server answers {code} to a run of {ESCALATE}") from e
    except (httpx.HTTPError, OSError) as e:
        raise Transient(f"the Prefect server does not answer ({type(e).__name__})") from e
    except RuntimeError as e:
        if "Failed to reach API" not in str(e):
            raise
        raise Transient("the Prefect server does not answer") from e
