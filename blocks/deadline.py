"""Blocking calls that may never return: a hung driver, a dead network mount.

`asyncio.to_thread` would not do: the loop's end and the interpreter's exit wait for its threads,
so that one call that hangs in the kernel would hang the whole run. These threads are daemons, and
one that does not come back in time is left behind.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

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
    waiting = asyncio.wrap_future(begin(call))
    async with asyncio.timeout(timeout_s):
        return await asyncio.shield(waiting)
