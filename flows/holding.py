"""Hold a service against every other run, and reconcile what a killed one left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    concurrency,
)
from prefect.logging import get_run_logger

from blocks.errors import Permanent, Unsafe
from blocks.journal import Act, Applied, Degraded, Verdict
from blocks.models import Receipt
from blocks.stack import lock_name
from blocks.target import runtime_of
from flows.decisions.step_down import step_back
from flows.interruption import sigterm_cancels
from flows.run import Run
from tasks.acts import keep_config, restore_config

LEASE_S = 60
"""How long a killed holder keeps its slot, s (Prefect's least); the sweep adds up to 2 s."""

RELEASE_S = 10
TRIES = 5
"""Of a slot that is free, on a server that is too busy to give it."""


@asynccontextmanager
async def holding(run: Run) -> AsyncIterator[None]:
    """Hold the service against every other run, and reconcile what a killed one left.

    Two locks: `flock` on this host's journal, freed by the kernel with the process, and the
    strict Prefect slot, seen by every host, whose lease the server frees within 60 s.

    Raises:
        Unsafe: `locked`. Permanent: the slot's limit is missing, or reconciling failed.
    """
    name = lock_name(run.target.stack, run.target.name)
    with run.journal.held(), sigterm_cancels():
        slot = await _acquired(run, name)
        try:
            await _reconcile(run)
            yield
        finally:
            try:
                # Prefect would ask a server that is away for minutes; people wait to be told.
                async with asyncio.timeout(RELEASE_S):
                    await slot.__aexit__(None, None, None)
            except Exception as e:  # noqa: BLE001 - its lease frees it; the verdict stands
                get_run_logger().warning("the lock %s frees itself: %s", name, type(e).__name__)


async def _acquired(run: Run, name: str) -> AbstractAsyncContextManager[None]:
    """The slot, held; a server that is too busy to answer is asked again, for it is not held."""
    for left in reversed(range(TRIES)):
        # A renewal that fails must not cancel a half-done act: the flock and the runtime's own
        # exclusivity still hold while the server is away.
        slot = concurrency(
            name,
            timeout_seconds=6,  # a busy server (SQLite) takes seconds to answer
            lease_duration=LEASE_S,
            strict=True,
            # Its name on the lease: the sweep frees what an ended run still holds.
            holder=ConcurrencyLeaseHolder(type="flow_run", id=UUID(run.run_id)),
            raise_on_lease_renewal_failure=False,
        )
        try:
            await slot.__aenter__()
            break
        except (AcquireConcurrencySlotTimeoutError, TimeoutError) as e:
            if left and await _is_free(name):
                get_run_logger().warning("the lock %s is free, and the server is slow", name)
                continue
            raise Unsafe(
                "locked",
                f"another run holds {name}; a killed run's lock frees itself within a minute",
            ) from e
        except ConcurrencySlotAcquisitionError as e:
            raise Permanent(f"the lock {name} cannot be taken: {e}; run: runbooks apply") from e
    return slot


async def _is_free(name: str) -> bool:
    """Whether nobody holds the slot; False where that cannot be known."""
    try:
        async with asyncio.timeout(RELEASE_S), get_client() as client:
            limit = await client.read_global_concurrency_limit_by_name(name)
    except Exception:  # noqa: BLE001 - then it counts as held, and nothing is touched
        return False
    return limit.active_slots < limit.limit


async def _reconcile(run: Run) -> None:
    """Undo, or finish, the change that a killed run left in the journal."""
    entry = run.journal.entry()
    if entry is None:
        return
    runtime = runtime_of(run.target)
    verdict: Verdict = "error"
    did = "undone"
    if entry.phase == "verified" and await runtime.applied(entry.receipt):
        await keep_config(run.target, entry.receipt)
        did, verdict = "finished (it was verified)", "passed"
        settle(run, entry.procedure, entry.run_id, entry.receipt)
    else:
        await restore_config(run.target, entry.receipt)
    run.journal.finish(
        Act(
            at=datetime.now(UTC),
            procedure=entry.procedure,
            run_id=entry.run_id,
            verdict=verdict,
            reconciled=True,
        )
    )
    note = f"an interrupted {entry.procedure} (run {entry.run_id[:8]}) was {did}"
    run.notes.append(note)
    get_run_logger().warning("%s: %s", run.target.label, note)


def settle(run: Run, procedure: str, run_id: str, receipt: Receipt) -> None:
    """Write down that a change stays: what is in place, and whether it is less than asked for.

    Before its entry is dropped, so that a kill loses neither. A remediation leaves the service
    below what its operator asked for; a change asked for by the operator, and a restoration
    with nothing left to give back, end that state. A restart changes neither.
    """
    if receipt.before == receipt.after:
        return
    now = datetime.now(UTC)
    earlier = run.journal.applied()
    run.journal.save_applied(
        Applied(config=receipt.after, at=now, procedure=procedure, run_id=run_id)
    )
    if run.target.service.engine != "vllm":
        return  # a proxy's limits go back with rollback-serving
    if procedure.startswith("remediate-"):
        run.journal.mark_degraded(
            Degraded(
                original=receipt.before,
                since=now,
                procedure=procedure,
                run_id=run_id,
            )
        )
        return
    mark = run.journal.degraded()
    if mark is None or (earlier and earlier.config == receipt.after):
        return  # back to what the product itself had put in place: as degraded as that
    ladder = run.target.service.ladder
    if procedure != "restore-context" or not step_back(receipt.after, mark.original, ladder):
        run.journal.clear_degraded()
