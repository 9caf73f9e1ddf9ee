"""What `runbooks doctor` asks of Prefect itself: server, workers, deployments, locks, runs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import prefect
from prefect import get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound

from blocks.errors import Permanent
from blocks.prefect_health import ServerFacts, read_active_runs, read_ends, read_server
from blocks.prefect_locks import read_locks
from blocks.stack import StackSpec, lock_name
from deployments.bootstrap import HEARTBEAT
from deployments.connection import LEASES, POOL
from deployments.doctor_line import Line
from deployments.running import load_flow, procedures
from flows.decisions.finding import Status
from flows.decisions.stuck import Patience, judge_lock, judge_runs

SKEW_S = 30.0
POLLED = timedelta(seconds=120)
UP = "runbooks up"
SWEEP = "runbooks run sweep-runs --stack '*'"


def _line(subject: str, status: Status, message: str, fix: str = "") -> Line:
    return Line(
        area="prefect", subject=subject, status=status, message=message[:400], fix=fix[:400]
    )


async def server_lines(url: str) -> list[Line]:
    """Version, clock and lease storage of the server."""
    facts = await read_server()
    return [_version(url, facts), _clock(facts), _leases(facts)]


def _version(url: str, facts: ServerFacts) -> Line:
    theirs, ours = (v.split(".")[:2] for v in (facts.version, prefect.__version__))
    if theirs == ours:
        return _line("server", "ok", f"{url} answers, version {facts.version}")
    said = f"{url} is version {facts.version}, this is {prefect.__version__}"
    fix = f"pip install 'prefect=={prefect.__version__}' on the server's machine"
    return _line("server", "fail" if theirs[:1] != ours[:1] else "warn", said, fix)


def _clock(facts: ServerFacts) -> Line:
    if abs(facts.skew_s) <= SKEW_S:
        return _line("clock", "ok", f"{facts.skew_s:+.0f} s from the server's")
    said = f"this machine's clock is {facts.skew_s:+.0f} s from the Prefect server's"
    return _line("clock", "warn", said, "sudo timedatectl set-ntp true, on both")


def _leases(facts: ServerFacts) -> Line:
    if not facts.lease_storage.endswith(".memory"):
        return _line("leases", "ok", f"kept in {facts.lease_storage.rsplit('.', 1)[-1]}")
    return _line(
        "leases",
        "warn",
        "the server keeps lock leases in memory: a restart leaks every held lock for good",
        f"export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LEASES} and restart the server",
    )


async def pool_lines(spec: StackSpec) -> list[Line]:
    """The work pool, a worker that lives, and the queues that the stack's services use."""
    queues = sorted({s.work_queue for s in spec.services.values()} | {"default"})
    async with get_client() as client:
        try:
            pool = await client.read_work_pool(POOL)
        except ObjectNotFound:
            return [_line("work pool", "fail", f"{POOL} does not exist", UP)]
        workers = await client.read_workers_for_work_pool(POOL)
        found = {q.name: q for q in await client.read_work_queues(work_pool_name=POOL)}
    lines = []
    if pool.is_paused:
        fix = f"prefect work-pool resume {POOL}"
        lines.append(_line("work pool", "fail", f"{POOL} is paused: nothing starts", fix))
    online = [w.name for w in workers if w.status == WorkerStatus.ONLINE]
    if not online:
        last = max((w.last_heartbeat_time for w in workers if w.last_heartbeat_time), default=None)
        seen = f"the last was seen at {last:%Y-%m-%d %H:%M} UTC" if last else "none was ever seen"
        lines.append(_line("worker", "fail", f"no worker polls {POOL}; {seen}", UP))
    else:
        lines.append(_line("worker", "ok", f"{len(online)} online"))
    return lines + [_queue(name, found.get(name), bool(online)) for name in queues]


def _queue(name: str, queue: Any, online: bool) -> Line:
    subject = f"queue {name}"
    if queue is None:
        return _line(subject, "fail", "does not exist", "runbooks apply STACK.yaml")
    if queue.is_paused:
        fix = f"prefect work-queue resume {name} --pool {POOL}"
        return _line(subject, "fail", "is paused: its runs wait for ever", fix)
    start = f"prefect worker start --pool {POOL} --work-queue {name}, on the host it stands for"
    fix = UP if name == "default" else start
    polled = queue.last_polled
    if polled is None:
        return _line(subject, "fail", "no worker ever polled it", fix)
    age = datetime.now(UTC) - polled
    if age > POLLED or not online:
        said = f"last polled at {polled:%Y-%m-%d %H:%M:%S} UTC"
        return _line(subject, "fail" if not online else "warn", said, fix)
    return _line(subject, "ok", "is polled")


async def deployment_lines(spec: StackSpec) -> list[Line]:
    """Every procedure is deployed as this installation declares it; schedules are as told."""
    lines, off = [], []
    async with get_client() as client:
        for name, entrypoint in procedures().items():
            try:
                found = await client.read_deployment_by_name(f"{name}/{name}")
            except ObjectNotFound:
                lines.append(_line(name, "fail", "is not deployed", f"restart it: {UP}"))
                continue
            if problem := await asyncio.to_thread(_differs, name, entrypoint, found):
                lines.append(_line(name, "fail", problem, f"restart it: {UP}"))
            if found.paused:
                fix = f"prefect deployment resume {name}/{name}"
                lines.append(_line(name, "warn", "its deployment is paused", fix))
            off += [name for s in found.schedules if not s.active]
    if off and spec.schedules:
        said = f"schedules: true, but off for {', '.join(off)}"
        lines.append(_line("schedules", "warn", said, "runbooks apply STACK.yaml"))
    return lines or [_line("deployments", "ok", f"{len(procedures())} procedures are deployed")]


def _differs(name: str, entrypoint: str, found: Any) -> str:
    """Why a deployment would not run this installation's flow; empty when it would."""
    if found.entrypoint != entrypoint:
        return f"is deployed from {found.entrypoint}, not {entrypoint}"
    if found.work_pool_name != POOL:
        return f"is deployed to the pool {found.work_pool_name}, not {POOL}"
    try:
        flow = load_flow(name)
    except Exception as e:  # noqa: BLE001 - whatever an import raises, its run would too
        return f"cannot be imported here ({type(e).__name__}); its runs would crash"
    # A deploy of a flow that could not be imported makes a placeholder, which knows none.
    deployed = set((found.parameter_openapi_schema or {}).get("properties") or {})
    if missing := set(flow.parameters.properties) - deployed:
        return f"was deployed by another version: it lacks {', '.join(sorted(missing))}"
    return ""


async def lock_lines(spec: StackSpec) -> list[Line]:
    """Every service has its lock, and nobody dead holds it."""
    locks = {lock.name: lock for lock in await read_locks(spec.name)}
    holders = {x.holder for lock in locks.values() for x in lock.leases or () if x.holder}
    ends, now = await read_ends(holders), (await read_server()).now
    lines = []
    for service in spec.services:
        name = lock_name(spec.name, service)
        lock = locks.get(name)
        subject = f"lock of {service}"
        if lock is None:
            said = f"{name} does not exist: every change would be refused"
            lines.append(_line(subject, "fail", said, "runbooks apply STACK.yaml"))
            continue
        if lock.limit != 1 or not lock.active:
            said = f"{name} has limit {lock.limit}, {'' if lock.active else 'not '}active; not 1"
            lines.append(_line(subject, "fail", said, "runbooks apply STACK.yaml"))
        found = judge_lock(lock, ends, now, Patience())
        status: Status = {"leaked": "fail", "stale": "fail", "unknown": "unknown"}.get(
            found.status, "ok"
        )  # type: ignore[assignment]
        fix = SWEEP if status == "fail" else ""
        if status == "unknown":
            fix = "run doctor on the Prefect server's machine, or wait for the run that holds it"
        lines.append(_line(subject, status, found.reason, fix))
    return lines


async def run_lines() -> list[Line]:
    """Runs that died without a word, of every stack: they may hold what this one needs."""
    runs = await read_active_runs("*")
    found = judge_runs(runs, (await read_server()).now, Patience())
    by_hand = "if its process is gone: prefect flow-run cancel {}"
    return [
        _line(
            f"run {one.run.name}",
            "fail" if one.ends else "warn",
            one.reason,
            SWEEP if one.ends else by_hand.format(one.run.id),
        )
        for one in found
    ] or [_line("runs", "ok", f"{len(runs)} under way, none is stuck")]


async def automation_lines() -> list[Line]:
    """The automation that ends runs whose heartbeat stopped."""
    async with get_client() as client:
        found = await client.read_automations_by_name(HEARTBEAT)
    if not found:
        said = "is missing: a killed run stays Running for ever"
        return [_line("heartbeat automation", "fail", said, f"restart it: {UP}")]
    if not any(a.enabled for a in found):
        fix = f"prefect automation resume '{HEARTBEAT}'"
        return [_line("heartbeat automation", "fail", "is switched off", fix)]
    return [_line("heartbeat automation", "ok", "is on")]


async def registered_lines(spec: StackSpec) -> list[Line]:
    """Whether the server's copy of the inventory is the one that was given."""
    from blocks.stack_blocks import load_stack

    try:
        there = await load_stack(spec.name)
    except Permanent as e:
        message, _, _ = str(e).partition("; ")
        return [_line("inventory", "warn", message, "runbooks apply STACK.yaml")]
    if there != spec:
        said = "the server has another version of this inventory: schedules and the UI use that"
        return [_line("inventory", "warn", said, "runbooks apply STACK.yaml")]
    return [_line("inventory", "ok", "the server has this inventory")]
