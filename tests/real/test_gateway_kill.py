"""kill -9 of the gateway, again and again, while alerts come: each starts exactly one run."""

import asyncio
import contextlib
import random
from collections import Counter

import httpx
import pytest

from deployments.gateway.inbox import Inbox
from tests.conftest import PrefectServer, free_port
from tests.deployments.gateway_load import settled
from tests.deployments.gateway_support import Process, alert, deployed, group, inventory, runs_of

ALERTS, KILLS = 20, 4
pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]


async def _send(gateway: Process, stack: str, service: str) -> None:
    """Send one alert until it is accepted, and once more, as Alertmanager does."""
    body, answers = group(alert(service)), 0
    async with httpx.AsyncClient() as client:
        while answers < 2:
            with contextlib.suppress(httpx.HTTPError):
                answers += (await gateway.post(client, stack, body)).status_code == 202
            await asyncio.sleep(random.uniform(0.05, 0.3))


async def _kill(gateway: Process, sending: "asyncio.Future[object]") -> int:
    """Kill it at random times, at least KILLS times and until everything is accepted."""
    kills = 0
    while kills < KILLS or not sending.done():
        gateway.start()
        # The first dies while it starts, the others while they accept or work.
        if kills:
            await gateway.ready()
        await asyncio.sleep(random.uniform(0, 1.0))
        gateway.kill()
        kills += 1
    return kills


async def test_every_alert_starts_one_run_though_the_gateway_is_killed(
    tmp_path, home, prefect_server: PrefectServer
):
    spec = await deployed(inventory(ALERTS))
    gateway = Process(tmp_path / "gateway", free_port(), prefect_server.url)
    try:
        sending = asyncio.gather(*(_send(gateway, spec.name, service) for service in spec.services))
        assert await _kill(gateway, sending) >= KILLS
        await sending
        gateway.start()
        await gateway.ready()
        await settled(gateway, 120)
        runs = await runs_of(spec.name)
        started = Counter(str(run.parameters["service"]) for run in runs)
        assert started == Counter(list(spec.services))
        gateway.stop()
    finally:
        if gateway.process and gateway.process.poll() is None:
            gateway.kill()
    assert "Traceback" not in gateway.log.read_text()
    inbox = Inbox(gateway.home / "gateway" / "inbox.db")  # its lock is free
    assert {r.outcome for r in await inbox.all()} == {"started"}
    await inbox.close()
