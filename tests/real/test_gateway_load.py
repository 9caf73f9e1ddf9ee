"""A storm of alerts at a real gateway process: none lost, none acted on twice, memory bounded."""

from collections import Counter

import pytest

from deployments.gateway.inbox import Inbox
from tests.conftest import PrefectServer, free_port
from tests.deployments.gateway_load import Load, blast, settled
from tests.deployments.gateway_support import Process, deployed, inventory, runs_of

ALERTS, DISTINCT, SERVICES = 400, 80, 10
"""The thousand of the acceptance are in tests/benchmarks/bench_gateway.py, with their times."""
STORM = {"per_service": 4, "total": 20, "window_s": 3600}
RSS_MIB = 350
pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]


async def test_alerts_of_a_storm_are_acted_on_once_or_dropped_by_rule(
    tmp_path, home, prefect_server: PrefectServer
):
    procedures = ("remediate-outage", "remediate-latency", "remediate-oom", "remediate-crash")
    routes = [{"match": {"alertname": f"A{n}"}, "procedure": p} for n, p in enumerate(procedures)]
    spec = await deployed(inventory(SERVICES, routes=routes, storm=STORM), *procedures)
    gateway = Process(tmp_path / "gateway", free_port(), prefect_server.url)
    gateway.start()
    try:
        await gateway.ready()
        load = Load(ALERTS, DISTINCT, list(spec.services), names=len(procedures), seconds=4)
        answers = await blast(gateway, spec.name, load)
        assert Counter(a.status for a in answers) == {202: ALERTS}
        assert sum(a.accepted for a in answers) == DISTINCT
        await settled(gateway, 240)
        assert gateway.rss_mib() < RSS_MIB
    finally:
        gateway.stop()
    inbox = Inbox(gateway.home / "gateway" / "inbox.db")
    rows = await inbox.all()
    await inbox.close()
    outcomes = Counter(r.outcome for r in rows)
    assert len(rows) == DISTINCT
    assert set(outcomes) <= {"started", "joined", "dropped"}
    # The rule is exact: what was under it was started, and the rest says why it was not.
    assert outcomes["started"] == STORM["total"]
    assert max(Counter(r.service for r in rows if r.outcome == "started").values()) <= 4
    assert all(r.reason for r in rows if r.outcome != "started")
    runs = [str(run.id) for run in await runs_of(spec.name)]
    assert sorted(runs) == sorted(r.run_id for r in rows if r.outcome == "started")
