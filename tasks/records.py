"""Records: artifact, event, Slack message. A failing record never changes the verdict."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prefect import task
from prefect.artifacts import Artifact, MarkdownArtifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from blocks.slack_blocks import Block
from blocks.slack_card import CardRef, show
from blocks.slack_client import open_slack
from blocks.slack_workspace import SlackSpec, post

RECORD_S = 60
"""A server that restarts takes seconds; one that stays away must not hold the run for long."""


async def attempted(what: str, act: Callable[[], Awaitable[Any]]) -> str:
    """Try one way of recording; returns an empty string, or what went wrong."""
    try:
        await asyncio.wait_for(act(), RECORD_S)
    except Exception as e:  # noqa: BLE001 - whatever fails, the verdict stands
        problem = f"{what} could not be published: {type(e).__name__}: {str(e)[:200]}"
        get_run_logger().error(problem)
        return problem
    return ""


@task(
    name="publish-artifact",
    task_run_name="publish {key}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=1,
)
async def publish_artifact(key: str, data: str | dict[str, Any], description: str) -> None:
    """One artifact of the run: a text becomes a markdown page, anything else JSON data."""
    short = description[:2000]
    artifact = (
        # A plain Artifact would show the page as one JSON string, escapes and all.
        MarkdownArtifact(key=key, markdown=data, description=short)
        if isinstance(data, str)
        else Artifact(key=key, type="result", data=data, description=short)
    )
    await artifact.create()  # type: ignore[misc]


@task(
    name="publish-slack",
    task_run_name="tell Slack",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_slack(slack: SlackSpec, title: str, body: str, channel: str | None) -> None:
    """One message to people."""
    await post(slack, title, body, channel=channel)


@task(
    name="publish-card",
    task_run_name="show card {key} in Slack",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_card(
    slack: SlackSpec, key: str, blocks: list[Block], text: str, channel: str | None = None
) -> CardRef:
    """Create or update the one message of an incident or run; where it is.

    Raises Transient when Slack does not answer, Permanent when it refuses.
    """
    return await show(slack, key, blocks, text, channel)


@task(
    name="publish-file",
    task_run_name="put {filename} into Slack",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_file(
    slack: SlackSpec, ref: CardRef, filename: str, content: bytes, title: str
) -> None:
    """Put a file (a chart, a report) into a card's thread. Raises as `publish_card`."""
    await (await open_slack(slack)).upload(ref.channel, ref.ts, filename, content, title)


async def publish_event(name: str, resource_id: str, payload: dict[str, Any]) -> None:
    """One Prefect event about a service."""
    emit_event(event=name, resource={"prefect.resource.id": resource_id}, payload=payload)
