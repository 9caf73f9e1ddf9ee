"""GET /healthz and GET /metrics."""

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from blocks.errors import Transient
from deployments.gateway.dispatcher import STEP_S
from deployments.gateway.state import Gateway

LATELY_S = 30.0
"""How long ago the Prefect server must have answered."""
ALIVE_S = STEP_S + 30
"""How long the dispatcher may be silent: one alert may take so long."""
PROVEN_S = 1.0
"""How long a proof that the inbox can be written is believed: anybody may ask."""


def router(gateway: Gateway) -> APIRouter:
    """The endpoints of those who watch the gateway."""
    routes = APIRouter()
    proof = (float("-inf"), "")

    async def inbox() -> str:
        nonlocal proof
        if time.monotonic() - proof[0] > PROVEN_S:
            try:
                await gateway.inbox.prove()
                proof = (time.monotonic(), "ok")
            except Transient:
                proof = (time.monotonic(), "cannot be written: is the disk full?")
        return proof[1]

    @routes.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 when alerts are accepted and acted on; the body says what is not."""
        now = time.monotonic()
        said = {
            "inbox": await inbox(),
            "dispatcher": "ok" if now - gateway.dispatcher_at < ALIVE_S else "does not work",
            "stacks": "ok" if gateway.known else "not read yet",
            "prefect": "ok" if now - gateway.prefect_at < LATELY_S else "does not answer",
        }
        well = all(word == "ok" for word in said.values())
        return JSONResponse({"status": "ok" if well else "unwell", **said}, 200 if well else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        """What Prometheus scrapes."""
        gateway.metrics.pending.set(await gateway.inbox.pending())
        return Response(gateway.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return routes
