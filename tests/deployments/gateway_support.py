"""A gateway as a process of its own, a deployment that its alerts start, and the alerts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun

from blocks.stack import StackSpec
from deployments.bootstrap import _pool, register
from deployments.connection import POOL

TOKEN = "alert-token-that-nobody-may-see-4711"
TOKEN_ENV = "TEST_ALERT_TOKEN"
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SCHEMA = {
    "type": "object",
    "properties": {
        "stack": {"type": "string"},
        "service": {"type": "string"},
        "options": {"type": "object"},
    },
    "required": ["stack", "service"],
}


def alert(service: str, *, name: str = "VllmDown", n: int = 0, **changes: Any) -> dict[str, Any]:
    """One alert as Alertmanager sends it; `n` tells those of one service apart."""
    return {
        "status": "firing",
        "labels": {"alertname": name, "service": service, "severity": "critical"},
        "annotations": {"summary": f"{name} on {service}"},
        "startsAt": (START + timedelta(seconds=n)).isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://monitor:4420/graph",
        "fingerprint": f"{abs(hash((service, name))) % 16**16:016x}",
        **changes,
    }


def group(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A notification of them."""
    return {
        "receiver": "hook",
        "status": "firing",
        "alerts": list(alerts),
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://monitor:4421",
        "version": "4",
        "groupKey": "{}",
        "truncatedAlerts": 0,
        **changes,
    }


def inventory(services: int = 1, **alerts: Any) -> StackSpec:
    """A stack of so many services s0, s1, ... whose alerts start remediate-outage."""
    routes = [{"match": {"alertname": "VllmDown"}, "procedure": "remediate-outage"}]
    return StackSpec.model_validate(
        {
            "name": f"g-{uuid4().hex[:8]}",
            "services": {f"s{n}": _service(n) for n in range(services)},
            "alerts": {
                "token": f"${{{TOKEN_ENV}}}",
                "routes": routes,
                "storm": {"per_service": 100, "total": 1000},
                **alerts,
            },
        }
    )


def _service(n: int) -> dict[str, Any]:
    return {
        "engine": "http",
        "url": f"http://127.0.0.1:9/{n}",
        "runtime": {"kind": "docker", "container": f"s{n}"},
    }


async def deployed(spec: StackSpec, *procedures: str) -> StackSpec:
    """Register a stack and deployments that nobody executes."""
    await register(spec)
    async with get_client() as client:
        await _pool(client)
        for procedure in procedures or ("remediate-outage",):
            flow = await client.create_flow_from_name(procedure)
            await client.create_deployment(
                flow_id=flow,
                name=procedure,
                work_pool_name=POOL,
                parameter_openapi_schema=SCHEMA,
                enforce_parameter_schema=True,
            )
    return spec


async def runs_of(stack: str) -> list[FlowRun]:
    """Every run that was made for a stack."""
    wanted, found = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"stack:{stack}"])), []
    async with get_client() as client:
        while True:
            page = await client.read_flow_runs(flow_run_filter=wanted, limit=200, offset=len(found))
            found += page
            if len(page) < 200:
                return found


class Process:
    """`python -m deployments.gateway.serve` on a port of its own."""

    def __init__(self, home: Path, port: int, prefect_url: str, **env: str) -> None:
        self.home, self.port = home, port
        self.url = f"http://127.0.0.1:{port}"
        self._env = {
            **os.environ,
            "RUNBOOKS_HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": prefect_url,
            TOKEN_ENV: TOKEN,
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it need not listen yet."""
        self.home.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "deployments.gateway.serve", "--port", str(self.port)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, env=self._env, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def log(self) -> Path:
        return self.home / "gateway.log"

    async def ready(self, timeout_s: float = 90) -> None:
        """Wait until it is well."""
        until, said = time.monotonic() + timeout_s, ""
        async with httpx.AsyncClient() as client:
            while time.monotonic() < until:
                assert self.process and self.process.poll() is None, self.log.read_text()[-2000:]
                with suppress(httpx.HTTPError):
                    answer = await client.get(f"{self.url}/healthz", timeout=5)
                    said = answer.text
                    if answer.status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise AssertionError(f"not well: {said} {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def rss_mib(self) -> float:
        """Its memory."""
        assert self.process
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def post(self, client: httpx.AsyncClient, stack: str, body: Any) -> httpx.Response:
        """One notification."""
        return await client.post(
            f"{self.url}/alerts/{stack}",
            content=json.dumps(body),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=20,
        )
