"""Slack as a block of Prefect, and the plain message: a title and paragraphs."""

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.slack_blocks import BLOCKS_LIMIT, SECTION_LIMIT, header, section
from blocks.slack_client import open_slack
from blocks.slack_spec import SlackSpec

__all__ = ["BLOCKS_LIMIT", "SECTION_LIMIT", "SlackSpec", "SlackWorkspace", "post"]


class SlackWorkspace(SlackSpec, Block):
    """A Slack workspace that receives what the procedures did and what they need a person for."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Slack workspace"
    _block_type_slug = "slack-workspace"
    _description = "Outgoing messages of llm-runbooks. The token is a reference to a secret."


async def post(slack: SlackSpec, title: str, body: str, *, channel: str | None = None) -> str:
    """Post one message; returns its time stamp (`ts`).

    Each part of the body between empty lines is a section of its own. A section over Slack's
    limit of 3,000 characters is cut with a note, and so are sections over its 50 blocks a
    message. `&`, `<` and `>` are escaped: a log line must not mention @channel.

    Raises:
        Transient: Slack or the network did not answer, or said 429 (`retry_after_s`).
        Permanent: the token or the channel is refused.
    """
    client = await open_slack(slack)
    blocks = [header(title), *map(section, _parts(body))]
    return await client.post(channel or slack.channel, blocks, title)


def _parts(body: str) -> list[str]:
    parts = [part for part in body.split("\n\n") if part.strip()] or ["-"]
    room = BLOCKS_LIMIT - 1
    if len(parts) <= room:
        return parts
    return [*parts[: room - 1], f"… and {len(parts) - room + 1} more; see the record"]
