"""What the parts of the gateway share: the inbox, the metrics, the stacks and their tokens."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect import get_client
from prefect.context import AsyncClientContext

from blocks.audit_log import AuditLog
from blocks.errors import Permanent, RunbookError
from blocks.journal import home
from blocks.secret_ref import resolve
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stacks
from deployments.gateway.inbox import Inbox
from deployments.gateway.metrics import Metrics

log = logging.getLogger("runbooks.gateway")
FRESH_S = 30.0
"""How old a stack and its secrets may be while the Prefect server answers."""
AT_ONCE_S = 2.0
"""How often somebody who is not known may make us look anew."""
PROBE_S = 5.0
REFUSALS_S = 60.0
"""Refused tokens are kept in the audit trail, counted, once in so long."""


def inbox_file() -> Path:
    """Where the inbox of this product home is."""
    return home() / "gateway" / "inbox.db"


async def record_fact(kind: str, record: dict[str, Any]) -> None:
    """Append to the audit trail; a disk that does not take it is said in the gateway's log."""
    try:
        await asyncio.to_thread(AuditLog().append, kind, record)
    except (RunbookError, OSError) as e:
        log.error("NOT in the audit trail (%s): %s", kind, e)


class Gateway:
    """The state of one gateway process.

    Stacks and tokens are kept while the Prefect server is away: an alert is accepted all the same.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Open the inbox.

        Raises:
            Permanent: another gateway of this home runs, or the folder cannot be written.
        """
        self.inbox = Inbox(file or inbox_file())
        self.metrics = Metrics()
        self.prefect_at = float("-inf")
        """When the Prefect server answered last (monotonic seconds)."""
        self.dispatcher_at = float("-inf")
        """When the dispatcher was seen alive last (monotonic seconds)."""
        self._stacks: dict[str, StackSpec] = {}
        self._tokens: dict[str, str] = {}
        self._loaded_at = self._tried_at = float("-inf")
        self._loading = asyncio.Lock()
        self._refused: Counter[str] = Counter()
        self._refused_at = float("-inf")

    def stacks(self) -> dict[str, StackSpec]:
        """Every stack that could be read, by name."""
        return dict(self._stacks)

    def tokens(self) -> Mapping[str, str]:
        """Stack -> the token that its alerts must bear; only where there is one."""
        return self._tokens

    @property
    def known(self) -> bool:
        """Whether the stacks have been read at least once."""
        return self._loaded_at > float("-inf")

    async def stack(self, name: str) -> StackSpec:
        """One stack, at most 30 s old while the Prefect server answers.

        Raises:
            Permanent: it is not registered.
        """
        await self.refresh(FRESH_S)
        if name not in self._stacks:
            await self.refresh(AT_ONCE_S)
        if name not in self._stacks:
            raise Permanent(f"stack {name[:60]!r} is not registered, or cannot be read")
        return self._stacks[name]

    async def refresh(self, older_than_s: float) -> None:
        """Read stacks and tokens anew if that was not tried for so long; never raises."""
        if time.monotonic() - self._tried_at < older_than_s:
            return
        async with self._loading:
            if time.monotonic() - self._tried_at < older_than_s:
                return  # somebody else just did
            self._tried_at = time.monotonic()
            try:
                await asyncio.wait_for(self._load(), 20)
            except Exception as e:  # noqa: BLE001 - what is known stays in use
                log.warning("the stacks cannot be read anew: %s", type(e).__name__)

    async def _load(self) -> None:
        async with AsyncClientContext.get_or_create():  # one connection for all of it
            await self._read()

    async def _read(self) -> None:
        stacks: dict[str, StackSpec] = {}
        tokens: dict[str, str] = {}
        for name, found in (await load_stacks()).items():
            if isinstance(found, StackSpec):
                stacks[name] = found
                continue
            log.warning("%s", str(found)[:500])
            if name in self._stacks:  # edited into nonsense: the last good one
                stacks[name] = self._stacks[name]
        for name, spec in stacks.items():
            if spec.alerts is None:
                continue
            try:
                tokens[name] = (await resolve(spec.alerts.token)).get_secret_value()
            except Permanent as e:
                log.warning("no alerts for stack %s: %s", name, e)
        self._stacks, self._tokens = stacks, tokens
        self._loaded_at = time.monotonic()

    def refused(self, stack: str) -> None:
        """Count a token that did not fit; `stack` is what was asked for, which may be anything."""
        self._refused[stack if stack in self._stacks else "other"] += 1

    async def audit_refused(self) -> None:
        """Keep the tokens that did not fit in the audit trail: one record a minute at most."""
        if self._refused and time.monotonic() - self._refused_at >= REFUSALS_S:
            counts, self._refused = dict(self._refused), Counter()
            self._refused_at = time.monotonic()
            why = "no valid bearer token"
            record = {"door": "alerts", "allowed": False, "why": why, "refused": counts}
            await record_fact("access", record)

    async def watch(self) -> None:
        """Ask the Prefect server how it is, and read the stacks anew, for ever."""
        while True:
            try:
                async with get_client() as client:
                    (await client._client.get("/health")).raise_for_status()
                self.prefect_at = time.monotonic()
            except (httpx.HTTPError, OSError, RuntimeError) as e:
                log.warning("the Prefect server does not answer: %s", type(e).__name__)
            await self.refresh(FRESH_S)
            await self.audit_refused()
            await asyncio.sleep(PROBE_S)
