"""A small HTTP/1.1 server over asyncio that answers the way uvicorn does.

Standard library only. Keep-alive, Content-Length and chunked requests, chunked streams,
time-outs, 400 for what is not HTTP, 413 for too large a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

MAX_HEAD = 64 * 1024
MAX_BODY = 32 * 1024 * 1024
IDLE_S = 5.0
READ_S = 30.0


@dataclass
class Request:
    """One request, its body read."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]
    keep_alive: bool = True


@dataclass
class Response:
    """One answer; `stream` replaces the body."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None
    sent: int = 0
    head: list[tuple[str, str]] | None = None
    """The whole head, for a server that is not vLLM; content-length and all."""


class BadRequest(Exception):
    """Not HTTP, or more than the server takes."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Handler = Callable[[Request], Awaitable[Response]]


def as_json(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer, compact as FastAPI's."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(status, body, "application/json", headers)


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    """The next request of a connection; None when the client has gone."""
    try:
        async with asyncio.timeout(IDLE_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return None
    except asyncio.LimitOverrunError as e:
        raise BadRequest(431, "Request header fields too large.") from e
    try:
        first, *rest = head.decode("latin-1").strip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        headers: dict[str, str] = {}
        for line in rest:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError(line)
            headers[name.lower()] = value.strip()
        if not version.startswith("HTTP/1.") or not method.isalpha():
            raise ValueError(first)
        if "content-length" in headers and not headers["content-length"].isdecimal():
            raise ValueError("content-length")
    except ValueError as e:
        raise BadRequest(400, "Invalid HTTP request received.") from e
    connection = headers.get("connection", "").lower()
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(READ_S):
            body = await _read_body(reader, headers)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return None
    peer = writer.get_extra_info("peername") or ("", 0)
    return Request(
        method=method,
        path=target.split("?", 1)[0],
        headers=headers,
        body=body,
        peer=(str(peer[0]), int(peer[1])),
        keep_alive=version != "HTTP/1.0" and connection != "close",
    )


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", "0"))
        if length > MAX_BODY:
            raise BadRequest(413, "Request Entity Too Large")
        return await reader.readexactly(length)
    parts: list[bytes] = []
    size = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            length = int(line.split(b";")[0], 16)
        except ValueError as e:
            raise BadRequest(400, "Invalid HTTP request received.") from e
        size += length
        if size > MAX_BODY:
            raise BadRequest(413, "Request Entity Too Large")
        if length == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(length))
        await reader.readexactly(2)


def head_of(response: Response, keep_alive: bool) -> bytes:
    """Status line and headers, in uvicorn's order."""
    phrase = HTTPStatus(response.status).phrase
    if response.head is not None:
        rows = [f"HTTP/1.1 {response.status} {phrase}", *(f"{k}: {v}" for k, v in response.head)]
        rows += [] if response.stream is None else ["transfer-encoding: chunked"]
        rows += [] if keep_alive else ["connection: close"]
        return ("\r\n".join(rows) + "\r\n\r\n").encode("latin-1")
    lines = [
        f"HTTP/1.1 {response.status} {phrase}",
        f"date: {formatdate(usegmt=True)}",
        "server: uvicorn",
    ]
    if response.stream is None:
        lines.append(f"content-length: {len(response.body)}")
    if response.content_type:
        lines.append(f"content-type: {response.content_type}")
    lines += [f"{k.replace('_', '-')}: {v}" for k, v in response.headers.items()]
    lines.append("vary: Origin")
    if response.stream is not None:
        lines.append("transfer-encoding: chunked")
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def send(writer: asyncio.StreamWriter, request: Request, response: Response) -> None:
    """Write one answer, streamed or whole."""
    head = head_of(response, request.keep_alive)
    if response.stream is None:
        writer.write(head if request.method == "HEAD" else head + response.body)
        response.sent = len(response.body)
        await writer.drain()
        return
    writer.write(head)
    async with contextlib.aclosing(response.stream) as stream:
        async for part in stream:
            response.sent += len(part)
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


class Server:
    """Connections of one listening socket."""

    def __init__(self, handler: Handler, done: Callable[[Request, Response, float], None]) -> None:
        self._handler, self._done = handler, done
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while True:
                try:
                    request = await read_request(reader, writer)
                except BadRequest as e:
                    writer.write(
                        head_of(
                            Response(e.status, str(e).encode(), "text/plain; charset=utf-8"), False
                        )
                    )
                    writer.write(str(e).encode())
                    await writer.drain()
                    break
                if request is None or not await self._answer(reader, writer, request):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
    ) -> bool:
        """Handle one request; a client that hangs up cancels it, as vLLM aborts."""
        begun = time.monotonic()
        response = Response(499)
        self.in_flight += 1

        async def work() -> None:
            nonlocal response
            response = await self._handler(request)
            await send(writer, request, response)

        task = asyncio.create_task(work())
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=0.05)
                if not task.done() and reader.at_eof():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                    return False
            await task
        finally:
            task.cancel()
            self.in_flight -= 1
            self._done(request, response, time.monotonic() - begun)
        return request.keep_alive

    async def drain(self, timeout_s: float) -> None:
        """Wait for requests in flight, then drop every connection."""
        deadline = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110 - brief, bounded
            await asyncio.sleep(0.005)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.1)
