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
from blocks.incidents import Ended, add, read_incident
from blocks.stack import StackSpec
from deployments.gateway.alert_runs import ACTOR, key_of, parameters, tags, together
from deployments.gateway.dispatch import answers, prefect_errors, run_with, start_run, unfinished
from deployments.gateway.inbox_rows import Outcome, Row
from deployments.gateway.joining import into_incident
from deployments.gateway.metrics import bounded
from deployments.gateway.relook import Relook
from deployments.gateway.state import Gateway, log, record_fact
from flows.decisions.alert_routing import Routed, Unrouted, admits, route

TOO_OLD_S = 3600.0
"""An alert that has waited for so long starts nothing any more, until it is sent again."""
STEP_S = 120.0
"""The most that one alert may take before it is tried again."""
IDLE_S = 2.0
FORGET_S = 600.0
LONGEST_PAUSE_S = 15.0
TRIES = 3
"""Of one alert that fails though the server is well: it must not hold up the others for ever."""
ASIDE_S = 60.0
"""For so long the others are worked first then."""


class Dispatcher:
    """Works what is in the inbox."""

    def __init__(self, gateway: Gateway, procedures: Collection[str]) -> None:
        """For a gateway; `procedures` are those that exist."""
        self._gateway, self._inbox, self._procedures = gateway, gateway.inbox, procedures
        self._failures: dict[int, int] = {}
        self._forgot_at = float("-inf")
        self.to_tell = asyncio.Event()
        """Set when people are to be told of something."""
        self._relook = Relook(gateway, self.to_tell)
        self._audited: dict[str, int] = {}

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
        if again := await self._inbox.dropped_again(time.time()):
            log.info("%d alert(s) that a storm dropped are looked at again", again)
        await self._relook.round()
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
                except (Transient, TimeoutError) as e:
                    if not await self._aside(row, e):
                        raise
                except Exception as e:  # noqa: BLE001 - see TRIES
                    await self._failed(row, e)
                self._gateway.metrics.pending.set(await self._inbox.pending())

    async def _aside(self, row: Row, error: Exception) -> bool:
        """Whether the others go first: it kept failing, and the server is well."""
        if not await answers():
            self._failures.pop(row.id, None)
            return False
        # One that takes all its time has held up the others for long enough at once.
        slow = isinstance(error, TimeoutError)
        self._failures[row.id] = TRIES if slow else self._failures.get(row.id, 0) + 1
        if self._failures[row.id] < TRIES:
            return False
        self._failures.pop(row.id)
        why = f"no end within {STEP_S:g} s" if slow else str(error)[:300]
        if row.kind == "firing":  # as it stands by now: it may have joined an incident
            row = await self._inbox.firing(row.key) or row
        now = time.time()
        if now - row.received_at > 2 * TOO_OLD_S:
            await self._tell(row, "failed", why)
            return True
        log.error("alert %s is tried again in %g s: %s", row.incident, ASIDE_S, why)
        words = {"reason": f"it is tried again every {ASIDE_S:g} s: {why}", "tell": 1}
        told = {**words, "card": row.member or together("failed", row), "done_at": now}
        await self._inbox.update(row, later_at=now + ASIDE_S, **({} if row.later_at else told))
        self.to_tell.set()
        return True

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
        if time.time() - row.received_at > TOO_OLD_S:
            await self._too_old(row)
            return
        spec = await self._spec(row)
        if spec is None or spec.alerts is None:
            await self._unrouted(row, f"stack {row.stack} takes no alerts any more")
            return
        found = route(row.labels, spec.alerts, spec.services, self._procedures)
        row = await self._inbox.update(row, service=found.service, severity=found.severity)
        row, joined = await into_incident(self._inbox, row)
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

    async def _decide(self, row: Row, spec: StackSpec, found: Routed, joined: bool) -> None:
        assert spec.alerts is not None  # noqa: S101 - it was routed by them
        if joined and (run := await unfinished(found.procedure, row.stack, row.service)):
            said = f"{found.procedure} is under way already: run {run}"
            await self._done(
                row,
                "joined",
                said,
                procedure=found.procedure,
                parameters=found.route.parameters,
                run_id=run,
            )
            return
        storm, now = spec.alerts.storm, time.time()
        history = await self._inbox.history(row.stack, now - storm.window_s)
        if words := admits(history, now, storm, row.service):
            bucket = int(now // storm.window_s)
            await self._audit_drop(row, bucket, words)
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

    async def _audit_drop(self, row: Row, bucket: int, words: str) -> None:
        """Keep the first of each storm window in the audit trail."""
        if self._audited.get(row.stack) != bucket:
            self._audited[row.stack] = bucket
            what = {"stack": row.stack, "service": row.service, "incident": row.member}
            await record_fact("incident", {**what, "what": "dropped", "why": words, "by": ACTOR})

    async def _start(self, row: Row, spec: StackSpec | None) -> None:
        """Carry out what was decided; a run that exists already is found by its key."""
        key = key_of(row)
        late = time.time() - row.received_at > TOO_OLD_S
        over = await self._inbox.is_resolved(row.key)
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
            theirs = found is not None and found.opened.stack != row.stack
            if found is None or theirs or (found.ended and found.ended.by != ACTOR):
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
        card = row.member or together("unrouted", row)
        await self._tell(row, "unrouted", reason, card=card, decided_at=None)

    async def _too_old(self, row: Row) -> None:
        minutes = (time.time() - row.received_at) / 60
        said = f"it could not be started for {minutes:.0f} minutes, and what it says is too old"
        # Sent again, it fires still: what it says is news then.
        again = {"again_at": 0.0, "decided_at": None}
        await self._tell(row, "too-old", said, card=together("late", row), **again)

    async def _tell(self, row: Row, outcome: Outcome, reason: str, **values: Any) -> None:
        """Done, and people are to be told."""
        card = values.pop("card", row.member or together(outcome, row))
        await self._done(row, outcome, reason, card=card, tell=1, **values)
        self.to_tell.set()

    async def _done(self, row: Row, outcome: Outcome, reason: str = "", **values: Any) -> None:
        values = {"outcome": outcome, "reason": reason, "done_at": time.time(), **values}
        await self._inbox.update(row, **values)
        stack = bounded(row.stack, self._gateway.stacks())
        self._gateway.metrics.alerts.labels(stack, outcome).inc()
