"""Many alerts in a given time, as several Alertmanagers would send them."""

import asyncio
import time
from dataclasses import dataclass

import httpx

from tests.deployments.gateway_support import Process, alert, group


@dataclass(frozen=True)
class Load:
    """So many posts of so many distinct alerts, evenly over so many seconds."""

    posts: int
    distinct: int
    services: list[str]
    names: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What one post was answered."""

    status: int
    accepted: int
    took_s: float


def _alert(load: Load, number: int) -> dict[str, object]:
    distinct = number % load.distinct
    service = load.services[distinct % len(load.services)]
    name = f"A{(distinct // len(load.services)) % load.names}"
    return alert(service, name=name, n=distinct // (len(load.services) * load.names))


async def blast(gateway: Process, stack: str, load: Load) -> list[Answer]:
    """Post them; the clock of each runs from when it was due, so that a queue here counts."""
    began = time.monotonic()
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(limits=limits) as client:

        async def one(number: int) -> Answer:
            due = began + number * load.seconds / load.posts
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            answer = await gateway.post(client, stack, group(_alert(load, number)))
            accepted = answer.json().get("accepted", 0) if answer.status_code == 202 else 0
            return Answer(answer.status_code, accepted, time.monotonic() - due)

        return list(await asyncio.gather(*map(one, range(load.posts))))


async def settled(gateway: Process, timeout_s: float) -> None:
    """Wait until nothing waits in the inbox."""
    until = time.monotonic() + timeout_s
    async with httpx.AsyncClient() as client:
        while time.monotonic() < until:
            page = (await client.get(f"{gateway.url}/metrics", timeout=20)).text
            if "runbooks_inbox_pending 0.0" in page:
                return
            await asyncio.sleep(0.2)
    raise AssertionError("the inbox is not worked")
