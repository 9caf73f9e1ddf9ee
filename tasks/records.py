"""Records: artifact, event, Slack message. A failing record never changes the verdict."""

from collections.abc import Awaitable, Callable
from typing import Any

from prefect import task
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from blocks.slack_workspace import SlackSpec, post


async def attempted(what: str, act: Callable[[], Awaitable[Any]]) -> str:
    """Try one way of recording; returns an empty string, or what went wrong."""
    try:
        await act()
    except Exception as e:  # noqa: BLE001 - whatever fails, the verdict stands
        problem = f"{what} could not be published: {type(e).__name__}: {str(e)[:200]}"
        get_run_logger().error(problem)
        return problem
    return ""


@task(name="publish-artifact", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
async def publish_artifact(
    key: str, kind: str, data: str | dict[str, Any], description: str
) -> None:
    """One artifact of the run; `kind` is markdown or result (JSON)."""
    await Artifact(key=key, type=kind, data=data, description=description[:2000]).create()  # type: ignore[misc]


@task(name="publish-slack", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2)
async def publish_slack(slack: SlackSpec, title: str, body: str, channel: str | None) -> None:
    """One message to people."""
    await post(slack, title, body, channel=channel)


async def publish_event(name: str, resource_id: str, payload: dict[str, Any]) -> None:
    """One Prefect event about a service."""
    emit_event(event=name, resource={"prefect.resource.id": resource_id}, payload=payload)
