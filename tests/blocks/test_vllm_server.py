"""`observe` against a real server on loopback: sick in every way, and it never raises."""

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import Permanent
from blocks.http_probe import MAX_BODY_BYTES
from blocks.models import ServiceState, Serving
from blocks.service import Service
from blocks.vllm_server import observe
from flows.decisions.health import Expectation, judge
from tests.conftest import free_port

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
MODELS = {"object": "list", "data": [{"id": "m", "max_model_len": 8192}, {"id": "lora"}]}
TOKEN = {"choices": [{"text": " pong"}], "usage": {"completion_tokens": 1}}


def answer(status: int = 200, body: Any = b"", headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return head.encode() + data


class FakeVllm:
    """Answers raw bytes, or whatever a handler writes, per path; keeps what it received."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.paths: dict[str, bytes | Handler] = {
            "/health": answer(),
            "/v1/models": answer(body=MODELS),
            "/v1/completions": answer(body=TOKEN),
        }
        self.received: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.received.append(head)
            reply = self.paths.get(head.split()[1], answer(404))
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def service(self, **more: Any) -> Service:
        policy = {"decode_timeout_s": 1, **more.pop("policy", {})}
        runtime = {"kind": "docker", "container": "c"}
        return Service.model_validate(
            {"url": self.url, "runtime": runtime, "policy": policy, **more}
        )


@asynccontextmanager
async def fake(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeVllm]:
    port = free_port()
    one = FakeVllm(port, tls)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(one.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    try:
        yield one
    finally:
        for task in set(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()


def status_of(serving: Serving) -> str:
    return judge(ServiceState(phase="running"), serving, Expectation()).status


async def test_a_healthy_server() -> None:
    async with fake() as vllm:
        seen = await observe(vllm.service(served_model_name="lora"))
        assert (seen.model_id, seen.max_model_len, seen.model_ids) == ("lora", None, ("m", "lora"))
        seen = await observe(vllm.service(served_model_name="absent"))
    assert (seen.model_id, seen.max_model_len) == ("m", 8192)
    assert seen.decoded and seen.decode_s is not None and status_of(seen) == "healthy"


def drip(first: bytes) -> Handler:
    """A byte now and then: a time-out per read never comes."""

    async def handler(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in range(300):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)

    return handler


async def nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"


async def huge(writer: asyncio.StreamWriter) -> None:
    writer.write(HUGE)
    for _ in range(4000):
        writer.write(b" " * 65536)
        await writer.drain()


CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"data": ['
SLOW = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
GZIP = answer(body=b"\x1f\x8b\x08junk", headers="Content-Encoding: gzip\r\n")
HTML = answer(body=b"<html>Please log in</html>")
DEEP = answer(body=b"[" * 100_000)
REDIRECT = answer(302, headers="Location: https://login.example/\r\n")

# path -> (what it answers, the health that comes of it, words of the problem)
SICK: dict[str, tuple[str, bytes | Handler, str, str]] = {
    "health 500": ("/health", answer(500), "broken", "/health answered 500"),
    "health 401": ("/health", answer(401), "unknown", "answered 401: set api_key"),
    "health redirects": ("/health", REDIRECT, "broken", "/health answered 302"),
    "health cut": ("/health", CUT, "loading", "connection cut"),
    "health silent": ("/health", nothing, "loading", "no answer within 1 s"),
    "health drips": ("/health", drip(SLOW), "loading", "no answer within 1 s"),
    "health is no HTTP": ("/health", b"SSH-2.0-OpenSSH\r\n", "loading", "connection cut"),
    "models HTML": ("/v1/models", HTML, "broken", "no model list"),
    "models empty": ("/v1/models", answer(body={"data": []}), "broken", "no model list"),
    "models a list": ("/v1/models", answer(body=["m"]), "broken", "no model list"),
    "models null": ("/v1/models", answer(body={"data": None}), "broken", "no model list"),
    "models of nulls": ("/v1/models", answer(body={"data": [None, 1]}), "broken", "no model list"),
    "models without id": ("/v1/models", answer(body={"data": [{}]}), "broken", "no model list"),
    "models deep": ("/v1/models", DEEP, "broken", "no model list"),
    "models gzip": ("/v1/models", GZIP, "broken", "no model list"),
    "models not UTF-8": ("/v1/models", answer(body=b'{"data": "\xff"}'), "broken", "no model list"),
    "models cut": ("/v1/models", CUT, "broken", "connection cut"),
    "models drip": ("/v1/models", drip(SLOW), "broken", "no answer within 1 s"),
    "models huge": ("/v1/models", huge, "broken", "no model list"),
    "models 401": ("/v1/models", answer(401), "unknown", "answered 401: set api_key"),
    "models 429": ("/v1/models", answer(429), "unknown", "answered 429"),
    "models 500": ("/v1/models", answer(500, MODELS), "broken", "/v1/models answered 500"),
    "no key": ("/v1/completions", answer(401), "unknown", "answered 401: set api_key"),
    "forbidden": ("/v1/completions", answer(403), "unknown", "answered 403: set api_key"),
    "throttled": ("/v1/completions", answer(429), "unknown", "answered 429"),
    "engine dead": ("/v1/completions", answer(500), "broken", "answered 500, no token"),
    "500 with a token": ("/v1/completions", answer(500, TOKEN), "broken", "answered 500, no token"),
    "no token": (
        "/v1/completions",
        answer(body={"usage": {"completion_tokens": 0}}),
        "broken",
        "answered 200, no token",
    ),
    "token true": (
        "/v1/completions",
        answer(body={"usage": {"completion_tokens": True}}),
        "broken",
        "no token",
    ),
    "tokens infinite": (
        "/v1/completions",
        answer(body=b'{"usage": {"completion_tokens": 1e999}}'),
        "broken",
        "no token",
    ),
    "completion HTML": ("/v1/completions", HTML, "broken", "answered 200, no token"),
    "completion redirects": ("/v1/completions", REDIRECT, "broken", "answered 302, no token"),
    "frozen": ("/v1/completions", nothing, "broken", "no token within 1 s"),
    "frozen after the head": ("/v1/completions", drip(SLOW), "broken", "no token within 1 s"),
    "completion cut": ("/v1/completions", CUT, "broken", "connection cut"),
    "completion huge": ("/v1/completions", huge, "broken", "answered 200, no token"),
}


@pytest.mark.parametrize("case", SICK)
async def test_a_sick_server_is_a_reading_not_an_error(case: str) -> None:
    path, reply, status, problem = SICK[case]
    async with fake() as vllm:
        vllm.paths[path] = reply
        began = time.monotonic()
        seen = await observe(vllm.service(), probe_timeout_s=1)
        took = time.monotonic() - began
    assert status_of(seen) == status, seen
    assert problem in seen.problem and len(seen.problem) < 200
    assert took < 20, "bounded by the time-outs, whatever it sends"
    assert seen.decoded is not True


async def test_of_an_endless_answer_only_so_much_is_read() -> None:
    written = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(HUGE)
        while written < 100 * MAX_BODY_BYTES:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with fake() as vllm:
        vllm.paths["/v1/models"] = count
        await observe(vllm.service())
    assert written < 16 * MAX_BODY_BYTES, "what socket buffers hold, no more"


async def test_lengths_and_names_of_any_kind() -> None:
    async with fake() as vllm:
        for length in ("8192", 8192.5, True, None, [1], {}):
            vllm.paths["/v1/models"] = answer(body={"data": [{"id": "m", "max_model_len": length}]})
            seen = await observe(vllm.service())
            assert seen.max_model_len is None and seen.decoded
        many = {"data": [{"id": f"{i}" * 900} for i in range(5000)]}
        vllm.paths["/v1/models"] = answer(body=many)
        assert len((await observe(vllm.service())).model_ids) <= 100


async def test_nobody_listens_and_no_such_host() -> None:
    async with fake() as vllm:
        service = vllm.service()
    seen = await observe(service)
    assert seen == Serving(reachable=False, problem="/health: connection refused")
    nowhere = service.model_copy(update={"url": "http://does-not-exist.invalid:1"})
    seen = await observe(nowhere, probe_timeout_s=5)
    assert not seen.reachable and seen.problem.startswith("/health: ")


async def test_the_key_is_sent_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", " sekret\n")
    async with fake() as vllm:
        assert (await observe(vllm.service(api_key="${VLLM_KEY}"))).decoded
        assert len(vllm.received) == 3
        assert all("authorization: bearer sekret\r\n" in r.lower() for r in vllm.received)
        monkeypatch.delenv("VLLM_KEY")
        with pytest.raises(Permanent, match="environment variable VLLM_KEY is not set"):
            await observe(vllm.service(api_key="${VLLM_KEY}"))


async def test_a_proxy_of_the_worker_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with fake() as vllm:
        assert (await observe(vllm.service())).decoded


async def test_a_certificate_nobody_signed(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-keyout", "k.pem", "-out", "c.pem", "-days", "2", "-subj", "/CN=x"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    async with fake(context) as vllm:
        seen = await observe(vllm.service(policy={"decode_timeout_s": 5}))
        assert "its certificate is not accepted (self-signed certificate)" in seen.problem
        assert "tls_verify: false" in seen.problem and not seen.reachable
        service = vllm.service(tls_verify=False, policy={"decode_timeout_s": 5})
        assert (await observe(service)).decoded


async def test_https_to_a_server_that_speaks_http() -> None:
    async def bad_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer(400))
        await writer.drain()
        writer.close()

    port = free_port()
    server = await asyncio.start_server(bad_request, "127.0.0.1", port)
    async with fake() as plain:
        seen = await observe(plain.service(url=f"https://127.0.0.1:{port}"))
    server.close()
    assert "no TLS there" in seen.problem
