"""The second look: an alert whose run is over, or dead, and that fires all the same.

Without it a run that was killed would call nobody, and what Alertmanager repeats (every four hours
by default) would only be counted. A dead run is started once more; whatever else is over while the
alert fires is for people. Each incident calls them once: nothing here goes round for ever.
"""

import asyncio
import time
from datetime import UTC, datetime

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import AsyncClientContext
from prefect.exceptions import ObjectNotFound

from blocks.errors import Permanent, RunbookError, Transient
from blocks.incidents import Incident, read_incident
from deployments.gateway.alert_runs import ACTOR
from deployments.gateway.dispatch import prefect_errors, unfinished
from deployments.gateway.inbox_rows import Row
from deployments.gateway.state import Gateway, log
from flows.decisions.alert_routing import admits
from tasks.escalations import begin_escalation

RELOOK_S = 300.0
"""A run is left alone for so long after its start."""
EVERY_S = 60.0
"""Between two looks at one alert; a repeat of it is a reason to look at once."""
AFTER_S = 420.0
"""After a run ended by itself, before people are called: Alertmanager tells of the end of an alert
up to five minutes late (group_interval), and the rule needs its samples first."""
STORM_S = 1800.0
"""So long a dead run waits for the storm rule to let it start again; then people are called."""
STARTS = 2
"""Of one alert, the first included."""
ROUND_S, MOST = 60.0, 20
"""The most that one round may take (seconds) and look at (alerts)."""


class Relook:
    """Looks at what was started."""

    def __init__(self, gateway: Gateway, to_tell: asyncio.Event) -> None:
        """For a gateway; `to_tell` is set when people are to be told of something."""
        self._gateway, self._inbox, self._to_tell = gateway, gateway.inbox, to_tell
        self._not_before = float("-inf")
        self._since = time.monotonic()

    async def round(self) -> None:
        """Look at what is due; a Prefect server that does not answer is asked again later."""
        now = time.time()
        if time.monotonic() < self._not_before:
            return
        rows = await self._inbox.to_look_at(now - RELOOK_S, now - EVERY_S, MOST)
        if not rows:
            return
        try:
            async with asyncio.timeout(ROUND_S), AsyncClientContext.get_or_create():
                for row in rows:
                    await self._one(row)
        except (Transient, TimeoutError) as e:
            log.warning("runs are looked at later: %s", str(e) or "no answer in time")
            self._not_before = time.monotonic() + EVERY_S / 4

    async def _one(self, row: Row) -> None:
        try:
            async with prefect_errors("the second look"):
                await self._look(row)
        except Transient:
            raise
        except RunbookError as e:  # of this one: the others are looked at all the same
            log.error("the run of incident %s cannot be looked at: %s", row.member, e)
        # After it, so that what was not looked at stays due.
        await self._inbox.update(row, looked_at=time.time())

    async def _look(self, row: Row) -> None:
        incident = await read_incident(row.member)
        if incident is None or incident.ended or incident.acknowledged:
            await self._inbox.settle(row.member)  # somebody has it, or it is over
            return
        run = await _run(row.run_id)
        if run and run.state and not run.state.is_final():
            return
        if other := await unfinished(row.procedure, row.stack, row.service):
            await self._inbox.update(row, run_id=other, done_at=time.time())
            return
        state = (run.state.name if run and run.state else "") or "gone"
        died = run is None or run.state is None or run.state.is_crashed() or _cancelled(run)
        if died and row.tries < STARTS and await self._again(row, state):
            return
        if time.monotonic() - self._since < AFTER_S:
            return  # while no gateway ran, the end of the alert could not be told: it is sent again
        if died or _over_s(run) > AFTER_S:
            await self._people(row, incident, state)

    async def _again(self, row: Row, state: str) -> bool:
        """Whether it is started once more, now or when the storm rule lets it."""
        spec = await self._gateway.stack(row.stack)
        if spec.alerts is None:
            return False
        storm, now = spec.alerts.storm, time.time()
        history = await self._inbox.history(row.stack, now - storm.window_s)
        if words := admits(history, now, storm, row.service):
            if now - (row.done_at or 0.0) > RELOOK_S + STORM_S:
                return False
            log.warning("the dead run of incident %s is started later: %s", row.member, words)
            return True
        log.warning("run %s of incident %s: %s; started again", row.run_id, row.member, state)
        await self._inbox.start_again(row, now)
        return True

    async def _people(self, row: Row, incident: Incident, state: str) -> None:
        said = f"{row.name} still fires, and {row.procedure} is over ({state}, {row.run_id[:8]})"
        try:
            called = await self._called(row, incident, said)
        except Permanent as e:  # not deployed, or the stack is gone: Slack is what is left
            called = f"people could NOT be called: {str(e)[:300]}"
        log.warning("incident %s: %s; %s", row.member, said, called)
        await self._inbox.update(
            row, reason=f"{said}; {called}", card=row.member, tell=1, done_at=time.time()
        )
        # Last: killed before it, people are called with the same key, which calls nobody twice.
        await self._inbox.settle(row.member)
        self._to_tell.set()

    async def _called(self, row: Row, incident: Incident, said: str) -> str:
        """Call people where the stack has an escalation; the words for what was done."""
        spec = await self._gateway.stack(row.stack)
        severity = incident.opened.severity
        if row.parameters.get("options", {}).get("dry_run"):
            return "its route only plans, so nobody is called: look at it yourself"
        if spec.escalation is None or severity not in spec.escalation.severities:
            return "look at it yourself"
        options = {"actor": ACTOR, "source": "alert", "incident": row.member}
        async with prefect_errors("the escalation"):
            run = await begin_escalation(
                row.stack, row.service, severity, said[:300], row.member, options
            )
        return f"people are called ({severity}, run {run[:8]})"


async def _run(run_id: str) -> FlowRun | None:
    if not run_id:
        return None
    async with get_client() as client:
        try:
            return await client.read_flow_run(run_id)  # type: ignore[arg-type] # a text will do
        except ObjectNotFound:
            return None


def _cancelled(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_cancelled()


def _over_s(run: FlowRun | None) -> float:
    """How long it has been over, seconds."""
    if run is None or run.state is None:
        return float("inf")
    return (datetime.now(UTC) - (run.end_time or run.state.timestamp)).total_seconds()
