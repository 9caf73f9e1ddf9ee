"""The whole way: a real Prometheus and Alertmanager, a killed server, and exactly one run."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from blocks.incidents import read_incident
from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.gateway.inbox_rows import Row
from deployments.outcome import decodes, report_of, rows_of, runs_of
from deployments.play_platform import ALERT_TOKEN, eventually, secrets
from deployments.sandbox.local import Sandbox
from deployments.scenarios import SERVICE, Scenario
from deployments.staging import stage
from tests.real.monitoring import Monitor, start_alertmanager, start_prometheus
from tests.real.upped import Upped
from tests.real.whole import prefect_server  # noqa: F401 - a fixture

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]
# Four scrapes: on a loaded machine one may be missed by a server that is well.
SCRAPE_S = 0.5
RULES = f"""
groups:
- name: llm
  rules:
  - alert: ServiceDown
    expr: max_over_time(up{{job="vllm"}}[2s]) == 0
    labels: {{service: {SERVICE}, severity: critical}}
    annotations: {{summary: "{SERVICE} does not answer"}}
"""
ALERTS = {
    "token": f"${{{ALERT_TOKEN}}}",
    "routes": [{"match": {"alertname": "ServiceDown"}, "procedure": "remediate-outage"}],
}
HEALTHY = Scenario.model_validate(
    {
        "name": "healthy",
        "title": "a server that serves",
        "story": "it is killed by the tests",
        "platform": {"serving": {"max_model_len": 8192}},
        "trigger": {"until": "serving"},
        "expect": {"verdict": "passed", "decoding": True},
    }
)


class World:
    """One server, scraped by Prometheus, whose Alertmanager tells the gateway."""

    def __init__(self, up: Upped, box: Sandbox, spec: StackSpec) -> None:
        self.up, self.box, self.spec = up, box, spec
        self.prometheus: Monitor
        self.alertmanager: Monitor

    def kill_service(self) -> None:
        os.kill(self.box.status(SERVICE)["pid"], signal.SIGKILL)

    async def rows(self, kind: str = "firing") -> list[Row]:
        """What the gateway's inbox has."""
        return [row for row in await rows_of(self.spec.name) if row.kind == kind]

    async def next_alert(self, number: int) -> Row:
        """The alert of that number, from 0, once the gateway has accepted it."""

        async def there() -> Row | None:
            found = await self.rows()
            return found[number] if len(found) > number else None

        return await eventually("the alert", there)

    async def over(self, row: Row) -> Row:
        """That alert, once its run and its incident have ended."""

        async def ended() -> Row | None:
            now = next(r for r in await self.rows() if r.id == row.id)
            found = await read_incident(now.member) if now.member else None
            runs = [r for r in await runs_of(self.spec.name) if str(r.id) == now.run_id]
            done = runs and runs[0].state and runs[0].state.is_final()
            return now if done and found and found.ended else None

        return await eventually("the end of the incident", ended)

    async def quiet(self) -> None:
        """Nothing fires any more, and the rules were evaluated again and again since."""
        seen: set[str] = set()

        async def evaluated() -> bool:
            groups = await asyncio.to_thread(self.prometheus.get, "/api/v1/rules")
            rule = groups["data"]["groups"][0]["rules"][0]  # type: ignore[index]
            if rule["state"] == "inactive":
                seen.add(rule["lastEvaluation"])
            return len(seen) > 3

        await eventually("quiet", evaluated)
        assert await asyncio.to_thread(self.alertmanager.get, "/api/v2/alerts") == []

    async def one_incident(self, between: Callable[[], Awaitable[None]]) -> None:
        """Kill the server; `between` happens once the alert is accepted, and before its run."""
        before = len(await runs_of(self.spec.name))
        await between()
        row = await self.over(await self.next_alert(before))
        await self.quiet()
        runs = await runs_of(self.spec.name)
        assert len(runs) == before + 1
        assert (row.outcome, row.run_id) == ("started", str(runs[-1].id))
        report = await report_of(runs[-1])
        assert report and (report.verdict, len(report.attempts)) == ("passed", 1), report
        assert (report.source, report.incident) == ("alert", row.member)
        assert await decodes(self.spec, report)
        resolved = await self.rows("resolved")
        assert [r.outcome for r in resolved] == ["resolved"] * (before + 1)
        assert all(r.outcome == "started" for r in await self.rows())


@pytest.fixture(scope="module")
def world(
    prefect_server: Upped,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("monitored")
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox.create(folder / "box"))

        async def staged() -> StackSpec:
            spec = await stage(HEALTHY, box, alerts={**ALERTS, "storm": {"per_service": 10}})
            spec = spec.model_copy(update={"name": f"sandbox-{uuid4().hex[:8]}"})
            await register(spec)
            return spec

        made = World(prefect_server, box, asyncio.run(staged()))
        hook = f"{prefect_server.gateway}/alerts/{made.spec.name}"
        told = start_alertmanager(folder, hook, secrets()[ALERT_TOKEN])
        made.alertmanager = stack.enter_context(told)
        scraped = {"vllm": [f"127.0.0.1:{box.services[SERVICE].port}"]}
        scrapes = start_prometheus(folder, scraped, RULES, made.alertmanager.url, SCRAPE_S)
        made.prometheus = stack.enter_context(scrapes)
        yield made


async def test_a_killed_server_is_healed_once_and_its_incident_ends(world: World) -> None:
    async def kill() -> None:
        world.kill_service()

    await world.one_incident(kill)


@pytest.mark.parametrize("victim", ["gateway", "server"])
async def test_kill_between_accept_and_run_starts_exactly_one(world: World, victim: str) -> None:
    """The Prefect server stands still, so that the accepted alert cannot have become a run."""

    async def kill() -> None:
        number, server = len(await world.rows()), world.up.children["server"]
        os.kill(server, signal.SIGSTOP)
        try:
            world.kill_service()
            accepted = await world.next_alert(number)
            assert accepted.outcome == ""
            os.kill(world.up.children[victim], signal.SIGKILL)
        finally:
            os.kill(server, signal.SIGCONT)

    await world.one_incident(kill)
