"""One wish from Slack: who, where, on which platform; whether they may; and how to answer."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.errors import Permanent, RunbookError, Transient
from blocks.people import Role
from blocks.slack_blocks import Mrkdwn, section
from blocks.slack_client import SlackClient, open_slack
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from deployments.gateway.slack_words import TYPED, no_channel, no_role
from deployments.gateway.state import Gateway, record_fact
from flows.decisions.access import Who, may, member

log = logging.getLogger("runbooks.slack")
TEXT_LIMIT = 3900
"""Characters of an answer's text: Slack refuses 4,000."""
TRIES, LONGEST_WAIT_S = 3, 30.0
"""An answer is tried so often; a Retry-After of more than this is not waited for."""


@dataclass(frozen=True)
class Call:
    """One command, click or submitted form, on one platform."""

    gateway: Gateway
    spec: StackSpec
    user: str
    """Slack user id."""
    channel: str
    """Slack channel id."""
    asked: str
    """What was asked for, for the audit trail."""
    response_url: str = ""
    trigger_id: str = ""
    key: str = ""
    """Of this wish: what it starts is started once, however often it is delivered."""

    @property
    def slack(self) -> SlackSpec:
        """Where it came from: a stack without Slack has no calls."""
        assert self.spec.slack is not None  # noqa: S101 - the transport chose it by its secret
        return self.spec.slack

    @property
    def name(self) -> str:
        """The member's name, or `slack:U…`."""
        return member(self.spec.people, self.user).name

    async def client(self) -> SlackClient:
        """Slack's API.

        Raises:
            Permanent: the token cannot be resolved. Transient: the Prefect server is away.
        """
        return await open_slack(self.slack)

    async def permitted(self, role: Role, procedure: str = "", what: str = "") -> bool:
        """Whether they may; kept in the audit trail, and who may not is told why, privately."""
        why = await self.refusal(role, procedure)
        await self.audit(role, procedure, why, what)
        if why:
            await self.say(why)
        return not why

    async def refusal(self, role: Role, procedure: str = "") -> str:
        """Why they may not; empty when they may."""
        people = self.spec.people
        if people.channels and self.channel not in people.channels:
            return no_channel(people.channels)
        who = member(people, self.user)
        if may(people, role, who, procedure):
            return ""
        unread = ""
        if people.groups:
            try:
                groups = await (await self.client()).groups_of(self.user)
                if may(people, role, Who(name=who.name, slack=self.user, groups=groups), procedure):
                    return ""
            except RunbookError as e:  # a group that cannot be read gives nobody a role
                log.warning("groups of a user cannot be read: %s", e)
                unread = "\nYour Slack user groups could not be read just now; try again."
        return no_role(people, role, procedure, who.name, self.user) + unread

    async def audit(self, role: Role, procedure: str, why: str, what: str = "") -> None:
        """Keep who asked for what, and whether it was refused. A full disk refuses nobody."""
        record = {
            "door": "slack",
            "stack": self.spec.name,
            "who": self.name,
            "slack": self.user[:40],
            "channel": self.channel[:40],
            "asked": (what or self.asked)[:TYPED],
            "role": role,
            "procedure": procedure,
            "allowed": not why,
            "why": why[:TYPED],
        }
        await record_fact("access", record)

    async def say(self, text: str, blocks: Sequence[dict[str, Any]] = (), **more: Any) -> None:
        """Answer privately; never raises, for what was done is done whether it is told or not.

        Args:
            text: Slack's markdown, already escaped.
            blocks: instead of the text alone.
            more: further fields of a response, e.g. replace_original.
        """
        text = text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"
        for attempt in range(1, TRIES + 1):
            try:
                await self._answer(text, list(blocks), more)
                return
            except Transient as e:
                wait = e.retry_after_s if e.retry_after_s is not None else 2.0**attempt / 2
                if attempt == TRIES or wait > LONGEST_WAIT_S:
                    log.warning("an answer did not reach Slack: %s", e)
                    return
                await asyncio.sleep(wait)
            except Permanent as e:
                log.warning("Slack did not take an answer: %s", e)
                return

    async def say_if(self, text: str) -> None:
        """Answer, unless there is nothing to say: a refusal was told already."""
        if text:
            await self.say(text)

    async def _answer(self, text: str, blocks: list[dict[str, Any]], more: dict[str, Any]) -> None:
        client = await self.client()
        if self.response_url:
            body: dict[str, Any] = {"response_type": "ephemeral", "replace_original": False}
            body |= {"text": text, **({"blocks": blocks} if blocks else {}), **more}
            await client.respond(self.response_url, body)
        elif self.channel:
            shown = blocks or [section(Mrkdwn(text))]
            await client.ephemeral(self.channel, self.user, shown, Mrkdwn(text))
