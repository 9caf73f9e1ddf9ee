"""How many readings are under way at once, and whose: the dead do not hold up the living."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class Places:
    """`at_once` places, shared out among the machines that are still to be read.

    Each machine may take as many as it has readings, up to one and the same share: the largest
    with which all of them fit. So where there are no more machines than places, each has a place
    of its own at any time, and those that do not answer take nothing from the others. Readings
    are announced before they begin: a place that is kept for one is not given to another machine.

    Args:
        at_once: count, from 1.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = self._free = self._share = at_once
        self._left: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def expect(self, machines: Iterable[str]) -> None:
        """Announce readings, by the machine of each. Every one has to come, then, to `on`."""
        self._left.update(machines)
        self._divide()

    @asynccontextmanager
    async def on(self, machine: str) -> AsyncIterator[None]:
        """A place for one reading of a machine, once there is one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(machine, deque()).append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._used[machine] -= 1
            self._left[machine] -= 1
            if self._left[machine] <= 0:
                del self._left[machine]
                self._divide()
            self._admit()

    def _divide(self) -> None:
        free, sizes = self._at_once, sorted(self._left.values())
        self._share = self._at_once
        for at, size in enumerate(sizes):
            share = max(1, free // (len(sizes) - at))
            if size > share:
                self._share = share
                return
            free -= size

    def _admit(self) -> None:
        """Let in whoever waits, a machine after the other."""
        for machine in list(self._waiting):
            if self._free <= 0:
                return
            queue = self._waiting.pop(machine)
            while queue and self._free > 0 and self._used[machine] < self._share:
                turn = queue.popleft()
                if turn.done():
                    continue  # it was cancelled while it waited
                turn.set_result(None)
                self._free -= 1
                self._used[machine] += 1
            if queue:
                self._waiting[machine] = queue  # behind the others
