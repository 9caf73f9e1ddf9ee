"""The dispatcher: works the inbox in its order, one alert after the other.

Every step can be done twice without harm, and what was decided is written down before it is
done: a kill -9 between any two steps costs nothing but the time until the gateway is back.
"""

import asyncio
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from prefect.context import AsyncClientContext

from blocks.errors import Permanent, RunbookError, Transient
from blocks.incidents import Ended, Opened, add, open_incident, open_incidents, read_incident
from blocks.stack import StackSpec
from deployments.gateway.alert_models import plain
from deployments.gateway.dispatch import prefect_errors, run_with, start_run, unfinished
from deployments.gateway.inbox_rows import Outcome, Row
from deployments.gateway.metrics import bounded
from deployments.gateway.state import Gateway, log
from flows.decisions.alert_routing import Routed, Unrouted, admits, route

TOO_OLD_S = 3600.0
"""An alert that was not sent again for so long starts nothing any more."""
STEP_S = 120.0
"""The most that one alert may take before it is tried again."""
IDLE_S = 2.0
FORGET_S = 600.0
LONGEST_PAUSE_S = 15.0
TRIES = 3
"""Of one alert that fails for no known reason: it must not hold up the others for ever."""
ACTOR = "alertmanager"


class Dispatcher:
    """Works what is in the inbox."""

    def __init__(self, gateway: Gateway, procedures: Collection[str]) -> None:
        """For a gateway; `procedures` are those that exist."""
        self._gateway, self._inbox, self._procedures = gateway, gateway.inbox, procedures
        self._failures: dict[int, int] = {}
        self._forgot_at = float("-inf")
        self.to_tell = asyncio.Event()
        """Set when people are to be told of something."""

    async def run(self) -> None:
        """Work for ever; ends only by being cancelled."""
        pause = 0.0
        while True:
            self._gateway.dispatcher_at = time.monotonic()
            self._inbox.arrived.clear()
            try:
                await self._tidy()
                if await self._inbox.oldest() is not None:
                    await self._drain()
                pause = 0.0
            except (Transient, TimeoutError) as e:
                pause = min(LONGEST_PAUSE_S, pause * 2 or 0.5)
                log.warning("the inbox waits %g s: %s", pause, str(e) or "no answer in time")
            except Exception as e:  # noqa: BLE001 - it must not end; no text, it may quote input
                pause = LONGEST_PAUSE_S
                log.error("the inbox waits %g s: %s", pause, type(e).__name__)
            if pause:
                await asyncio.sleep(pause)
                continue
            try:
                await asyncio.wait_for(self._inbox.arrived.wait(), IDLE_S)
            except TimeoutError:
                pass

    async def _tidy(self) -> None:
        self._gateway.metrics.pending.set(await self._inbox.pending())
        if time.monotonic() - self._forgot_at > FORGET_S:
            self._forgot_at = time.monotonic()
            await self._inbox.forget(time.time())

    async def _drain(self) -> None:
        """Work until nothing waits, with one client of the Prefect server."""
        async with prefect_errors("the Prefect server"), AsyncClientContext.get_or_create():
            while (row := await self._inbox.oldest()) is not None:
                self._gateway.dispatcher_at = time.monotonic()
                try:
                    await asyncio.wait_for(self._work(row), STEP_S)
                except (Transient, TimeoutError):
                    raise
                except Exception as e:  # noqa: BLE001 - see TRIES
                    await self._failed(row, e)
                self._gateway.metrics.pending.set(await self._inbox.pending())

    async def _failed(self, row: Row, error: Exception) -> None:
        known = isinstance(error, RunbookError)
        words = str(error)[:400] if known else f"an error of ours ({type(error).__name__})"
        self._failures[row.id] = self._failures.get(row.id, 0) + 1
        if not known and self._failures[row.id] < TRIES:
            raise Transient(f"alert {row.incident}: {words}") from error
        self._failures.pop(row.id, None)
        if row.kind == "firing":
            await self._tell(row, "failed", words)
        else:
            await self._done(row, "failed", words)

    async def _work(self, row: Row) -> None:
        if row.kind == "resolved":
            await self._resolve(row)
            return
        if row.decided_at is not None:
            await self._start(row, await self._spec(row))
            return
        if await self._inbox.is_resolved(row.key):
            await self._done(row, "resolved", "it was over before anything could be started")
            return
        if time.time() - row.seen_at > TOO_OLD_S:
            await self._too_old(row)
            return
        spec = await self._spec(row)
        if spec is None or spec.alerts is None:
            await self._unrouted(row, f"stack {row.stack} takes no alerts any more")
            return
        found = route(row.labels, spec.alerts, spec.services, self._procedures)
        row = await self._inbox.update(row, service=found.service, severity=found.severity)
        row, joined = await self._into_incident(row)
        if isinstance(found, Unrouted):
            await self._unrouted(row, found.reason)
        else:
            await self._decide(row, spec, found, joined)

    async def _spec(self, row: Row) -> StackSpec | None:
        """The stack; None when it is not registered any more."""
        try:
            return await self._gateway.stack(row.stack)
        except Permanent:
            if not self._gateway.known:
                raise Transient("the stacks could not be read yet") from None
            return None

    async def _into_incident(self, row: Row) -> tuple[Row, bool]:
        """The open incident on the service, or a new one; and whether it was open before."""
        if not row.service:
            return row, False
        async with prefect_errors("incidents"):
            there = await open_incidents(row.stack, row.service)
            mine = next((i for i in there if i.opened.id == row.incident), None)
            if there and mine is None:
                return await self._inbox.update(row, member=there[0].opened.id), True
            if mine is None and await open_incident(_opened(row)):
                log.info("incident %s on %s/%s: %s", row.incident, row.stack, row.service, row.name)
        return await self._inbox.update(row, member=row.incident), False

    async def _decide(self, row: Row, spec: StackSpec, found: Routed, joined: bool) -> None:
        assert spec.alerts is not None  # noqa: S101 - it was routed by them
        if joined and (run := await unfinished(found.procedure, row.stack, row.service)):
            said = f"{found.procedure} is under way already: run {run}"
            await self._done(row, "joined", said, procedure=found.procedure)
            return
        storm, now = spec.alerts.storm, time.time()
        history = await self._inbox.history(row.stack, now - storm.window_s)
        if words := admits(history, now, storm, row.service):
            bucket = int(now // storm.window_s)
            await self._tell(
                row,
                "dropped",
                words,
                card=f"storm-{row.stack}-{bucket}",
                procedure=found.procedure,
                # Sent again after the storm, it is looked at again: nothing was started for it.
                again_at=now + storm.window_s,
            )
            return
        row = await self._inbox.update(
            row, procedure=found.procedure, parameters=found.route.parameters, decided_at=now
        )
        await self._start(row, spec)

    async def _start(self, row: Row, spec: StackSpec | None) -> None:
        """Carry out what was decided; a run that exists already is found by its key."""
        key = f"alert:{row.incident}"
        late, over = time.time() - row.seen_at > TOO_OLD_S, await self._inbox.is_resolved(row.key)
        if late or over or spec is None:
            if run := await run_with(key):
                await self._done(row, "started", run_id=run)
            elif over:
                said = "it was over before its run could be started"
                await self._done(row, "resolved", said, decided_at=None)
            elif late:
                await self._too_old(row)
            else:
                await self._unrouted(row, f"stack {row.stack} is not registered any more")
            return
        service = spec.services.get(row.service)
        try:
            run, created = await start_run(
                row.procedure,
                parameters(row),
                key=key,
                queue=service.work_queue if service else None,
                tags=tags(row),
            )
        except Permanent as e:
            await self._unrouted(row, str(e)[:400])
            return
        if created:
            self._gateway.metrics.runs.labels(row.procedure, "alert").inc()
            self._gateway.metrics.trigger.observe(max(0.0, time.time() - row.received_at))
            log.info("run %s of %s for incident %s", run, row.procedure, row.member)
        # The storm rule counts from the start itself, however long the server was away.
        await self._done(row, "started", run_id=run, decided_at=time.time())

    async def _resolve(self, row: Row) -> None:
        """End the incident when the last of its alerts is over. Starts nothing, ever."""
        fired = await self._inbox.firing(row.key)
        member = fired.member if fired else row.incident
        async with prefect_errors("incidents"):
            found = await read_incident(member) if member else None
            if found is None or (found.ended and found.ended.by != ACTOR):
                await self._done(row, "nothing-open")
                return
            service = found.opened.service
            if left := await self._inbox.still_firing(member):
                said = f"{left} more alert(s) of incident {member} still fire"
                await self._done(row, "resolved", said, member=member, service=service)
                return
            ended = Ended(by=ACTOR, how="resolved", at=datetime.now(UTC))
            await add(member, ended)
        log.info("incident %s is over: its alert is resolved", member)
        said = f"Alertmanager says that {row.name} is resolved"
        await self._tell(row, "resolved", said, card=member, member=member, service=service)

    async def _unrouted(self, row: Row, reason: str) -> None:
        card = row.member or _together("unrouted", row)
        await self._tell(row, "unrouted", reason, card=card, decided_at=None)

    async def _too_old(self, row: Row) -> None:
        minutes = (time.time() - row.seen_at) / 60
        said = f"it could not be started for {minutes:.0f} minutes, and what it says is too old"
        # Sent again, it fires still: what it says is news then.
        again = {"again_at": 0.0, "decided_at": None}
        await self._tell(row, "too-old", said, card=_together("late", row), **again)

    async def _tell(self, row: Row, outcome: Outcome, reason: str, **values: Any) -> None:
        """Done, and people are to be told."""
        card = values.pop("card", row.member or _together(outcome, row))
        await self._done(row, outcome, reason, card=card, tell=1, **values)
        self.to_tell.set()

    async def _done(self, row: Row, outcome: Outcome, reason: str = "", **values: Any) -> None:
        values = {"outcome": outcome, "reason": reason, "done_at": time.time(), **values}
        await self._inbox.update(row, **values)
        stack = bounded(row.stack, self._gateway.stacks())
        self._gateway.metrics.alerts.labels(stack, outcome).inc()


def _together(what: str, row: Row) -> str:
    """The key of one message an hour for all alerts of a stack to which the same happened."""
    return f"{what}-{row.stack}-{int(row.received_at // 3600)}"


def _opened(row: Row) -> Opened:
    return Opened(
        id=row.incident,
        stack=row.stack,
        service=row.service,
        severity=row.severity,
        title=plain(row.summary),
        source="alert",
        at=datetime.fromtimestamp(row.received_at, UTC),
        alert={
            "name": row.name,
            "fingerprint": row.fingerprint,
            "starts_at": row.starts_at,
            "summary": row.summary,
            "url": row.url,
        },
    )


def parameters(row: Row) -> dict[str, Any]:
    """Of the run that an alert starts: the route's, and ours, which win."""
    options = {
        **row.parameters.get("options", {}),
        "actor": ACTOR,
        "source": "alert",
        "incident": row.member,
    }
    return {**row.parameters, "stack": row.stack, "service": row.service, "options": options}


def tags(row: Row) -> list[str]:
    """What an operator finds the run by."""
    return [
        f"incident:{row.member}",
        f"stack:{row.stack}",
        f"service:{row.service}",
        f"procedure:{row.procedure}",
        "source:alert",
        f"actor:{ACTOR}",
    ]
