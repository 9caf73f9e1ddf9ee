"""The run's card in Slack, kept up to date beside the work: nothing waits for Slack."""

import asyncio
import base64
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.logging import get_run_logger
from prefect.settings import PREFECT_UI_URL

from blocks.incidents import Incident, read_incident
from blocks.slack_card import CardRef, show
from blocks.slack_spec import SlackSpec
from flows.decisions.plan import Plan
from flows.report import Report
from flows.slack_view import CardView, card, view_of
from tasks.records import attempted, publish_card, publish_file

CLOSE_S = 10
"""How long the end of a run waits for what it is still telling, s."""


@dataclass
class Teller:
    """Tells one channel what a run does. Without a `slack` it tells nobody."""

    slack: SlackSpec | None
    stack: str
    service: str
    procedure: str
    run_id: str
    asked_by: str
    incident: str = ""
    facts: Incident | None = None
    view: CardView | None = None
    _wanted: CardView | None = None
    _work: asyncio.Task[None] | None = field(default=None, repr=False)

    def say(self, status: str, **more: Any) -> None:
        """Show a status on the card soon; only the latest counts. Never raises, never waits."""
        if self.slack is None:
            return
        self._wanted = self.view = self._seen(status, **more)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._tell())

    async def ask(self, plan: Plan, wait_s: float, **more: Any) -> str:
        """Show a plan with its buttons; what went wrong, or an empty string."""
        if self.slack is None:
            return ""
        self._wanted = None  # what it did before is no news any more, and must not come after this
        await self.close()
        if self._work and not self._work.done():
            self._work.cancel()
        expires = f"{datetime.now(UTC) + timedelta(seconds=wait_s):%H:%M:%S} UTC"
        more |= {"plan": plan, "awaiting": True, "expires": expires}
        await self.incident_facts()
        slack = self.slack
        self.view = view = self._seen("a plan waits for approval", **more)
        # No task of Prefect's: the run is paused meanwhile.
        return await attempted("Slack", lambda: show(slack, view.key, *card(view)))

    async def end(self, report: Report, channel: str | None, chart: str) -> str:
        """Show how the run ended; what went wrong, or an empty string.

        Args:
            report: of the run.
            channel: another one that is told as well where the run did not pass.
            chart: base64 of a PNG, put into the thread; empty: none.
        """
        if self.slack is None:
            return ""
        await self.close()
        refs: list[CardRef] = []
        problem = await self._show(view_of(report, **self._more()), refs)
        if channel and channel != self.slack.channel and report.verdict != "passed":
            slack, view = self.slack, view_of(report, **self._more())
            blocks, text = card(view)
            # Whatever became of the first: these are the people on call.
            called = await attempted(
                "Slack", lambda: publish_card(slack, f"{view.key}-call", blocks, text, channel)
            )
            problem = problem or called
        if chart and refs:
            slack, png = self.slack, base64.b64decode(chart)
            name = f"{report.procedure}-{report.run_id[:8]}.png"
            await attempted(
                "chart", lambda: publish_file(slack, refs[0], name, png, "what was verified")
            )
        return problem

    async def close(self) -> None:
        """Let what is being told arrive."""
        if self._work is not None and not self._work.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._work), CLOSE_S)

    async def _tell(self) -> None:
        while self._wanted and self.slack:
            await self.incident_facts()
            view, self._wanted = self._wanted, None
            try:
                await show(self.slack, view.key, *card(view.model_copy(update=self._more())))
            except Exception as e:  # noqa: BLE001 - the record at the end says what failed
                get_run_logger().warning("Slack was not told: %s", str(e)[:200])

    async def incident_facts(self) -> Incident | None:
        """The incident as it is now; as it was last seen where it cannot be read; None: unknown."""
        if self.incident:
            with contextlib.suppress(Exception):
                self.facts = await read_incident(self.incident) or self.facts
        return self.facts

    async def _show(self, view: CardView, refs: list[CardRef] | None = None) -> str:
        slack = self.slack
        assert slack is not None  # noqa: S101 - the callers looked
        await self.incident_facts()
        self.view = view.model_copy(update=self._more())
        blocks, text = card(self.view)

        async def tell() -> None:
            ref = await publish_card(slack, view.key, blocks, text)
            if refs is not None:
                refs.append(ref)

        return await attempted("Slack", tell)

    def _seen(self, status: str, **more: Any) -> CardView:
        old = self.view
        values: dict[str, Any] = {
            "key": self.incident or self.run_id,
            "stack": self.stack,
            "service": self.service,
            "procedure": self.procedure,
            "run_id": self.run_id,
            "asked_by": self.asked_by,
            "title": (old.title if old else "") or self.procedure,
            "diagnosis": old.diagnosis if old else "",
            "evidence": old.evidence if old else (),
            "plan": old.plan if old else None,
            "approver": old.approver if old else "",
            **self._more(),
        }
        return CardView(**{**values, "status": status, **more})

    def _more(self) -> dict[str, Any]:
        """What the incident and the server say."""
        base = PREFECT_UI_URL.value()
        url = f"{base.rstrip('/')}/runs/flow-run/{self.run_id}" if base else ""
        found: dict[str, Any] = {"run_url": url}
        if self.facts:
            opened, acknowledged = self.facts.opened, self.facts.acknowledged
            found |= {
                "incident": opened.id,
                "severity": opened.severity,
                "open": self.facts.ended is None,
                "acknowledged_by": acknowledged.by if acknowledged else "",
            }
        return found
