"""Tasks of the sweep: what Prefect itself says, and its repairs. All may be repeated."""

from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks import prefect_health, prefect_locks
from blocks.prefect_models import ActiveRun, Lock
from tasks.reads import is_transient


@task(
    name="read-active-runs",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 5],
    timeout_seconds=120,
    retry_condition_fn=is_transient,
)
async def read_active_runs(stack: str, leave: str) -> tuple[datetime, tuple[ActiveRun, ...]]:
    """The server's time, and the runs of this product that have not ended then."""
    runs = await prefect_health.read_active_runs(stack, leave)
    now = (await prefect_health.read_server()).now
    return now, runs


@task(
    name="read-locks",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 5],
    timeout_seconds=60,
    retry_condition_fn=is_transient,
)
async def read_locks(
    stack: str,
) -> tuple[datetime, tuple[Lock, ...], dict[str, datetime | None]]:
    """The server's time, the services' locks, and when the holders of their leases ended."""
    locks = await prefect_locks.read_locks(stack)
    holders = {lease.holder for lock in locks for lease in lock.leases or () if lease.holder}
    ends = await prefect_health.read_ends(holders)
    return (await prefect_health.read_server()).now, locks, ends


@task(
    name="end-run",
    task_run_name="end {run.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 5],
    timeout_seconds=30,
    retry_condition_fn=is_transient,
)
async def end_run(run: ActiveRun, reason: str) -> bool:
    """Set one run to Crashed unless it moved on since; whether it was done."""
    done = await prefect_health.end_run(run, reason)
    get_run_logger().warning("%s: %s: %s", run.name, "ended" if done else "moved on", reason)
    return done


@task(name="free-slot", task_run_name="free {name}", cache_policy=NO_CACHE, timeout_seconds=30)
async def free_slot(name: str, lease_id: str, reason: str) -> None:
    """Release one lease, or empty a lock that has none. Not repeated: the next sweep looks anew."""
    if lease_id:
        await prefect_locks.release_lease(lease_id)
    else:
        await prefect_locks.empty_lock(name)
    get_run_logger().warning("%s: freed: %s", name, reason)
