"""Which runs are dead or stuck, and which lock slots nobody holds any more. Pure.

Invariant: what could still be alive is never ended and never loses its lock. Only a silence after
a sign of life, or a state that lasts far longer than it can, counts; what never gave a sign of
life (a run in the operator's own shell) is reported and left to a person.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from blocks.models import Frozen
from blocks.prefect_models import ActiveRun, Lease, Lock
from flows.decisions.words import span

Rule = Literal["pending-too-long", "heartbeat-stopped", "cancelling-too-long", "never-beat"]


class Patience(Frozen):
    """How long is too long, in seconds."""

    pending_s: float = Field(default=600, gt=0, le=86_400, description="in PENDING, seconds")
    silence_s: float = Field(
        default=150, gt=0, le=86_400, description="without the heartbeat it had, seconds"
    )
    cancelling_s: float = Field(
        default=900, gt=0, le=86_400, description="in CANCELLING without a heartbeat, seconds"
    )
    confirm_s: float = Field(
        default=40,
        ge=0,
        le=600,
        description="to a second look at the silent ones, seconds; longer than a heartbeat (30), "
        "so that a server which was away itself takes no living run for dead",
    )
    leak_s: float = Field(
        default=5, ge=0, le=30, description="to a second look at a slot without a lease, seconds"
    )
    expired_s: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="after its end a lease is ours to free, seconds; the server does it in 15",
    )


class StuckRun(Frozen):
    """A run that needs an end, or a person."""

    run: ActiveRun
    rule: Rule
    ends: bool
    """Whether it may be ended; False: it is only reported."""
    reason: str


def judge_runs(
    runs: tuple[ActiveRun, ...], now: datetime, patience: Patience
) -> tuple[StuckRun, ...]:
    """Those that are dead or stuck, in the order given; the others are left out.

    Args:
        runs: not ended yet.
        now: the server's time, as are the times of the runs.
        patience: how long is too long.
    """
    return tuple(found for run in runs if (found := _judge(run, now, patience)))


def _judge(run: ActiveRun, now: datetime, patience: Patience) -> StuckRun | None:
    age = (now - run.since).total_seconds()
    silent = (now - run.last_beat).total_seconds() if run.last_beat else None
    if run.state == "PENDING":
        if age <= patience.pending_s:
            return None
        why = f"PENDING for {span(age)}: the worker that took it never started it"
        return StuckRun(run=run, rule="pending-too-long", ends=True, reason=why)
    if run.state == "CANCELLING":
        # An undo takes as long as a start; while it beats, it is at work.
        if age <= patience.cancelling_s or (silent is not None and silent <= patience.silence_s):
            return None
        why = f"CANCELLING for {span(age)} and without a heartbeat"
        return StuckRun(run=run, rule="cancelling-too-long", ends=True, reason=why)
    if silent is None:
        if age <= patience.silence_s:
            return None
        why = (
            f"RUNNING for {span(age)} and it never beat; a run with --local does not, so it is "
            "left to a person"
        )
        return StuckRun(run=run, rule="never-beat", ends=False, reason=why)
    # A resumed run has its old beats: its silence begins with its present state.
    silent = min(silent, age)
    if silent <= patience.silence_s:
        return None
    why = f"RUNNING, and its heartbeat stopped {span(silent)} ago"
    return StuckRun(run=run, rule="heartbeat-stopped", ends=True, reason=why)


SlotStatus = Literal["free", "held", "stale", "leaked", "unknown"]


class SlotFinding(Frozen):
    """Who holds a lock. `stale`: a lease to be released; `leaked`: a slot without any lease."""

    name: str
    status: SlotStatus
    reason: str
    lease_id: str = ""


def judge_lock(
    lock: Lock, ends: Mapping[str, datetime | None], now: datetime, patience: Patience
) -> SlotFinding:
    """Whether a lock's slot is held by something that may live.

    `leaked` holds only once `confirmed` by a second look: a slot is taken an instant before its
    lease is written.

    Args:
        lock: with its leases, or the reason why they cannot be seen.
        ends: of the leases' holders: run id -> when it ended, None while it has not. A run that
            is not in it is unknown, and then only the lease's own end counts.
        now: the server's time.
        patience: how long is too long.
    """
    if lock.slots <= 0:
        return SlotFinding(name=lock.name, status="free", reason="nobody holds it")
    if lock.leases is None:
        why = f"it is held, and by whom cannot be seen: {lock.unseen or 'no reason given'}"
        return SlotFinding(name=lock.name, status="unknown", reason=why)
    if not lock.leases:
        why = "its slot is taken and no lease stands for it: nothing would ever free it"
        return SlotFinding(name=lock.name, status="leaked", reason=why)
    for lease in lock.leases:
        if why := _over(lease, ends, now, patience):
            return SlotFinding(name=lock.name, status="stale", reason=why, lease_id=lease.id)
    by = next((f"run {x.holder[:8]}" for x in lock.leases if x.holder), "a run that gave no name")
    return SlotFinding(name=lock.name, status="held", reason=f"held by {by}")


def _over(
    lease: Lease, ends: Mapping[str, datetime | None], now: datetime, patience: Patience
) -> str:
    """Why nobody can be holding this lease any more; empty when somebody may."""
    expired = (now - lease.expires_at).total_seconds()
    if expired > patience.expired_s:
        return f"its lease expired {span(expired)} ago and the server did not free it"
    ended = ends.get(lease.holder) if lease.holder else None
    if ended is None or lease.renewed_at > ended:
        # A lease that is renewed after its run's end has a process that lives and may act.
        return ""
    # A living holder renews at three quarters of the lease.
    length = (lease.expires_at - lease.renewed_at).total_seconds()
    if (now - lease.renewed_at).total_seconds() <= 0.8 * length:
        return ""
    return (
        f"its holder, run {str(lease.holder)[:8]}, ended {span((now - ended).total_seconds())} ago"
    )


def confirmed(first: Lock, second: Lock) -> bool:
    """Whether two looks saw the same slot without a lease: nobody took or gave it in between."""
    return (
        first.leases == second.leases == ()
        and first.slots > 0
        and second.slots > 0
        and first.touched_at is not None
        and first.touched_at == second.touched_at
    )
