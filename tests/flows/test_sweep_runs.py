"""The sweep on a real server: the dead are ended, their locks freed, the living untouched."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import MissingResult, ObjectNotFound
from prefect.states import Cancelling, Completed, Pending, Running
from prefect.types._concurrency import ConcurrencyLeaseHolder

from blocks.prefect_health import POOL
from blocks.prefect_locks import PROBES, drop_probes, freeing, lease_folder, read_locks
from deployments import connection
from flows.decisions.stuck import Patience
from flows.report import Options, Report
from flows.sweep_runs import sweep_runs
from tests.conftest import PrefectServer
from tests.flows.support import artifacts

QUICK = Patience(pending_s=1, silence_s=3, cancelling_s=1, confirm_s=0.5, leak_s=0.3, expired_s=60)


@flow(name="remediate-oom")
async def stand_in() -> None:
    """Only its runs are of interest."""


@pytest.fixture
def stack(home: object, prefect_server: PrefectServer) -> str:
    return f"t-{uuid4().hex[:8]}"


async def made(stack: str, state: Any = None, *, ours: bool = True) -> UUID:
    """A run in a state, as a worker that died leaves it."""
    async with get_client() as client:
        tags = [f"stack:{stack}", *(["procedure:remediate-oom"] if ours else [])]
        run = await client.create_flow_run(stand_in, tags=tags, state=Pending())
        if state:
            await client.set_flow_run_state(run.id, state, force=True)
    return run.id


async def beat(*runs: UUID) -> None:
    """Heartbeats, with company: the server writes events down every 5 s, or 20 at a time."""
    now = datetime.now(UTC).isoformat()
    events = [
        {
            "id": str(uuid4()),
            "occurred": now,
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }
        for run in (*runs, *(uuid4() for _ in range(20)))
    ]
    async with get_client() as client:
        (await client._client.post("/events", json=events)).raise_for_status()


async def state_of(run: UUID) -> tuple[str, str]:
    async with get_client() as client:
        found = (await client.read_flow_run(run)).state
    assert found
    return found.name, found.message or ""


async def lock(stack: str, service: str = "wintermute") -> str:
    name = f"service:{stack}:{service}"
    async with get_client() as client:
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=1, active=True)
        )
    return name


async def take(name: str, length: float = 60, holder: UUID | None = None) -> str:
    by = ConcurrencyLeaseHolder(type="flow_run", id=holder) if holder else None
    async with get_client() as client:
        got: Any = await client.increment_concurrency_slots_with_lease(
            [name], 1, "concurrency", lease_duration=length, holder=by
        )
    return str(got.json()["lease_id"])


async def leak(name: str) -> None:
    """What a server that dies between the slot and its lease leaves behind."""
    async with get_client() as client:
        await client.increment_concurrency_slots([name], 1, "concurrency")


async def slots(name: str) -> int:
    async with get_client() as client:
        return (await client.read_global_concurrency_limit_by_name(name)).active_slots


async def sweep(stack: str, patience: Patience = QUICK, **flags: Any) -> Report:
    options = Options(actor="ada", source="schedule", **flags)
    state: Any = await sweep_runs(stack, options, patience, return_state=True)
    assert state.name == ("Planned" if flags else "Passed"), state.message
    try:
        report = await state.result()
    except MissingResult:  # a slow server: Prefect said the state twice, and got it back without
        found = await artifacts(str(state.state_details.flow_run_id))
        return Report.model_validate_json(found["sweep-runs-data"])
    assert isinstance(report, Report)
    return report


@pytest.fixture
async def living(stack: str) -> AsyncIterator[UUID]:
    """A run that beats."""
    run = await made(stack, Running())

    async def keep_beating() -> None:
        while True:
            await beat(run)
            await asyncio.sleep(0.3)

    task = asyncio.create_task(keep_beating())
    yield run
    task.cancel()


async def test_the_dead_are_ended_and_the_living_are_not(stack: str, living: UUID) -> None:
    silent, cancelling = await made(stack, Running()), await made(stack, Cancelling())
    pending, quiet = await made(stack), await made(stack, Running())
    foreign, done = await made(stack, ours=False), await made(stack, Completed())
    other = await made(f"{stack}-other")
    await beat(silent)
    await asyncio.sleep(4.7)  # the server's clock has whole seconds

    planned = await sweep(stack, dry_run=True)
    assert planned.message == "3 runs would be ended, 0 slots would be freed"
    assert (await state_of(pending))[0] == "Pending"
    assert list(await artifacts(planned.run_id)) == ["sweep-runs-data"]

    first, second = await asyncio.gather(sweep(stack), sweep(stack))
    counts = sorted(int(r.message.split()[0]) for r in (first, second))
    # A run on which both looked at the same moment is ended twice, to the same end: the server
    # compares nothing when a state is forced.
    assert sum(counts) >= 3 and counts[1] <= 3, (first.notes, second.notes)
    for run, rule in (
        (silent, "heartbeat-stopped"),
        (pending, "pending-too-long"),
        (cancelling, "cancelling-too-long"),
    ):
        name, message = await state_of(run)
        assert name == "Crashed" and rule in message
    assert [(await state_of(r))[0] for r in (living, quiet, foreign, done, other)] == [
        *("Running", "Running", "Pending", "Completed", "Pending")
    ]
    assert any("never beat" in note and str(quiet)[:8] in note for note in first.notes)
    assert not any(str(living)[:8] in note for note in first.notes + second.notes)
    records = [await artifacts(r.run_id) for r in (first, second) if r.message[0] != "0"]
    assert all("sweep-runs-record" in found for found in records) and records

    again = await sweep(stack)
    assert again.message == "0 runs ended, 0 slots freed"
    assert await artifacts(again.run_id) == {}


async def test_a_run_that_beats_again_before_the_second_look_lives(stack: str) -> None:
    """After the server was away every run seems silent."""
    run = await made(stack, Running())
    await beat(run)
    await asyncio.sleep(4.7)

    async def comes_back() -> None:
        await asyncio.sleep(0.3)
        await beat(run)

    patience = QUICK.model_copy(update={"confirm_s": 1.5})
    report, _ = await asyncio.gather(sweep(stack, patience), comes_back())
    assert report.message.startswith("0 runs") and (await state_of(run))[0] == "Running"


async def test_leaked_slots_are_freed_and_held_ones_are_not(stack: str) -> None:
    dead, alive = await made(stack, Completed()), await made(stack, Running())
    leaked, held, nameless, ended = [await lock(stack, x) for x in ("a", "b", "c", "d")]
    await leak(leaked)
    await take(held, holder=alive)
    await take(nameless)
    stale = await take(ended, holder=dead)
    folder, why = await lease_folder()
    assert folder is not None, why

    fresh = await sweep(stack, dry_run=True)
    assert "0 runs would be ended, 1 slot would be freed" in fresh.message, fresh.notes
    assert await slots(leaked) == 1

    long_ago = time.time() - 600  # a living holder would have renewed it since
    os.utime(folder / f"{stale}.json", (long_ago, long_ago))
    both = await asyncio.gather(sweep(stack), sweep(stack))
    assert sum(int(r.message.split(", ")[1].split()[0]) for r in both) == 2, [r.notes for r in both]
    assert [await slots(x) for x in (leaked, held, nameless, ended)] == [0, 1, 1, 0]
    assert not (folder / f"{stale}.json").exists()
    await take(leaked)  # and it can be held again
    assert (await sweep(stack)).message == "0 runs ended, 0 slots freed"
    assert await slots(leaked) == 1


async def test_a_slot_taken_anew_between_the_looks_is_not_freed(stack: str) -> None:
    name = await lock(stack)
    await leak(name)

    async def moves_on() -> None:
        await asyncio.sleep(0.8)
        async with get_client() as client:
            await client.release_concurrency_slots([name], 1, 1.0)
        await take(name)

    patience = QUICK.model_copy(update={"leak_s": 2.5})
    report, _ = await asyncio.gather(sweep(stack, patience), moves_on())
    assert "0 slots freed" in report.message, report.notes
    assert await slots(name) == 1


async def test_only_one_sweep_frees_at_a_time(stack: str) -> None:
    name = await lock(stack)
    await leak(name)
    folder, _ = await lease_folder()
    assert folder
    with freeing(folder) as alone:
        assert alone
        report = await sweep(stack)
        assert "another sweep" in report.notes[-1] and await slots(name) == 1
    assert (await sweep(stack)).message.endswith("1 slot freed")


async def test_leases_kept_elsewhere_are_never_taken_for_a_leak(
    stack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A folder of this machine that has the name of the server's is not the server's."""
    from blocks import prefect_locks

    name = await lock(stack)
    await take(name)
    true = prefect_locks.read_server

    async def elsewhere() -> Any:
        return (await true()).model_copy(update={"lease_folder": str(tmp_path)})

    monkeypatch.setattr(prefect_locks, "read_server", elsewhere)
    (seen,) = await read_locks(stack)
    assert seen.leases is None and "another machine" in seen.unseen
    report = await sweep(stack)
    assert await slots(name) == 1 and "cannot be seen" in report.notes[0]
    async with get_client() as client:
        found = await client.read_global_concurrency_limits(limit=200)
    assert not [x.name for x in found if x.name.startswith(PROBES)]


async def test_a_sweep_that_was_killed_leaves_nothing_for_good(stack: str) -> None:
    """Its own limit, made to find the leases, goes later; a young one may be in use."""
    name = f"{PROBES}{uuid4().hex}"
    async with get_client() as client:
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=1, active=True)
        )
        await sweep(stack)
        assert (await client.read_global_concurrency_limit_by_name(name)).limit == 1
        assert await drop_probes(older_s=0) >= 1
        with pytest.raises(ObjectNotFound):
            await client.read_global_concurrency_limit_by_name(name)


def test_the_pool_is_the_one_that_deployments_use() -> None:
    assert POOL == connection.POOL
