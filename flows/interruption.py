"""SIGTERM, Ctrl-C and cancellation reach a change only between two steps, and never its undo."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


_depth = 0
"""How many blocks of this process are entered: a run may hold a service and then its proxy."""


@contextlib.contextmanager
def sigterm_cancels() -> Iterator[None]:
    """Let SIGTERM cancel the current task, as Ctrl-C does: at an `await`.

    Prefect's own handler raises wherever the interpreter happens to be, which may be inside
    the event loop or a lock; a local run was then seen to hang. Under a worker it stays: only
    while its handler is in place does Prefect tell a cancelled run from a crashed one.
    """
    global _depth
    if "PREFECT__FLOW_RUN_ID" in os.environ or _depth:
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel if task else lambda: None)
    except (ValueError, RuntimeError, NotImplementedError):
        yield  # not the main thread, or Windows: nobody sends it here
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, earlier if earlier is not None else signal.SIG_DFL)


async def to_its_end(work: Coroutine[Any, Any, T], *, then_stop: bool = True) -> T:
    """Await `work` until it is done, however often this task is cancelled meanwhile.

    Raises:
        CancelledError: it was cancelled, and `then_stop`.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and then_stop and not task.cancelled() and task.exception() is None:
        raise asyncio.CancelledError
    return task.result()
