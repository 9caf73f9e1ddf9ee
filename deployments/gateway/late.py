"""Notice that nothing runs, and say so: scheduled runs that do not begin, workers that are gone.

It lives in the gateway because nothing else can: with the worker dead no flow runs, so a flow or
an automation that starts one (Prefect's RunDeployment) could tell nobody, and would be late
itself; on the server alone, an automation could only notify through a block of its own that
knows neither our stacks nor their channels. The server asks nobody, so it is asked, every minute.
A gateway that is dead itself is noticed by whoever waits for the dead-man pings.

Each stack's channel is told once when it begins and once when it is over. What was told is kept
in memory: a gateway that is started anew in the middle says it again.
"""

import asyncio
import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prometheus_client import Gauge

from blocks.errors import RunbookError
from blocks.slack_workspace import SlackSpec, post
from deployments.connection import POOL
from deployments.gateway.state import Gateway
from flows.decisions.late import LatePolicy, Sight, Waiting, WorkerSeen, online, trouble, word

log = logging.getLogger("runbooks.gateway")
EVERY_S = 60.0
ASK_S = 20
"""A server that does not answer by then counts as silent this time."""
MOST = 200
"""Late runs that are read at once; there may be more."""
WAITS = ["Scheduled", "Late"]
"""State names of a run that waits for a worker; one for a retry or a slot has another name."""


class LateWatch:
    """What one gateway has seen and told."""

    def __init__(
        self, gateway: Gateway, pool: str = POOL, policy: LatePolicy | None = None
    ) -> None:
        self._gateway, self._pool = gateway, pool
        self._policy = policy or LatePolicy()
        self._told: set[str] = set()
        self._answered = time.monotonic()
        registry = gateway.metrics.registry
        self._late = Gauge(
            "runbooks_late_runs", "Runs that should have begun and have not", registry=registry
        )
        self._workers = Gauge(
            "runbooks_workers_online", "Workers that beat; NaN: not known", registry=registry
        )
        self._unknown()

    def _unknown(self) -> None:
        """No number beats an old one: an alert on it must see that it is missing."""
        self._late.set(math.nan)
        self._workers.set(math.nan)

    async def look(self) -> None:
        """Ask once, set the metrics, tell whom it concerns; never raises."""
        now = datetime.now(UTC)
        try:
            sight = await asyncio.wait_for(self._see(now), ASK_S)
            self._answered = time.monotonic()
        except Exception as e:  # noqa: BLE001 - the watch must outlive whatever the server does
            log.warning("late runs are not known: %s", type(e).__name__)
            self._unknown()
            if time.monotonic() - self._answered <= self._policy.silent_s:
                return  # it may just be starting
            sight = Sight(asked=False)
        else:
            due = now - timedelta(seconds=self._policy.late_s)
            self._late.set(sum(r.due < due for r in sight.runs))
            self._workers.set(online(sight.workers, now, self._policy))
        stacks = self._gateway.stacks()
        self._told &= set(stacks)
        for name, spec in stacks.items():
            wrong = trouble(sight, name, set(stacks), now, self._policy)
            await self._tell(name, spec.slack, wrong)

    async def _tell(self, stack: str, slack: SlackSpec | None, wrong: str) -> None:
        said = word(stack in self._told, bool(wrong))
        if said == "none":
            return
        words = wrong or "runs begin again"
        (log.warning if wrong else log.info)("stack %s: %s", stack, words)
        title = f"{'⚠️' if wrong else '✅'} runbooks: {stack}"
        try:
            if slack:
                await post(slack, title, words)
        except RunbookError as e:
            log.warning("stack %s could not be told, it is tried again: %s", stack, e)
            return
        self._told ^= {stack}

    async def _see(self, now: datetime) -> Sight:
        """What the server knows of our pool. Raises whatever its client does."""
        async with get_client() as client:
            try:
                pool = await client.read_work_pool(self._pool)
            except ObjectNotFound:
                return Sight()  # nothing is deployed yet
            queues = await client.read_work_queues(work_pool_name=self._pool)
            workers = await client.read_workers_for_work_pool(self._pool)
            runs = await self._waiting(client, now)
        paused = [f"work pool {self._pool}"] if pool.is_paused else []
        names = {q.id: q.name for q in queues}
        paused += [f"work queue {q.name}" for q in queues if q.is_paused]
        return Sight(
            runs=tuple(_waiting(run, names) for run in runs),
            workers=tuple(
                WorkerSeen(
                    name=w.name,
                    online=w.status.value == "ONLINE",
                    beat=w.last_heartbeat_time,
                    interval_s=w.heartbeat_interval_seconds or 30,
                )
                for w in workers
            ),
            paused=tuple(paused),
        )

    async def _waiting(self, client: PrefectClient, now: datetime) -> list[FlowRun]:
        before = now - timedelta(seconds=self._policy.late_s)
        return await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=WAITS)),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=before),
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
            limit=MOST,
        )


def _waiting(run: FlowRun, queues: dict[Any, str]) -> Waiting:
    return Waiting(
        run_id=str(run.id),
        name=run.name,
        stack=str(run.parameters.get("stack", "")),
        queue=queues.get(run.work_queue_id, ""),
        due=run.expected_start_time or datetime.now(UTC),
    )


async def watch_late(gateway: Gateway) -> None:
    """Look every minute, for ever; one for each gateway."""
    watch = LateWatch(gateway)
    while True:
        await watch.look()
        await asyncio.sleep(EVERY_S)
