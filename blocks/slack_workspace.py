"""Slack, outgoing messages only: the token is a reference, the channel comes from the stack."""

import asyncio

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from slack_sdk.web import WebClient

from blocks.errors import Permanent, Transient
from blocks.models import Frozen
from blocks.secrets import SecretRef, resolve

SECTION_LIMIT = 3000
"""Characters of one section's text (Slack: Block Kit, section)."""


class SlackSpec(Frozen):
    """Where messages go."""

    token: SecretRef
    channel: str = Field(min_length=1, description="channel id or name, e.g. #llm-platform-alerts")
    api_url: str = "https://slack.com/api/"
    timeout_s: int = Field(default=10, gt=0, le=60)


class SlackWorkspace(SlackSpec, Block):
    """A Slack workspace that receives what the procedures did and what they need a person for."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Slack workspace"
    _block_type_slug = "slack-workspace"
    _description = "Outgoing messages of llm-runbooks. The token is a reference to a secret."


async def post(slack: SlackSpec, title: str, body: str, *, channel: str | None = None) -> str:
    """Post one message; returns its time stamp (`ts`).

    Text over Slack's limit of 3,000 characters a section is cut with a note.

    Raises:
        Transient: Slack or the network did not answer, or said 429 after one retry.
        Permanent: the token or the channel is refused.
    """
    text = (
        body
        if len(body) <= SECTION_LIMIT
        else body[: SECTION_LIMIT - 30] + "\n… (cut; see the record)"
    )
    client = WebClient(
        token=(await resolve(slack.token)).get_secret_value(),
        base_url=slack.api_url,
        timeout=slack.timeout_s,
        retry_handlers=[RateLimitErrorRetryHandler(max_retry_count=1)],
    )
    where = channel or slack.channel
    try:
        answer = await asyncio.to_thread(
            client.chat_postMessage,
            channel=where,
            text=title,
            blocks=[
                {"type": "header", "text": {"type": "plain_text", "text": title[:150]}},
                {"type": "section", "text": {"type": "mrkdwn", "text": text or "-"}},
            ],
        )
    except SlackApiError as e:
        code = str(e.response.get("error", "unknown"))
        message = f"Slack refused the message to {where}: {code}"
        if e.response.status_code == 429 or e.response.status_code >= 500:
            raise Transient(message) from e
        raise Permanent(message + "; check the token's scopes and invite the app") from e
    except (OSError, TimeoutError) as e:
        raise Transient(f"Slack does not answer: {type(e).__name__}") from e
    return str(answer["ts"])
