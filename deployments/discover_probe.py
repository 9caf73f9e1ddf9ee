"""Ask every port of every container what it is: GETs only, short, all at once."""

import asyncio
from collections.abc import Sequence

import httpx

from blocks.docker_inspect import Doc
from deployments import discover_static as static
from deployments.discover_classify import PATHS, body_of
from deployments.discover_found import Address, Kind, Probe, Reply

TIMEOUT_S = 2.0
"""Of one GET, from connecting to its last byte."""
AT_ONCE = 32
MAX_BYTES = 2 << 20
"""Of one answer: a busy server's /metrics and a Prometheus's targets are below."""


async def ask_all(
    docs: Sequence[Doc], engine: str, local: bool, timeout_s: float = TIMEOUT_S
) -> list[list[Probe]]:
    """For every container, what its addresses answered, the likeliest first.

    One that is down is not asked: its probes have no replies. Never raises for a server.

    Args:
        docs: inspect documents.
        engine: host name of the engine's machine.
        local: whether that is this machine.
        timeout_s: of one GET, seconds.
    """
    turn = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        verify=False,  # noqa: S501 - it is asked who it is, and told nothing
        trust_env=False,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
        limits=httpx.Limits(max_connections=AT_ONCE),
        timeout=timeout_s,
    ) as client:

        async def one(doc: Doc) -> list[Probe]:
            kind, _ = static.guess(doc)
            places = static.addresses(doc, kind, engine, local)
            if not doc["State"].get("Running"):
                return [Probe(address=a) for a in places]
            tasks = (_ask(client, turn, a, kind, timeout_s) for a in places)
            return list(await asyncio.gather(*tasks))

        return list(await asyncio.gather(*(one(doc) for doc in docs)))


async def _ask(
    client: httpx.AsyncClient,
    turn: asyncio.Semaphore,
    address: Address,
    kind: Kind,
    timeout_s: float,
) -> Probe:
    """One address: first whether it speaks HTTP, or else HTTPS, then all the rest at once."""
    first, *rest = PATHS[kind]

    async def get(url: str, path: str) -> Reply | Exception:
        async with turn:
            return await _get(client, url + path, timeout_s)

    reply = await get(address.url, first)
    plain = isinstance(reply, Reply) and "HTTPS" in str(reply.body)[:500]
    if (isinstance(reply, httpx.RemoteProtocolError | httpx.ReadError) or plain) and (
        address.url.startswith("http:")
    ):
        secure = address.url.replace("http:", "https:", 1)
        second = await get(secure, first)
        if isinstance(second, Reply):
            address, reply = address.model_copy(update={"url": secure}), second
    if not isinstance(reply, Reply):
        return Probe(address=address)
    others = await asyncio.gather(*(get(address.url, path) for path in rest))
    replies = dict(zip(PATHS[kind], [reply, *others], strict=True))
    return Probe(
        address=address, replies={p: r for p, r in replies.items() if isinstance(r, Reply)}
    )


async def _get(client: httpx.AsyncClient, url: str, timeout_s: float) -> Reply | Exception:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s), client.stream("GET", url) as answer:
            async for chunk in answer.aiter_raw(64 * 1024):
                body += chunk
                if len(body) > MAX_BYTES:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as e:
        return e
    return Reply(status=answer.status_code, body=body_of(bytes(body)))
