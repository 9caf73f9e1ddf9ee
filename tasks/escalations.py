"""Calling people: a run of escalate-incident, started once for an incident or a failed run."""

from typing import Any

from prefect import get_client, task
from prefect.cache_policies import NO_CACHE

ESCALATE = "escalate-incident"


@task(
    name="start-escalation",
    task_run_name="call a person for {service}",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[1, 2, 5],
)
async def start_escalation(
    stack: str, service: str, severity: str, title: str, key: str, options: dict[str, Any]
) -> str:
    """Start the escalation, unless it was started with this key before; the id of its run.

    A service that went down twice in one incident calls its people once.

    Args:
        stack: of the service.
        service: what is wrong with whom.
        severity: P0 to P3.
        title: one line, at most 300 characters.
        key: the incident, or the run that failed.
        options: of the new run.
    """
    parameters: dict[str, Any] = {"stack": stack, "service": service, "severity": severity}
    tags = [f"procedure:{ESCALATE}", f"stack:{stack}", f"service:{service}"]
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(f"{ESCALATE}/{ESCALATE}")
        run = await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={**parameters, "title": title[:300], "options": options},
            idempotency_key=f"escalate:{key}",
            tags=tags,
        )
    return str(run.id)
