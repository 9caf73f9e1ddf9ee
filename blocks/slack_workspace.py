"""Slack, outgoing messages only: the token is a reference, the channel comes from the stack."""

import asyncio
import re
from http.client import HTTPException
from typing import Any

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient

from blocks.errors import Permanent, Transient
from blocks.models import Frozen
from blocks.secret_ref import SecretRef, resolve

SECTION_LIMIT = 3000
"""Characters of one section's text (Slack: Block Kit, section)."""
BLOCKS_LIMIT = 50
"""Blocks of one message, the header among them."""


class SlackSpec(Frozen):
    """Where messages go."""

    token: SecretRef = Field(description="reference to the bot token (scope chat:write)")
    channel: str = Field(min_length=1, description="channel id or name, e.g. #llm-platform-alerts")
    api_url: str = Field(
        default="https://slack.com/api/",
        pattern=r"^https?://",
        description="another address than Slack's own, for a proxy or a test",
    )
    timeout_s: int = Field(default=10, gt=0, le=60, description="of one message, seconds")


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
    message. `<` and `&` are escaped: a log line must not mention @channel.

    Raises:
        Transient: Slack or the network did not answer, or said 429 (`retry_after_s`).
        Permanent: the token or the channel is refused.
    """
    token = (await resolve(slack.token)).get_secret_value()
    where = channel or slack.channel
    client = WebClient(
        token=token,
        base_url=slack.api_url.rstrip("/") + "/",
        timeout=slack.timeout_s,
        retry_handlers=[],  # who calls decides; a Retry-After of an hour must not hold a run
    )
    try:
        answer = await asyncio.to_thread(
            client.chat_postMessage,
            channel=where,
            text=_escaped(title)[:SECTION_LIMIT],
            blocks=[
                {"type": "header", "text": {"type": "plain_text", "text": title[:150] or "-"}},
                *(
                    {"type": "section", "text": {"type": "mrkdwn", "text": text}}
                    for text in _sections(body)
                ),
            ],
        )
    except SlackApiError as e:
        raise _refused(e, where) from None  # its text may repeat what was sent
    except (SlackClientError, HTTPException, OSError, ValueError) as e:
        raise Transient(f"Slack does not answer: {type(e).__name__}") from None
    return str(answer.get("ts") or "")


def _refused(e: SlackApiError, where: str) -> Permanent | Transient:
    answer: Any = e.response  # a plain dict when the body was no JSON
    status = int(getattr(answer, "status_code", 0) or answer.get("status") or 0)
    said = getattr(answer, "data", None)
    code = str(said.get("error")) if isinstance(said, dict) else ""
    if not re.fullmatch(r"[a-z_]{1,80}", code):  # the SDK puts the whole body of an HTML page here
        code = ""
    message = f"Slack refused the message to {where}: {code or f'HTTP {status}'}"
    if status == 429 or status >= 500 or code in _PASSING or not code:
        waits = str((getattr(answer, "headers", None) or {}).get("Retry-After", ""))
        return Transient(message, retry_after_s=float(waits) if waits.isdecimal() else None)
    return Permanent(message + "; check the token's scopes and invite the app to the channel")


_PASSING = ("ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _sections(body: str) -> list[str]:
    texts = [_section(part) for part in body.split("\n\n") if part.strip()] or ["-"]
    room = BLOCKS_LIMIT - 1
    if len(texts) <= room:
        return texts
    return [*texts[: room - 1], f"… and {len(texts) - room + 1} more; see the record"]


def _section(body: str) -> str:
    text = _escaped(body)
    if len(text) <= SECTION_LIMIT:
        return text or "-"
    cut = re.sub(r"&\w{0,3}$", "", text[: SECTION_LIMIT - 30])  # no half of an escape
    return cut + "\n… (cut; see the record)"
