"""The platform that scenarios with steps are played on, and how its events are waited for."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.errors import Permanent, Transient
from deployments.connection import free_port
from deployments.sandbox.slack_server import SlackServer
from deployments.up import Platform, Say

PATIENCE_S = 120.0
"""How long anything may take that is waited for: a loaded machine is slow."""
LOOK_S = 0.4
ALERT_TOKEN = "SANDBOX_ALERT_TOKEN"  # noqa: S105 - the variable's name
T = TypeVar("T")


def secrets() -> dict[str, str]:
    """The variables that a platform needs whose plays are to be understood by its gateway."""
    return {ALERT_TOKEN: "sandbox-alerts", **SlackServer().env}


@asynccontextmanager
async def whole(say: Say) -> AsyncIterator[None]:
    """A platform in this home for as long as this lasts.

    Raises:
        Permanent: another one serves this home, or it does not come up.
    """
    os.environ.update(secrets())
    port = free_port(4400)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        platform = Platform(port=port, say=say, gateway=("127.0.0.1", port + 1))
        try:
            await platform.start()
            yield
        finally:
            await platform.stop()


async def eventually(
    what: str, look: Callable[[], Awaitable[T | None]], patience_s: float = PATIENCE_S
) -> T:
    """Wait until a look finds something; what it found.

    Raises:
        Permanent: it did not come in time.
    """
    until = asyncio.get_running_loop().time() + patience_s
    while True:
        with contextlib.suppress(Transient, httpx.HTTPError):  # a server that was killed
            if found := await look():
                return found
        if asyncio.get_running_loop().time() > until:
            raise Permanent(f"{what} did not come within {patience_s:g} s")
        await asyncio.sleep(LOOK_S)
