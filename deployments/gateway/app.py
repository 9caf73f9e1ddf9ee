"""The gateway as an ASGI application: its endpoints, and what works behind them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import FastAPI
from starlette.middleware import Middleware

from deployments.gateway import alerts, health, slack_http, slack_socket
from deployments.gateway.dispatcher import Dispatcher
from deployments.gateway.guard import Guard
from deployments.gateway.late import watch_late
from deployments.gateway.notices import Notices
from deployments.gateway.state import Gateway, log
from deployments.running import procedures

AGAIN_S = 5.0
"""Before a part that ended is started anew."""


def build(gateway: Gateway) -> FastAPI:
    """The application of one gateway; its lifespan runs the dispatcher and closes the inbox."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with working(gateway):
            yield
        await gateway.inbox.close()

    # No /docs: the gateway may be reached from outside, and has nothing to try out.
    app = FastAPI(
        title="llm-runbooks gateway",
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[Middleware(Guard, metrics=gateway.metrics)],
    )
    app.include_router(alerts.router(gateway))
    app.include_router(health.router(gateway))
    app.include_router(slack_http.router(gateway))
    return app


@contextlib.asynccontextmanager
async def working(gateway: Gateway) -> AsyncIterator[None]:
    """The parts that work without being asked, for as long as this lasts."""
    dispatcher = Dispatcher(gateway, procedures())
    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "the watch": gateway.watch,
        "the dispatcher": dispatcher.run,
        "the notices": Notices(gateway, dispatcher.to_tell).run,
        "the watch for late runs": lambda: watch_late(gateway),
        "Slack's socket": lambda: slack_socket.listen(gateway),
    }
    tasks = [asyncio.create_task(_keep(name, part)) for name, part in parts.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Start a part anew when it ends: the others do not end with it."""
    while True:
        try:
            await part()
            log.warning("%s ended", name)
        except Exception as e:  # noqa: BLE001 - no text, it may quote what was sent
            log.error("%s failed: %s", name, type(e).__name__)
        await asyncio.sleep(AGAIN_S)
