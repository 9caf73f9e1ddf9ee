"""Freeze windows made from Slack: a stretch of time in which nothing of a stack is changed."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import TypeAdapter, ValidationError

from blocks.errors import Permanent, Transient
from blocks.stack_blocks import Stack
from blocks.windows import Window
from deployments.gateway.dispatch import prefect_errors

OURS = ", from slack)"
"""Ends the reason of a window that was made here; no other is taken away here."""
TRIES, MOST = 4, 20
_LIST = TypeAdapter(tuple[Window, ...])
_locks: dict[tuple[int, str], asyncio.Lock] = {}


def made_here(window: Window) -> bool:
    """Whether it came from Slack."""
    return window.from_ is not None and window.reason.endswith(OURS)


async def freeze(stack: str, length: timedelta, reason: str, by: str) -> Window:
    """Add a window that begins now. Runs read the inventory anew, so it holds from now on.

    Raises:
        Permanent: too many of them, or a faulty inventory.
        Transient: the Prefect server does not answer, or others kept writing the inventory.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    reason = f"{reason} (by {by}{OURS}"
    window = Window.model_validate({"from": now, "until": now + length, "reason": reason})

    def added(windows: tuple[Window, ...]) -> tuple[Window, ...]:
        kept = _not_over(windows, now)
        if sum(map(made_here, kept)) >= MOST:
            raise Permanent(f"There are {MOST} freezes from Slack already; end them: unfreeze.")
        return (*kept, window)

    async with _lock(stack):
        for _ in range(TRIES):
            if window in await _changed(stack, added):
                return window
    raise Transient("somebody else keeps changing the inventory; the freeze does NOT hold")


async def unfreeze(stack: str) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
    """End every freeze that was made from Slack.

    Returns:
        What was ended, and what freezes the stack still: only the inventory's file ends that.

    Raises:
        Permanent, Transient: as `freeze`.
    """
    now = datetime.now(UTC)
    ended: list[Window] = []

    def without(windows: tuple[Window, ...]) -> tuple[Window, ...]:
        mine = _not_over(tuple(w for w in windows if made_here(w)), now)
        ended.extend(w for w in mine if w not in ended)
        return tuple(w for w in windows if not made_here(w))

    async with _lock(stack):
        for _ in range(TRIES):
            left = await _changed(stack, without)
            if not any(map(made_here, left)):
                return tuple(ended), tuple(w for w in left if w.covers(now))
    raise Transient("somebody else keeps changing the inventory; the freeze still holds")


def _not_over(windows: tuple[Window, ...], now: datetime) -> tuple[Window, ...]:
    """Without the windows from Slack that are over: an inventory must not grow for ever."""
    return tuple(w for w in windows if not (made_here(w) and w.until and w.until <= now))


def _lock(stack: str) -> asyncio.Lock:
    """One change at a time in this process; a change of another one is seen by reading again."""
    return _locks.setdefault((id(asyncio.get_running_loop()), stack), asyncio.Lock())


async def _changed(
    stack: str, change: Callable[[tuple[Window, ...]], tuple[Window, ...]]
) -> tuple[Window, ...]:
    """Change the windows as they are now; the windows as they are then, read anew.

    Only this field is sent, and the server merges it: who is an approver, or whatever else
    `runbooks apply` writes in between, is not touched.
    """
    async with prefect_errors("the inventory"), get_client() as client:
        document, windows = await _windows(client, stack)
        wanted = change(windows)
        if wanted != windows:
            field = {"freeze": [w.model_dump(mode="json") for w in wanted]}
            await client.update_block_document(document, BlockDocumentUpdate(data=field))
        return (await _windows(client, stack))[1]


async def _windows(client: PrefectClient, stack: str) -> tuple[UUID, tuple[Window, ...]]:
    """The Stack's block document, and the windows in it."""
    kind = Stack.get_block_type_slug()
    try:
        found = await client.read_block_document_by_name(stack, kind)
    except ObjectNotFound:
        raise Permanent(f"stack {stack} is not registered any more") from None
    try:
        return found.id, _LIST.validate_python(found.data.get("freeze") or [])
    except ValidationError as e:
        said = f"block stack/{stack}: field freeze is no list of windows ({e.error_count()} faults)"
        raise Permanent(f"{said}; run `runbooks apply`, or edit it in the UI") from None


def words_of(window: Window) -> str:
    """`until 14:00 UTC (2026-11-21): release (by ada, from slack)`."""
    if window.until:
        until = window.until.astimezone(UTC)
        return f"until {until:%H:%M} UTC ({until:%Y-%m-%d}): {_flat(window.reason)}"
    return f"the window {window.start} to {window.end} {window.timezone}: {_flat(window.reason)}"


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text) or "no reason given"
