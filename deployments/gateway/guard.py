"""Around every endpoint: bodies are bounded, slow senders are cut off, nothing answers 500."""

import asyncio
import json
import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.gateway.metrics import Metrics

log = logging.getLogger("runbooks.gateway")
MAX_BODY = 1 << 20
"""Bytes of a request's body."""
BODY_S = 10.0
"""A body must be complete by then, seconds."""


class _Refused(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class Guard:
    """Reads the whole body first, and answers for an application that fails."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Around an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if message["status"] >= 400:
                    self._metrics.refused.labels(str(message["status"])).inc()
            await send(message)

        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(scope, receive)
            await self._app(scope, _replay(body, receive), sending)
        except TimeoutError:
            await _answer(sending, 408, f"the body did not come within {BODY_S:g} s; send it anew")
        except _Refused as e:
            await _answer(sending, e.status, e.words)
        except Exception as e:  # noqa: BLE001 - no trace: what was sent may stand in it
            log.error("a request to %s failed: %s", scope["path"][:80], type(e).__name__)
            if not begun:
                await _answer(sending, 503, "not now; send it again")


async def _body(scope: Scope, receive: Receive) -> bytes:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY:
        raise _Refused(413, f"the body has more than {MAX_BODY} bytes; send fewer alerts at once")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Refused(400, "the connection was closed")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            said = f"the body has more than {MAX_BODY} bytes; send fewer alerts at once"
            raise _Refused(413, said)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"error": words}).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
