"""Connections that say nothing keep nobody out: real sockets at a real server."""

import asyncio
import contextlib
import json
import socket

import httpx
import pytest
import uvicorn

from deployments.gateway import patience
from tests.conftest import free_port

PLACES = 20


async def answer(scope, receive, send):
    """Answer at once, whatever is left of the body."""
    if scope["type"] == "http":
        body = json.dumps({"path": scope["path"]}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(**settings):
    port = free_port()
    config = uvicorn.Config(
        answer,
        port=port,
        http=patience.Patient,
        lifespan="off",
        log_level="error",
        timeout_graceful_shutdown=1,
        **settings,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.02)
        yield port
    finally:
        server.should_exit = True
        await task


async def get(port, times=1):
    async with httpx.AsyncClient(timeout=30) as client:
        return [
            (await client.get(f"http://127.0.0.1:{port}/{n}")).status_code for n in range(times)
        ]


async def closed(reader):
    """Read to its end; the connection may be cut off hard."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 60)
    return b""


async def test_idle_connections_make_room(monkeypatch):
    monkeypatch.setattr(patience, "FULL", PLACES - 5)
    async with serving(limit_concurrency=PLACES) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(PLACES + 10)]
        assert await get(port, 3) == [200] * 3
        for one in idle:
            one.close()


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("HEADER_S", b""),
        ("HEADER_S", b"GET / HTTP/1.1\r\nHost: a\r\n"),
        # The next request of a connection that is kept.
        ("HEADER_S", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"),
        ("BODY_S", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nhalf"),
    ],
)
async def test_what_does_not_come_is_not_waited_for(monkeypatch, limit, sent):
    # The other limit, and uvicorn's own, are far away.
    monkeypatch.setattr(patience, "HEADER_S", 600.0)
    monkeypatch.setattr(patience, "BODY_S", 600.0)
    monkeypatch.setattr(patience, limit, 0.3)
    async with serving(timeout_keep_alive=600) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        got = await closed(reader)
        assert got.count(b"200 OK") == sent.count(b"\r\n\r\n")
        writer.close()


async def test_a_byte_now_and_then_buys_no_time(monkeypatch):
    monkeypatch.setattr(patience, "HEADER_S", 1.0)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")

        async def drip():
            while True:
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert await closed(reader) == b""
        dripping.cancel()
        writer.close()


async def test_connection_is_kept_and_used_again():
    async with serving() as port, httpx.AsyncClient() as client:
        for n in range(5):
            answer = await client.post(f"http://127.0.0.1:{port}/{n}", content=b"x" * 100_000)
            assert answer.json() == {"path": f"/{n}"}
