"""Slack over HTTP: POST /slack/commands and /slack/actions, where Socket Mode cannot be had.

Nothing is read of a request before its signature has proved whose it is. What cannot be proved
gets 401 and no reason: whoever forges must not learn which part was wrong.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from blocks.errors import RunbookError, Transient
from blocks.secret_ref import resolve
from deployments.gateway.slack_call import log
from deployments.gateway.slack_dispatch import BUSY, acknowledge, begin, busy, handle
from deployments.gateway.slack_procedures import ready, warm
from deployments.gateway.slack_signature import fresh, genuine
from deployments.gateway.state import AT_ONCE_S, Gateway

SEEN_S, SEEN_MOST = 600.0, 20_000
"""Signatures are remembered for twice the skew."""
SECRET_S = 30.0
"""How old a signing secret may be, seconds."""
FIELDS = 100
Clock = Callable[[], float]


class Secrets:
    """The signing secrets of the stacks, as they were at most 30 s ago."""

    def __init__(self, gateway: Gateway) -> None:
        """Nothing is read yet."""
        self._gateway = gateway
        self._kept: dict[str, str] = {}
        self._at = float("-inf")
        self._reading = asyncio.Lock()

    async def all(self) -> dict[str, str]:
        """Stack -> its secret; a stack whose secret cannot be had is left out.

        Who asks while they are read waits for them: the first requests are genuine too.

        Raises:
            Transient: the stacks could not be read yet, so nobody can be told apart.
        """
        if time.monotonic() - self._at <= SECRET_S:
            return self._kept
        async with self._reading:
            if time.monotonic() - self._at > SECRET_S:
                await self._gateway.refresh(AT_ONCE_S if not self._gateway.known else SECRET_S)
                if not self._gateway.known:
                    raise Transient("the stacks could not be read yet")
                self._kept = {n: s for n in self._gateway.stacks() if (s := await self._one(n))}
                self._at = time.monotonic()
        return self._kept

    async def _one(self, name: str) -> str:
        slack = self._gateway.stacks()[name].slack
        if slack is None or slack.signing_secret is None:
            return ""
        try:
            return (await resolve(slack.signing_secret)).get_secret_value()
        except RunbookError as e:
            log.warning("no Slack requests for stack %s: %s", name, e)
            # A Prefect server that restarts must not shut the door.
            return self._kept.get(name, "")


def router(gateway: Gateway, clock: Clock = time.time) -> APIRouter:
    """The two endpoints.

    Args:
        gateway: whose stacks' secrets count.
        clock: Unix time, seconds.
    """
    routes, secrets = APIRouter(), Secrets(gateway)

    async def proved(request: Request) -> tuple[list[str], bytes]:
        """The stacks whose secret signed this request; none when it is old, forged or replayed."""
        body = await request.body()
        stamp = request.headers.get("x-slack-request-timestamp", "")
        given = request.headers.get("x-slack-signature", "")
        if not fresh(stamp, clock()):
            return [], body
        known = await secrets.all()
        stacks = [n for n, secret in known.items() if genuine(secret, stamp, body, given)]
        # Only what is genuine is remembered: a forger cannot fill the memory. It is on the disk:
        # what is played again after a restart of the gateway is refused too.
        if stacks and not await gateway.inbox.first(_mark(given), clock(), SEEN_S, SEEN_MOST):
            log.warning("a request from Slack came twice and was refused the second time")
            return [], body
        return stacks, body

    async def received(request: Request, read: Callable[[bytes], Any]) -> Response:
        try:
            stacks, body = await proved(request)
        except (OverflowError, Transient):
            return JSONResponse({"error": BUSY}, 503)
        if not stacks:
            return JSONResponse({"error": "not signed by Slack for a stack of ours"}, 401)
        payload = read(body)
        if not isinstance(payload, dict):
            return JSONResponse({"error": "not a payload of Slack's"}, 400)
        said = acknowledge(gateway, stacks, payload)
        if "errors" in said:
            return JSONResponse(said)
        if not ready():
            begin(warm())
        if not begin(handle(gateway, stacks, payload)):
            said = busy(gateway, stacks, payload)
        return JSONResponse(said) if said else Response()

    @routes.post("/slack/commands")
    async def commands(request: Request) -> Response:
        return await received(request, _command)

    @routes.post("/slack/actions")
    async def actions(request: Request) -> Response:
        return await received(request, _action)

    return routes


def _mark(given: str) -> str:
    """What is kept of a signature: nothing that could be sent."""
    return hashlib.sha256(given.encode()).hexdigest()


def _fields(body: bytes) -> dict[str, str]:
    try:
        text = body.decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS))
    except ValueError:
        return {}


def _command(body: bytes) -> dict[str, str] | None:
    fields = _fields(body)
    # Slack's own check of the certificate has no command and wants a 200.
    return fields if fields.get("command") or fields.get("ssl_check") else None


def _action(body: bytes) -> Any:
    try:
        return json.loads(_fields(body).get("payload", ""))
    except (ValueError, RecursionError):
        return None
