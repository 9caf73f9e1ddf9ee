"""How fast the gateway answers alerts while it works them: 1,000 in 10 s, 200 of them distinct."""

import asyncio
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import PrefectServer, free_port
from tests.deployments.gateway_load import Load, blast, settled
from tests.deployments.gateway_support import Process, deployed, inventory

POSTS, DISTINCT, SERVICES, SECONDS = 1000, 200, 20, 10.0


async def _measure(server: PrefectServer, folder: Path) -> list[dict[str, Any]]:
    storm = {"per_service": 4, "total": 50, "window_s": 3600}
    routes = [{"match": {"alertname": "~A.*"}, "procedure": "remediate-outage"}]
    spec = await deployed(inventory(SERVICES, routes=routes, storm=storm))
    gateway = Process(folder, free_port(), server.url)
    gateway.start()
    try:
        await gateway.ready()
        idle = gateway.rss_mib()
        load = Load(POSTS, DISTINCT, list(spec.services), names=4, seconds=SECONDS)
        answers = await blast(gateway, spec.name, load)
        await settled(gateway, 180)
        peak = gateway.rss_mib()
    finally:
        gateway.stop()
    took = sorted(a.took_s for a in answers)
    lost = sum(a.status != 202 for a in answers)
    note = f"{POSTS} in {SECONDS:g} s, {lost} not accepted"
    return [
        _row("gateway: answer, p50", statistics.median(took) * 1000, "ms", note),
        _row("gateway: answer, p99", took[int(len(took) * 0.99)] * 1000, "ms", note),
        _row("gateway: answer, slowest", took[-1] * 1000, "ms", note),
        _row("gateway: RSS after the storm", peak, "MiB", f"{idle:.0f} before it"),
    ]


def _row(name: str, value: float, unit: str, note: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 1), "unit": unit, "note": note}


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, note}."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        os.environ["RUNBOOKS_HOME"] = folder
        server = PrefectServer(Path(folder) / "prefect")
        server.start()
        try:
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
                return asyncio.run(_measure(server, Path(folder) / "gateway"))
        finally:
            server.stop()


if __name__ == "__main__":
    for line in run():
        print(line)
