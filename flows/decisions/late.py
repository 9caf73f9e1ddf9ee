"""When to tell people that nothing runs: runs that do not begin, workers that are silent. Pure."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from pydantic import Field

from blocks.models import Frozen

EVERY = "*"
Word = Literal["begins", "over", "none"]


class Waiting(Frozen):
    """One run that should have begun and has not."""

    run_id: str
    name: str
    stack: str = Field(description="as its parameter names it; empty: it has none")
    queue: str = Field(default="", description="its work queue, which is one host's")
    due: datetime = Field(description="when it should have begun, UTC")


class WorkerSeen(Frozen):
    """One worker of the pool, as the server knows it."""

    name: str
    online: bool
    beat: datetime | None = Field(default=None, description="its last heartbeat, UTC")
    interval_s: int = Field(default=30, description="from one heartbeat to the next")


class Sight(Frozen):
    """What the server said; `asked` false: it did not answer."""

    asked: bool = True
    runs: tuple[Waiting, ...] = ()
    workers: tuple[WorkerSeen, ...] = ()
    paused: tuple[str, ...] = Field(default=(), description="the pool and queues that are paused")


class LatePolicy(Frozen):
    """How long is too long."""

    late_s: int = Field(default=120, ge=1, description="after its time a run should have begun")
    silent_s: int = Field(default=180, ge=1, description="without an answer of the server")
    beats: int = Field(default=5, ge=2, description="missed heartbeats of a worker that is gone")


def online(workers: Collection[WorkerSeen], now: datetime, policy: LatePolicy) -> int:
    """How many workers live: the server says so, and their heartbeat is not too old for it."""
    return sum(
        w.online
        and w.beat is not None
        and (now - w.beat).total_seconds() <= policy.beats * w.interval_s
        for w in workers
    )


def trouble(
    sight: Sight, stack: str, known: Collection[str], now: datetime, policy: LatePolicy
) -> str:
    """What is wrong for one stack, in a sentence that says what to do; empty when all is well.

    A run that names no stack, every stack or an unknown one concerns all of them.
    """
    if not sight.asked:
        return "the Prefect server does not answer: nothing runs; look at `runbooks up`"
    here = [r for r in sight.runs if _concerns(r, stack, known) and _over(r, now) > policy.late_s]
    alive = online(sight.workers, now, policy)
    if not here:
        # One that was never there is not missed: the platform may just be set up.
        gone = sight.workers and not alive
        return f"no worker is online, so nothing would run; {_START}" if gone else ""
    oldest = min(here, key=lambda r: r.due)
    waits = f"{len(here)} run(s) should have begun and have not; {oldest.name} is "
    waits += f"{_over(oldest, now) / 60:.0f} min late"
    if sight.paused:
        return f"{waits}: {', '.join(sight.paused)} is paused; resume it in the Prefect UI"
    if not alive:
        return f"{waits}: no worker is online; {_START}"
    queues = ", ".join(sorted({r.queue for r in here if r.queue})) or "default"
    return f"{waits}, although a worker is online; is there one for work queue {queues}?"


_START = "start `runbooks up`, or look at its logs/worker.log"


def _concerns(run: Waiting, stack: str, known: Collection[str]) -> bool:
    return run.stack == stack or run.stack not in known


def _over(run: Waiting, now: datetime) -> float:
    return (now - run.due).total_seconds()


def word(told: bool, wrong: bool) -> Word:
    """What to tell people, who are told once when it begins and once when it is over."""
    if wrong == told:
        return "none"
    return "begins" if wrong else "over"
