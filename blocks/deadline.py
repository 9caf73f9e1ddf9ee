"""Blocking calls that may never return: a hung driver, a dead network mount.

`asyncio.to_thread` would not do: the loop's end and the interpreter's exit wait for its threads,
so that one call that hangs in the kernel would hang the whole run. These threads are daemons, and
one that does not come back in time is left behind.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def begin(call: Callable[[], T]) -> "Future[T]":
    """Start it in a daemon thread of its own."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # so that nobody cancels what cannot be stopped

    def work() -> None:
        try:
            result: Any = call()
        except BaseException as e:  # noqa: BLE001 - whoever waits for it is told
            future.set_exception(e)
        else:
            future.set_result(result)

    threading.Thread(target=work, daemon=True, name="may-hang").start()
    return future


async def within(timeout_s: float, call: Callable[[], T]) -> T:
    """Its result.

    Raises:
        TimeoutError: it is still at it after `timeout_s` seconds, and was left behind.
    """
    async with asyncio.timeout(timeout_s):
        return await asyncio.wrap_future(begin(call))


async def ended(
    timeout_s: float, work: Awaitable[T], grace_s: float = 0.0
) -> "asyncio.Future[T] | None":
    """The work that came to its end, well or not; None for one that is late.

    Who is late is cancelled and left behind: unlike `asyncio.wait_for`, this does not wait for a
    blocking call that cannot be cancelled. When the caller is cancelled, so is the work.

    Args:
        timeout_s: seconds.
        work: what is waited for.
        grace_s: what a late one may take to clean up (to end a child process), seconds.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, timeout_s))
    except BaseException:
        task.cancel()
        raise
    if task.done():
        return task
    task.cancel()
    if grace_s:
        await asyncio.wait({task}, timeout=grace_s)
    # Its outcome is taken, so that nothing complains of one that nobody asked for.
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
    return None


class LeaveBehind(ThreadPoolExecutor):
    """For `loop.set_default_executor`: `asyncio.to_thread` in daemon threads, one for each call.

    A call that hangs then takes no place from the others, and neither the loop's end nor the
    interpreter's exit waits for it. How many there are at once is the caller's business.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Start it now."""
        return begin(partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to wait for."""
