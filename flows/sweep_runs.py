"""End the runs that died without a word, and free the locks that nobody holds."""

import asyncio
from datetime import UTC, datetime

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.errors import RunbookError
from blocks.journal import Verdict
from blocks.prefect_locks import drop_probes, freeing, lease_folder
from blocks.prefect_models import Lock
from flows.dead_man import HOOKS
from flows.decisions.stuck import (
    Patience,
    SlotFinding,
    StuckRun,
    confirmed,
    judge_lock,
    judge_runs,
)
from flows.procedure import state_of
from flows.report import Options, Report
from tasks.escalations import ESCALATE, resume_escalation
from tasks.prefect_reads import end_run, free_slot, read_active_runs, read_locks
from tasks.records import attempted, publish_artifact

NAME = "sweep-runs"
FREED = ("leaked", "stale")


@flow(name=NAME, flow_run_name="sweep-runs {stack}", **HOOKS)
async def sweep_runs(
    stack: str = "*",
    options: Options = Options(),  # noqa: B008
    patience: Patience = Patience(),  # noqa: B008
) -> State[Report]:
    """End runs that died without a word and free the locks they leaked; the living stay untouched.

    A worker killed with its runs leaves them PENDING or RUNNING for ever, and with them, at
    times, the slot of a service's lock: every later run on that service would be refused. Safe
    at any time, twice at once, and after being killed itself.

    Args:
        stack: Only runs and locks of this stack, or * for every one.
        options: Dry run, actor, source.
        patience: How long is too long.
    """
    if "auto-scheduled" in (flow_run.tags or ()):
        options = options.model_copy(update={"source": "schedule", "actor": "schedule"})
    began, notes = datetime.now(UTC), list[str]()
    verdict: Verdict = "planned" if options.dry_run else "passed"
    ended = freed = 0
    for part in (_sweep_runs, _sweep_locks):
        try:
            count, said = await part(stack, options.dry_run, patience)
        except RunbookError as e:  # the other part may still do its work
            verdict, count, said = "error", 0, [str(e)]
        ended, freed = (ended + count, freed) if part is _sweep_runs else (ended, count)
        notes += said
    would = "would be " if options.dry_run else ""
    report = Report(
        procedure=NAME,
        stack=stack,
        service="*",
        run_id=str(flow_run.id),
        actor=options.actor or "unknown",
        source=options.source,
        started_at=began,
        duration_s=round((datetime.now(UTC) - began).total_seconds(), 3),
        verdict=verdict,
        message=f"{_count(ended, 'run')} {would}ended, {_count(freed, 'slot')} {would}freed",
        next_step="look at the server, then run it again" if verdict == "error" else "",
        notes=tuple(notes),
    )
    await _record(report, bool(ended or freed))
    return state_of(report)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- runs ---------------------------------------------------------------------------------------


async def _sweep_runs(stack: str, dry_run: bool, patience: Patience) -> tuple[int, list[str]]:
    own = str(flow_run.id)
    now, runs = await read_active_runs(stack, own)
    found = judge_runs(runs, now, patience)
    if any(f.rule != "pending-too-long" and f.ends for f in found) and not dry_run:
        # After the server was away every run seems silent: the living beat again meanwhile.
        await asyncio.sleep(patience.confirm_s)
        now, runs = await read_active_runs(stack, own)
        found = judge_runs(runs, now, patience)
    notes, ended = [], 0
    for one in found:
        done = one.ends and (dry_run or await end_run(one.run, _reason(one)))
        ended += done
        what = ("would end" if dry_run else "ended") if done else "left"
        why = "" if done or not one.ends else " (it moved on meanwhile)"
        notes.append(f"{what} {one.run.name} ({one.run.id[:8]}): {one.reason}{why}")
        if done and not dry_run and one.run.name.startswith(ESCALATE):
            notes.append(await _resumed(one.run.id))
    return ended, notes


async def _resumed(run_id: str) -> str:
    """Somebody was being called by that run, and may not have answered yet."""
    try:
        return f"run {(await resume_escalation(run_id))[:8]} goes on calling people"
    except RunbookError as e:
        return f"nobody goes on calling people: {e}"


def _reason(found: StuckRun) -> str:
    return f"sweep-runs ({found.rule}): {found.reason}; the next run on the service reconciles"


# ---- locks --------------------------------------------------------------------------------------


async def _sweep_locks(stack: str, dry_run: bool, patience: Patience) -> tuple[int, list[str]]:
    if not dry_run:
        await drop_probes()
    first = await _judged(stack, patience)
    notes = [f"left {f.name}: {f.reason}" for _, f in first.values() if f.status == "unknown"]
    suspects = [f for _, f in first.values() if f.status in FREED]
    if not suspects:
        return 0, notes
    if dry_run:
        return len(suspects), [*notes, *(f"would free {f.name}: {f.reason}" for f in suspects)]
    folder, unseen = await lease_folder()
    if folder is None:
        return 0, [*notes, *(f"left {f.name}: {unseen}" for f in suspects)]
    with freeing(folder) as alone:
        if not alone:
            return 0, [*notes, "another sweep frees slots at this moment"]
        await asyncio.sleep(patience.leak_s)
        second = await _judged(stack, patience)
        sure = [f for f in suspects if _sure(first[f.name], second.get(f.name))]
        for one in sure:
            await free_slot(one.name, one.lease_id, one.reason)
    notes += [f"freed {f.name}: {f.reason}" for f in sure]
    notes += [f"left {f.name}: it moved on meanwhile" for f in suspects if f not in sure]
    return len(sure), notes


async def _judged(stack: str, patience: Patience) -> dict[str, tuple[Lock, SlotFinding]]:
    now, locks, ends = await read_locks(stack)
    return {lock.name: (lock, judge_lock(lock, ends, now, patience)) for lock in locks}


def _sure(first: tuple[Lock, SlotFinding], second: tuple[Lock, SlotFinding] | None) -> bool:
    """Whether a second look saw the same leak, or the same lease that nobody renews."""
    if second is None or second[1].status != first[1].status:
        return False
    if first[1].status == "leaked":
        return confirmed(first[0], second[0])
    return second[1].lease_id == first[1].lease_id


# ---- record -------------------------------------------------------------------------------------


async def _record(report: Report, did: bool) -> None:
    """A page only where something was done; data also for a person who waits for it."""
    get_run_logger().info(report.headline)
    if did and report.verdict != "planned":
        lines = [f"# {report.headline}", *(f"- {note}" for note in report.notes)]
        page = "\n".join(lines)
        await attempted("record", lambda: publish_artifact(f"{NAME}-record", page, report.headline))
    if did or report.source == "cli":
        data = report.model_dump(mode="json")
        await attempted("data", lambda: publish_artifact(f"{NAME}-data", data, report.headline))
