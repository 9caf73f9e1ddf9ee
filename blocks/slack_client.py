"""The one way to Slack: messages, modals, files, groups. Web API through slack-sdk.

Nothing is tried twice here: who calls decides, and a Retry-After of an hour must not hold a run.
No error carries the token or what was sent.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient
from slack_sdk.webhook import WebhookClient

from blocks.errors import Permanent, Transient
from blocks.secret_ref import resolve
from blocks.slack_blocks import SECTION_LIMIT, Block, clip, message, section
from blocks.slack_spec import SlackSpec

GROUPS_S = 60
"""How long a person's groups are believed: who is taken out of one may act that long, s."""

_PASSING = (
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
)
_GONE = ("message_not_found", "cant_update_message", "edit_window_closed")
# slack-sdk logs what it sends at DEBUG, and what came back when it is no JSON.
_SILENT = logging.Logger("slack", logging.CRITICAL + 1)
_NETWORK = (SlackClientError, HTTPException, OSError, ValueError)
_groups: dict[tuple[str, str], tuple[float, dict[str, tuple[str, ...]]]] = {}


class Gone(Permanent):
    """The message can be changed no more: it was deleted, is too old, or is another app's."""


class Sent(NamedTuple):
    """Where a message is: the channel's id (never its name) and the time stamp."""

    channel: str
    ts: str


class SlackClient:
    """One workspace. Every method raises Transient (`retry_after_s` with a 429) or Permanent."""

    def __init__(self, spec: SlackSpec, token: str) -> None:
        self.spec = spec
        self._web = WebClient(
            token=token,
            base_url=spec.api_url.rstrip("/") + "/",
            timeout=spec.timeout_s,
            retry_handlers=[],
            logger=_SILENT,
        )

    async def send(
        self, channel: str, blocks: Sequence[Block], text: str, thread_ts: str = ""
    ) -> Sent:
        """Post one message.

        Args:
            channel: id or name.
            blocks: brought within Slack's limits here; none: the text is shown.
            text: of the notification; escaped unless it is Mrkdwn.
            thread_ts: the message it replies to.
        """
        more = {"thread_ts": thread_ts} if thread_ts else {}
        answer = await self._call(
            f"the message to {channel}",
            self._web.chat_postMessage,
            channel=channel,
            **_content(blocks, text),
            **more,
        )
        return Sent(str(answer.get("channel") or channel), str(answer.get("ts") or ""))

    async def post(
        self, channel: str, blocks: Sequence[Block], text: str, thread_ts: str = ""
    ) -> str:
        """Like `send`; only the time stamp."""
        return (await self.send(channel, blocks, text, thread_ts)).ts

    async def update(self, channel: str, ts: str, blocks: Sequence[Block], text: str) -> None:
        """Change a message in place; `channel` is an id.

        Raises:
            Gone: it was deleted, or can be changed no more.
        """
        what = f"the update of {channel} {ts}"
        await self._call(
            what, self._web.chat_update, channel=channel, ts=ts, **_content(blocks, text)
        )

    async def ephemeral(self, channel: str, user: str, blocks: Sequence[Block], text: str) -> None:
        """Tell one person something that nobody else in the channel sees."""
        what = f"the answer to {user} in {channel}"
        await self._call(
            what, self._web.chat_postEphemeral, channel=channel, user=user, **_content(blocks, text)
        )

    async def open_view(self, trigger_id: str, view: dict[str, Any]) -> str:
        """Open a modal within 3 s of the command or click; its id."""
        answer = await self._call(
            "the modal", self._web.views_open, trigger_id=trigger_id, view=view
        )
        return str((answer.get("view") or {}).get("id") or "")

    async def upload(
        self, channel: str, thread_ts: str, filename: str, content: bytes, title: str
    ) -> None:
        """Put a file into a thread; `channel` is an id."""
        more = {"thread_ts": thread_ts} if thread_ts else {}
        await self._call(
            f"the file {filename} for {channel}",
            self._web.files_upload_v2,
            channel=channel,
            filename=filename,
            content=content or b"\n",  # Slack takes no empty file
            title=title,
            **more,
        )

    async def groups_of(self, user: str) -> tuple[str, ...]:
        """Ids of the user groups that somebody is in, not older than GROUPS_S."""
        key = (self.spec.api_url, self.spec.token)
        at, found = _groups.get(key, (0.0, {}))
        if key not in _groups or time.monotonic() - at > GROUPS_S:
            begun = time.monotonic()
            answer = await self._call(
                "the list of user groups", self._web.usergroups_list, include_users=True
            )
            groups = [g for g in answer.get("usergroups") or () if not g.get("date_delete")]
            found = {str(g["id"]): tuple(map(str, g.get("users") or ())) for g in groups}
            _groups[key] = (begun, found)
        return tuple(group for group, users in found.items() if user in users)

    async def respond(self, response_url: str, payload: dict[str, Any]) -> None:
        """Answer a command or a click by the address that came with it.

        Raises:
            Permanent: it is no address of Slack, or is used up (5 answers, 30 minutes).
        """
        if not self._is_slack(response_url):
            raise Permanent("the answer's address is none of Slack's; nothing was sent there")
        if "blocks" in payload:
            payload = {**payload, "blocks": message(payload["blocks"])}
        hook = WebhookClient(
            response_url, timeout=self.spec.timeout_s, retry_handlers=[], logger=_SILENT
        )
        try:
            answer = await asyncio.to_thread(hook.send_dict, payload)
        except _NETWORK as e:
            raise Transient(f"Slack does not answer: {type(e).__name__}") from None
        code = _code_of(answer.body)
        if answer.status_code != 200 or code:
            raise _error("the answer", answer.status_code, code, dict(answer.headers), code)

    def _is_slack(self, url: str) -> bool:
        mine, its = urlsplit(self.spec.api_url), urlsplit(url)
        host = its.hostname or ""
        if its.netloc == mine.netloc:
            return its.scheme == mine.scheme
        return its.scheme == "https" and host in ("hooks.slack.com", "hooks.slack-gov.com")

    async def _call(self, what: str, method: Callable[..., Any], **args: Any) -> Any:
        try:
            return await asyncio.to_thread(method, **args)
        except SlackApiError as e:
            raise _refused(e, what) from None  # its text may repeat what was sent
        except _NETWORK as e:
            raise Transient(f"Slack does not answer: {type(e).__name__}") from None


async def open_slack(spec: SlackSpec) -> SlackClient:
    """The client of a stack's slack section; nothing is sent yet.

    Raises:
        Permanent: the token's reference leads nowhere.
        Transient: the Prefect server, which keeps the secret, does not answer.
    """
    return SlackClient(spec, (await resolve(spec.token)).get_secret_value())


def _content(blocks: Sequence[Block], text: str) -> dict[str, Any]:
    shown = message(blocks or [section(text)])
    return {"blocks": shown, "text": str(clip(text, SECTION_LIMIT)) or "-"}


def _code_of(body: str) -> str:
    """Slack's word in the answer of a response_url: `ok`, JSON, or the bare word."""
    try:
        said = json.loads(body)
    except ValueError:
        return "" if body.strip() == "ok" else body.strip()[:100]
    return "" if not isinstance(said, dict) or said.get("ok") else str(said.get("error") or "")


def _refused(e: SlackApiError, what: str) -> Permanent | Transient:
    answer: Any = e.response  # a plain dict when the body was no JSON
    status = int(getattr(answer, "status_code", 0) or answer.get("status") or 0)
    data = getattr(answer, "data", None)
    said = data if isinstance(data, dict) else {}
    needed = str(said.get("needed") or "")
    more = f" (scope {needed})" if re.fullmatch(r"[a-z:._,]{1,60}", needed) else ""
    code = str(said.get("error") or "")
    return _error(what, status, code, dict(getattr(answer, "headers", None) or {}), code + more)


def _error(
    what: str, status: int, code: str, headers: dict[str, str], words: str
) -> Permanent | Transient:
    """What a refusal means to the caller; `code` is Slack's, `words` what is told of it."""
    if not re.fullmatch(r"[a-z_]{1,80}", code):  # the SDK puts the whole body of an HTML page here
        code = words = ""
    text = f"Slack refused {what[:120]}: {words or f'HTTP {status}'}"
    if status == 429 or status >= 500 or code in _PASSING or not code:
        waits = next((str(v) for k, v in headers.items() if k.lower() == "retry-after"), "")
        return Transient(text, retry_after_s=float(waits) if waits.isdecimal() else None)
    if code in _GONE:
        return Gone(text)
    if code in ("used_url", "expired_url"):
        return Permanent(text + "; the address is used up, nothing more can be said there")
    return Permanent(text + "; check the token's scopes and invite the app to the channel")
