"""Freeze windows made from Slack: a stretch of time in which nothing of a stack is changed."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from blocks.errors import Permanent, Transient
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack, save_stack
from blocks.windows import Window
from deployments.gateway.dispatch import prefect_errors

OURS = ", from slack)"
"""Ends the reason of a window that was made here; no other is taken away here."""
TRIES, MOST = 4, 20
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

    def added(spec: StackSpec) -> tuple[Window, ...]:
        kept = _not_over(spec.freeze, now)
        if sum(map(made_here, kept)) >= MOST:
            raise Permanent(f"There are {MOST} freezes from Slack already; end them: unfreeze.")
        return (*kept, window)

    async with _lock(stack):
        for _ in range(TRIES):
            if window in (await _saved(stack, added)).freeze:
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
    async with _lock(stack):
        async with prefect_errors("the inventory"):
            ended = tuple(w for w in (await load_stack(stack)).freeze if made_here(w))
        ended = _not_over(ended, now)
        for _ in range(TRIES):
            spec = await _saved(stack, lambda s: tuple(w for w in s.freeze if not made_here(w)))
            if not any(map(made_here, spec.freeze)):
                return ended, tuple(w for w in spec.freeze if w.covers(now))
    raise Transient("somebody else keeps changing the inventory; the freeze still holds")


def _not_over(windows: tuple[Window, ...], now: datetime) -> tuple[Window, ...]:
    """Without the windows from Slack that are over: an inventory must not grow for ever."""
    return tuple(w for w in windows if not (made_here(w) and w.until and w.until <= now))


def _lock(stack: str) -> asyncio.Lock:
    """One change at a time in this process; a change of another one is seen by reading again."""
    return _locks.setdefault((id(asyncio.get_running_loop()), stack), asyncio.Lock())


async def _saved(stack: str, change: Callable[[StackSpec], tuple[Window, ...]]) -> StackSpec:
    """Change the windows of the inventory as it is now; the inventory as it is then."""
    async with prefect_errors("the inventory"):
        spec = await load_stack(stack)
        windows = change(spec)
        if windows != spec.freeze:
            await save_stack(spec.model_copy(update={"freeze": windows}))
        return await load_stack(stack)


def words_of(window: Window) -> str:
    """`until 14:00 UTC (2026-11-21): release (by ada, from slack)`."""
    if window.until:
        until = window.until.astimezone(UTC)
        return f"until {until:%H:%M} UTC ({until:%Y-%m-%d}): {_flat(window.reason)}"
    return f"the window {window.start} to {window.end} {window.timezone}: {_flat(window.reason)}"


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text) or "no reason given"
