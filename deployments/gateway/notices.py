"""Tell people, in Slack, of alerts that start nothing, and of incidents that are over.

Apart from the dispatcher: a Slack that is away holds up no run. What is to be told stands in the
inbox, so a kill -9 loses no word; told twice is possible there, and the same message is updated.
"""

import asyncio
import logging
import time
from collections import defaultdict

from blocks.errors import Permanent, RunbookError, Transient
from blocks.incidents import Incident, read_incident
from blocks.slack_card import read_card, show, thread
from blocks.slack_workspace import SlackSpec
from deployments.gateway.inbox_rows import Row
from deployments.gateway.notice_blocks import card_of, summary_of, words_of
from deployments.gateway.state import Gateway

log = logging.getLogger("runbooks.gateway")
EVERY_S = 2.0
"""Between rounds: a message that counts is not updated more often."""
GIVE_UP_S = 3600.0
PATIENCE_S = 60.0
"""How long the card of a run that was started may take to appear."""
SHOWN = 15
"""Alerts that one summary lists."""


class Notices:
    """Works what is to be told."""

    def __init__(self, gateway: Gateway, wake: asyncio.Event) -> None:
        """For a gateway; `wake` is set when there is something."""
        self._gateway, self._inbox, self._wake = gateway, gateway.inbox, wake

    async def run(self) -> None:
        """Work for ever; ends only by being cancelled."""
        pause = EVERY_S
        while True:
            self._wake.clear()
            try:
                left = await self.round()
            except Transient as e:
                log.warning("people are told later: %s", e)
                left = True
            pause = min(60.0, pause * 2) if left else EVERY_S
            await asyncio.sleep(pause)
            if not left and not self._wake.is_set():
                try:
                    await asyncio.wait_for(self._wake.wait(), 30)
                except TimeoutError:
                    pass

    async def round(self) -> bool:
        """Tell what can be told; whether something is left for later."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in await self._inbox.to_tell():
            groups[row.stack, row.card].append(row)
        left = False
        for (stack, card), rows in groups.items():
            try:
                done = await self._tell(stack, card, rows)
            except Exception as e:  # noqa: BLE001 - one message must not stop the others
                done = not self._later(card, rows, e)
            if done:
                await self._inbox.told([r.id for r in rows])
            left = left or not done
        return left

    def _later(self, card: str, rows: list[Row], error: Exception) -> bool:
        """Whether it is worth another try."""
        words = str(error)[:300] if isinstance(error, RunbookError) else type(error).__name__
        since = time.time() - min(r.done_at or 0.0 for r in rows)
        if isinstance(error, Permanent) or since > GIVE_UP_S:
            log.error("nobody was told of %s: %s", card, words)
            return False
        log.warning("%s is told later: %s", card, words)
        return True

    async def _tell(self, stack: str, card: str, rows: list[Row]) -> bool:
        try:
            spec = await self._gateway.stack(stack)
        except Permanent:
            if not self._gateway.known:
                return False
            raise
        if spec.slack is None:
            return True
        if all(r.member == card for r in rows) and (found := await read_incident(card)):
            return await self._of_incident(spec.slack, found, rows)
        listed, count = await self._inbox.of_card(card, SHOWN)
        blocks, text = summary_of(stack, listed, count)
        await show(spec.slack, card, blocks, text)
        return True

    async def _of_incident(self, slack: SlackSpec, incident: Incident, rows: list[Row]) -> bool:
        """On the incident's card; where a run speaks there, beneath it."""
        name = incident.opened.id
        ref = await read_card(name)
        if not await self._inbox.started(name):
            listed, _ = await self._inbox.of_card(name, SHOWN)
            await show(slack, name, *card_of(incident, listed))
            return True
        if ref is None:
            if time.time() - max(r.done_at or 0.0 for r in rows) < PATIENCE_S:
                return False
            ref = await show(slack, name, *card_of(incident, rows))
        for row in rows:
            await thread(slack, ref, *words_of(row))
            await self._inbox.told([row.id])
        return True
