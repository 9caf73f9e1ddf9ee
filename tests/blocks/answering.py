"""A raw HTTP server on loopback that answers what a test says, byte for byte."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int = 200, body: Any = b"", headers: str = "") -> bytes:
    """One whole answer; what is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


class Answering:
    """Answers every request with `reply`; keeps the heads that it received."""

    def __init__(self) -> None:
        self.reply: Reply = answer(404)
        self.received: list[str] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.received.append((await reader.readuntil(b"\r\n\r\n")).decode())
                if isinstance(self.reply, bytes):
                    writer.write(self.reply)
                    await writer.drain()
                else:
                    await self.reply(writer)
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def answering(
    reply: Reply = b"", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Answering]:
    one, tasks = Answering(), set()
    one.reply = reply or one.reply

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(one.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        for task in set(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()


def drip(first: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """A byte now and then: a time-out per read never comes."""

    async def handler(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    return handler
