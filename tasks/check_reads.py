"""Many readings as few task runs: each bounded in time, none of them ever raises."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.deadline import ended
from blocks.errors import RunbookError
from blocks.models import Frozen
from tasks.places import Places

T = TypeVar("T")
Read = Callable[[], Awaitable[T]]
MOST_TASKS = 20
"""Of one kind: a task run costs 12 to 23 ms, whatever it reads."""
FEWEST_READS = 5
"""In one task run, where there are so many."""


class Unread(Frozen):
    """What could not be read, and why."""

    reason: str


async def within(read: Awaitable[T], seconds: float) -> T | Unread:
    """One reading, or why there is none; never raises but for a cancellation.

    A reading that is late is left behind, not waited for: a blocking call in a thread ends by
    its own time-out, and must not hold the others meanwhile.
    """
    work = await ended(seconds, read)
    if work is None:
        return Unread(reason=f"not read within {seconds:.3g} s")
    error = work.exception()
    if error is None:
        return work.result()
    if isinstance(error, RunbookError):
        return Unread(reason=str(error)[:300])
    return Unread(reason=f"{type(error).__name__}: {str(error)[:200]}")


@task(name="read-many", task_run_name="read {label}", cache_policy=NO_CACHE)
async def read_many(
    label: str, reads: Mapping[str, Callable[[], Awaitable[Any]]]
) -> dict[str, Any]:
    """One task run for a group of readings that are made at once; none of them raises."""
    found = dict(zip(reads, await asyncio.gather(*(r() for r in reads.values())), strict=True))
    late = [name for name, value in found.items() if isinstance(value, Unread)]
    if late:
        get_run_logger().warning("%s: %s of %s not read", label, len(late), len(found))
    return found


class Reader:
    """Reads things in groups: so many at once, each within its deadline.

    Args:
        places: how many at once, shared by all readers of a run.
        deadline_s: of one reading, seconds from its beginning.
    """

    def __init__(self, places: Places, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._places = places

    async def read(
        self, kind: str, reads: Mapping[str, Read[T]], machine: Mapping[str, str] | None = None
    ) -> dict[str, T | Unread]:
        """Read every thing of one kind.

        Args:
            kind: what they are, for the names of the task runs.
            reads: name -> how it is read.
            machine: name -> where it is; default: each on a machine of its own.
        """
        names = list(reads)
        where = {name: (machine or {}).get(name) or f"{kind} {name}" for name in names}
        self._places.expect(where.values())
        count = max(1, min(MOST_TASKS, len(names) // FEWEST_READS))
        groups = []
        for number in range(count):
            mine = names[number::count]
            label = kind if count == 1 else f"{kind} {number + 1}/{count}"
            groups.append(read_many(label, {n: self._placed(reads[n], where[n]) for n in mine}))
        merged: dict[str, T | Unread] = {}
        for found in await asyncio.gather(*groups):
            merged |= found
        return {name: merged[name] for name in names}

    def _placed(self, read: Read[T], machine: str) -> Callable[[], Awaitable[T | Unread]]:
        async def placed() -> T | Unread:
            async with self._places.on(machine):
                return await within(read(), self.deadline_s)

        return placed
