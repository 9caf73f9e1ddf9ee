"""What the checks of one run share: the inventory, the readings, the memory of the last check."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

from blocks.check_memory import CheckMemory
from blocks.stack import StackSpec
from blocks.target import Target, target_of
from flows.checks.service_reader import read_service
from flows.decisions.check_services import ServiceReading
from tasks.check_reads import Read, Reader, Unread
from tasks.places import Places

T = TypeVar("T")
LOGS_AT_ONCE = 3
"""Of one machine: a log takes up to 4 MiB until it is counted, and one that hangs its place."""


class Platform:
    """One platform as one check sees it. Each thing is read once, whoever asks for it.

    Args:
        spec: the inventory.
        now: the time of the check (aware).
        memory: of the last check.
        places: shared with the platforms that are checked at the same time; default: its own.
    """

    def __init__(
        self,
        spec: StackSpec,
        now: datetime,
        memory: CheckMemory | None = None,
        places: Places | None = None,
    ) -> None:
        self.spec, self.now, self.memory = spec, now, memory
        self.policy = spec.checks
        self.since = now - timedelta(hours=spec.checks.window_h)
        self.targets: dict[str, Target] = {name: target_of(spec, name) for name in spec.services}
        self._reader = Reader(places or Places(spec.checks.at_once), spec.checks.deadline_s)
        self._logs = {m: asyncio.Semaphore(LOGS_AT_ONCE) for m in self.machines.values()}
        self._services: asyncio.Task[dict[str, ServiceReading]] | None = None

    async def read(
        self, kind: str, reads: Mapping[str, Read[T]], machine: Mapping[str, str] | None = None
    ) -> dict[str, T | Unread]:
        """Read things of one kind, in few task runs, each within the deadline."""
        return await self._reader.read(kind, reads, machine) if reads else {}

    async def services(self) -> dict[str, ServiceReading]:
        """One reading of every service."""
        if self._services is None:
            self._services = asyncio.create_task(self._read_services())
        return await asyncio.shield(self._services)

    @property
    def machines(self) -> dict[str, str]:
        """Service -> the machine that answers for it."""
        return {n: urlsplit(s.url).hostname or "" for n, s in self.spec.services.items()}

    async def _read_services(self) -> dict[str, ServiceReading]:
        machines = self.machines

        def reads(target: Target) -> Read[ServiceReading]:
            logs = self._logs[machines[target.name]]
            return lambda: read_service(target, self.since, self.now, self.policy.deadline_s, logs)

        wanted = {name: reads(target) for name, target in self.targets.items()}
        found = await self.read("services", wanted, machines)
        return {
            name: ServiceReading(name=name, problems={"state": seen.reason})
            if isinstance(seen, Unread)
            else seen
            for name, seen in found.items()
        }
