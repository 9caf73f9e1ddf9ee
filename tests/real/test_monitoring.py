"""The clients against a real Prometheus and a real Alertmanager, fed by a page of vLLM's."""

import asyncio
import json
import math
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks.alertmanager_server import AlertmanagerSpec, firing
from blocks.check_policy import CheckPolicy
from blocks.errors import Permanent
from blocks.metric_values import estimate
from blocks.metrics_page import scrape
from blocks.prometheus_server import PrometheusSpec, active, query, query_many, rules
from blocks.service import Service
from blocks.stack import StackSpec
from deployments.sandbox.vllm_metrics import Metrics
from flows.checks import alerts as alerts_check
from flows.checks.platform_view import Platform
from flows.decisions.check_alerts import judge_alerts
from flows.decisions.check_slo import judge_slo, judge_slo_page, slo_queries
from flows.platform_report import not_looked_at
from tasks.check_reads import Read, Unread, within
from tests.conftest import free_port
from tests.real.monitoring import Monitor, start_alertmanager, start_prometheus

pytestmark = pytest.mark.real
WINDOW = "4s"
POLICY = CheckPolicy(window_h=4 / 3600)
RULES = """
groups:
  - name: vllm
    rules:
      - alert: VllmDown
        expr: up{instance="DEAD"} == 0
        labels: {severity: critical, service: dead}
        annotations: {summary: "{{ $labels.instance }} is down"}
      - alert: QueueBacklog
        expr: max_over_time(vllm:num_requests_waiting[5s]) > 50
        labels: {severity: warning, service: busy}
      - record: all:up
        expr: count(up)
      - alert: Broken
        expr: up * on (job) up
      - alert: NeverYet
        expr: up == 1
        for: 1h
"""


class Target:
    """A server with the metrics page of a vLLM server, which tests fill."""

    def __init__(self, old: bool = False) -> None:
        self.metrics, self.old, self.up = Metrics("m"), old, True
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = target.page().encode() if target.up else b""
                self.send_response(200 if target.up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.at = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def page(self) -> str:
        return self.metrics.text(old=self.old)

    def serve(self, seconds: float, times: int = 1, status: int = 200) -> None:
        """Requests that ended."""
        self.metrics.observe("e2e_request_latency_seconds", seconds, times)
        for _ in range(times):
            self.metrics.http("/v1/completions", "POST", status, 10, 10, seconds)
        self.metrics.add("request_success", times, finished_reason="stop")

    def service(self, **slo: float) -> Service:
        runtime = {"kind": "docker", "container": "c"}
        return Service.model_validate({"url": f"http://{self.at}", "runtime": runtime, "slo": slo})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    found = {name: Target(old=name == "old") for name in ("busy", "idle", "old", "dead")}
    found["dead"].up = False
    found["busy"].metrics.set("num_requests_waiting", 77)
    found["old"].metrics.set("kv_cache_usage_perc", 0.97)
    yield found
    for target in found.values():
        target.close()


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    with start_alertmanager(tmp_path_factory.mktemp("am")) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, targets: dict[str, Target], alertmanager: Monitor
) -> Iterator[Monitor]:
    scraped = {"vllm": [target.at for target in targets.values()]}
    folder = tmp_path_factory.mktemp("prom")
    # On a busy machine a scrape may be late: no rule may take that for a server that is down.
    text = RULES.replace("DEAD", targets["dead"].at)
    with start_prometheus(folder, scraped, text, alertmanager.url, 0.2) as server:
        yield server


async def until(ready: Callable[[], Awaitable[Any]], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := await ready()):
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.1)
    return found


def spec_of(server: Monitor) -> PrometheusSpec:
    return PrometheusSpec(url=server.url, window=WINDOW)


async def levels(server: Monitor, name: str, service: Service) -> dict[str, Any]:
    asked = slo_queries(service, WINDOW, POLICY)
    answers = await query_many(spec_of(server), asked)
    assert not [a for a in answers.values() if isinstance(a, str)], answers
    return {f.check: f for f in judge_slo(name, service, POLICY, answers, WINDOW)}


async def steady(server: Monitor, name: str, service: Service) -> dict[str, Any]:
    """The levels once it is scraped: on a busy machine a scrape may be late, and all is unknown."""

    async def scraped() -> Any:
        found = await levels(server, name, service)
        return found if "queue" in found and "latency" not in unscraped(found) else None

    return await until(scraped)


def unscraped(found: dict[str, Any]) -> str:
    return " ".join(f.check for f in found.values() if "such series" in f.evidence)


async def test_queries_of_every_kind(prometheus: Monitor, targets: dict[str, Target]) -> None:
    spec = spec_of(prometheus)
    await until(lambda: query(spec, "count(up) == 4"))
    answers = await query_many(
        spec,
        {
            "scalar": "scalar(vector(7))",
            "nan": "vector(0) / vector(0)",
            "inf": "vector(1) / vector(0)",
            "none": "no_such_series",
            "bad": "sum(",
            "matrix": "up[1m]",
            "up": f'up{{instance="{targets["dead"].at}"}}',
        },
    )
    assert [s.value for s in answers["scalar"]] == [7]
    assert math.isnan(answers["nan"][0].value) and answers["inf"][0].value == math.inf
    assert answers["none"] == ()
    assert "unclosed left parenthesis" in answers["bad"] and "matrix" in answers["matrix"]
    assert answers["up"][0].labels["job"] == "vllm" and answers["up"][0].value == 0
    with pytest.raises(Permanent, match="bad_data"):
        await query(spec, "sum(")
    with pytest.raises(Permanent, match="route prefix"):
        await query(PrometheusSpec(url=f"{prometheus.url}/prom"), "up")


async def test_service_levels(prometheus: Monitor, targets: dict[str, Target]) -> None:
    spec, busy = spec_of(prometheus), targets["busy"]
    service = busy.service(p90_latency_s=1, p95_latency_s=3, error_rate=0.05, throughput_rps=0.01)
    at = f'instance="{busy.at}"'
    # As old as the window, so that the first error's series is known to be a new one.
    await until(lambda: query(spec, f"up{{{at}}} offset {WINDOW} == 1"))
    busy.serve(0.6, 80)
    busy.serve(0.9, 12)
    busy.serve(4, 8)
    busy.metrics.http("/v1/completions", "POST", 500, 10, 10, 0.1)
    for _ in range(20):
        busy.metrics.http("/v1/completions", "POST", 500, 10, 10, 0.1)
        busy.metrics.http("/v1/models", "GET", 200, 10, 10, 0.1)

    async def seen() -> dict[str, Any] | None:
        found = await levels(prometheus, "busy", service)
        if "queue" not in found:
            return None  # not scraped just now
        whole = found["p90 latency"].status == "ok" and found["error rate"].status == "fail"
        return found if whole else None

    found = await until(seen)
    # 8 of 100 took 4 s: the 95th lies among them, in the bucket of 2.5 to 5 s.
    assert found["p95 latency"].status == "fail"
    assert found["p95 latency"].suggests == "remediate-latency"
    assert found["error rate"].suggests == "remediate-outage"
    assert found["throughput"].status == "ok"
    assert (found["queue"].status, found["queue"].value) == ("warn", "77 waiting")
    assert found["cache"].status == "ok" and found["preemptions"].status == "ok"
    # What is read out of the buckets is what Prometheus itself reads out of them.
    asked = slo_queries(service, WINDOW, POLICY)["latency"]
    inner = f"sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket{{{at}}}[1h]))"
    answers = await query_many(
        spec, {"ours": inner, "theirs": f"histogram_quantile(0.95, {inner})", "asked": asked}
    )
    ours = estimate(0.95, answers["ours"])
    assert ours and ours.value == pytest.approx(answers["theirs"][0].value, rel=1e-3)
    page = await scrape(service)
    by_page = {f.check: f for f in judge_slo_page("busy", service, POLICY, page)}
    assert by_page["p95 latency"].status == "fail" and by_page["error rate"].status == "fail"
    assert by_page["throughput"].status == "unknown", "it has just started"


async def test_no_traffic_and_nothing_there(
    prometheus: Monitor, targets: dict[str, Target]
) -> None:
    spec = spec_of(prometheus)
    idle = targets["idle"].service(p95_latency_s=3, error_rate=0.01, throughput_rps=1)
    await until(lambda: query(spec, f'up{{instance="{targets["idle"].at}"}} offset 1s == 1'))
    found = await steady(prometheus, "idle", idle)
    assert found["p95 latency"].status == "unknown"
    assert "no traffic in the last 4s" in found["p95 latency"].evidence
    assert found["error rate"].status == "unknown"
    assert (found["throughput"].status, found["throughput"].value) == ("warn", "0 requests/s")
    assert found["queue"].status == "ok"
    (dead,) = (await levels(prometheus, "dead", targets["dead"].service())).values()
    assert dead.status == "unknown" and "Prometheus cannot scrape it" in dead.evidence
    absent = idle.model_copy(update={"metrics": {"instance": 'no"where\\'}})
    (lost,) = (await levels(prometheus, "lost", absent)).values()
    assert lost.status == "unknown" and "is it scraped?" in lost.evidence


async def test_a_server_that_hangs_with_a_request_in_it(
    prometheus: Monitor, targets: dict[str, Target]
) -> None:
    idle = targets["idle"]
    idle.metrics.set("num_requests_running", 2)
    service = idle.service(p95_latency_s=1)

    async def held() -> Any:
        found = await levels(prometheus, "idle", service)
        latency = found.get("p95 latency")
        return latency if latency and latency.status == "fail" else None

    found = await until(held)
    assert found.value == "≥ 4 s" and "2 are in the engine" in found.evidence
    assert found.suggests == "remediate-outage"
    idle.metrics.set("num_requests_running", 0)


async def test_old_names(prometheus: Monitor, targets: dict[str, Target]) -> None:
    at = f'{{instance="{targets["old"].at}"}}'
    await until(lambda: query(spec_of(prometheus), f"vllm:gpu_cache_usage_perc{at}"))
    assert await query(spec_of(prometheus), f"vllm:kv_cache_usage_perc{at}") == ()
    found = await steady(prometheus, "old", targets["old"].service())
    assert (found["cache"].status, found["cache"].value) == ("warn", "97 %")


async def test_firing_alerts(
    prometheus: Monitor, alertmanager: Monitor, targets: dict[str, Target]
) -> None:
    spec = AlertmanagerSpec(url=alertmanager.url)
    expected = {"VllmDown", "QueueBacklog"}

    async def both() -> Any:
        found = await firing(spec)
        return found if {a.name for a in found} == expected else None

    found = {a.name: a for a in await until(both)}
    down = found["VllmDown"]
    assert (down.severity, down.service) == ("critical", "dead") and down.fingerprint
    assert down.summary == f"{targets['dead'].at} is down" and down.url.startswith("http")
    assert down.since and abs(datetime.now(UTC) - down.since) < timedelta(minutes=2)
    services = {n: targets[n].service(p95_latency_s=1) for n in ("busy", "dead")}
    lines = judge_alerts(list(found.values()), services)
    assert [(f.subject, f.status, f.suggests) for f in lines] == [
        ("dead", "fail", "remediate-outage"),
        ("busy", "warn", "remediate-latency"),
    ]

    async def by_rules() -> bool:  # a pending one is none; a scrape may have come too late
        return {a.name for a in await active(spec_of(prometheus))} == expected

    await until(by_rules)
    loaded = await rules(spec_of(prometheus))
    assert (loaded.loaded, loaded.broken) == (4, (loaded.broken[0],))
    assert loaded.broken[0].startswith("Broken: ") and "duplicate series" in loaded.broken[0]

    now = datetime.now(UTC)
    post(alertmanager, "/api/v2/silences", {
        "matchers": [{"name": "alertname", "value": "QueueBacklog", "isRegex": False}],
        "startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "test", "comment": "test",
    })  # fmt: skip
    post(alertmanager, "/api/v2/alerts", [
        {"labels": {"alertname": "Inhibited", "severity": "warning", "service": "dead"}},
        {"labels": {"alertname": "Ünïcode\n", "severity": "P1"}},
    ])  # fmt: skip

    async def quiet() -> Any:
        names = {a.name for a in await firing(spec)}
        return names if names == {"VllmDown", "Ünïcode\n"} else None

    await until(quiet)
    with pytest.raises(Permanent, match="route prefix"):
        await firing(AlertmanagerSpec(url=f"{alertmanager.url}/am"))


def post(server: Monitor, path: str, body: Any) -> None:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


async def test_a_server_that_goes_is_not_well_for_the_rest_of_the_window(
    prometheus: Monitor, targets: dict[str, Target]
) -> None:
    old = targets["old"]
    service = old.service(p95_latency_s=5)
    old.serve(0.5, 10)
    await until(lambda: query(spec_of(prometheus), f'up{{instance="{old.at}"}} == 1'))
    old.up = False

    async def gone() -> Any:
        found = await levels(prometheus, "old", service)
        return found if "cannot scrape" in str(found) else None

    assert {f.status for f in (await until(gone)).values()} == {"unknown"}


async def test_the_errors_of_an_earlier_life_count_where_the_service_is_back(
    tmp_path: Path,
) -> None:
    target = Target()
    service = target.service(error_rate=0.01)
    at = f'instance="{target.at}"'
    night = CheckPolicy(window_h=60 / 3600)
    try:
        with start_prometheus(tmp_path, {"vllm": [target.at]}, interval_s=0.2) as prometheus:
            spec = PrometheusSpec(url=prometheus.url, window="1s")

            async def errors() -> Any:
                asked = slo_queries(service, "1s", night)
                answers = await query_many(spec, asked)
                found = judge_slo("t", service, night, answers, "1s")
                return next((f for f in found if f.check == "error rate"), None)

            await until(lambda: query(spec, f"up{{{at}}} offset 1s == 1"))
            early = await errors()
            assert early is None or early.status == "unknown"
            counted = f'http_requests_total{{{at},status="5xx"}} >= '
            for many in (10, 20):
                target.serve(0.1, 10, 500)
                await until(lambda many=many: query(spec, f"{counted}{many}"))
            target.up = False
            await until(lambda: query(spec, f"up{{{at}}} == 0"))
            target.metrics, target.up = Metrics("m"), True  # restarted: it counts from nothing
            target.serve(0.1, 5)
            back = f'http_requests_total{{{at},status="2xx"}} == 5'
            await until(lambda: query(spec, back))
            assert await query(spec, f"{counted}1") == ()

            async def seen() -> Any:
                found = await errors()
                # The last second has forgotten it; the long window has not.
                return found if found and " h" in found.evidence else None

            found = await until(seen)
            assert (found.status, found.suggests) == ("fail", "remediate-outage"), found
    finally:
        target.close()


SERVICE = {"url": "http://w:8000", "runtime": {"kind": "docker", "container": "w"}}


class Direct(Platform):
    """A platform that reads without task runs."""

    async def read(
        self, kind: str, reads: Mapping[str, Read[Any]], machine: Mapping[str, str] | None = None
    ) -> dict[str, Any | Unread]:
        return {name: await within(read(), 10) for name, read in reads.items()}


async def alerts_of(**servers: str) -> list[tuple[str, str, str]]:
    document = {
        "name": "lab",
        "services": {"w": SERVICE},
        **{n: {"url": u} for n, u in servers.items()},
    }
    found = await alerts_check.run(Direct(StackSpec.model_validate(document), datetime.now(UTC)))
    return [(f.check, f.status, f.evidence) for f in found]


async def test_nothing_fires_where_nothing_can(tmp_path: Path) -> None:
    rule = "groups: [{name: a, rules: [{alert: Never, expr: vector(1) > 2}]}]"
    dead = f"http://127.0.0.1:{free_port()}"
    with (
        start_alertmanager(tmp_path) as alertmanager,
        start_prometheus(tmp_path, {}) as bare,
        start_prometheus(tmp_path, {}, rule) as ruled,
    ):
        none = ("alerts", "unknown", "no alerting rules are loaded")
        assert await alerts_of(prometheus=bare.url) == [none]
        assert await alerts_of(prometheus=bare.url, alertmanager=alertmanager.url) == [none]
        well = ("alerts", "ok", "1 alerting rule is evaluated")
        assert await alerts_of(prometheus=ruled.url) == [well]
        assert await alerts_of(prometheus=ruled.url, alertmanager=alertmanager.url) == [well]
        ((_, status, why),) = await alerts_of(prometheus=dead, alertmanager=alertmanager.url)
        assert status == "unknown" and "whether any can" in why and "refused" in why
        ((_, status, why),) = await alerts_of(prometheus=ruled.url, alertmanager=dead)
        assert status == "unknown" and "refused" in why
        assert [s for _, s, _ in await alerts_of(alertmanager=alertmanager.url)] == ["ok"]
    assert await alerts_of() == []


def test_what_the_inventory_does_not_name_is_said() -> None:
    bare = {"name": "lab", "services": {"w": SERVICE}}
    said = not_looked_at(StackSpec.model_validate(bare))
    assert [w in said for w in ("alerts", "machines", "error rate")] == [True] * 3
    whole = {
        **bare,
        "services": {"w": {**SERVICE, "slo": {"error_rate": 0.01}}},
        "prometheus": {"url": "http://p:9090"},
        "hosts": {"motoko": {}},
    }
    assert not_looked_at(StackSpec.model_validate(whole)) == ""
    part = StackSpec.model_validate({**whole, "hosts": {}})
    assert "machines" in not_looked_at(part) and "alerts" not in not_looked_at(part)


@pytest.mark.parametrize("engine", ["vllm", "litellm", "http"])
async def test_every_query_is_one(prometheus: Monitor, engine: str) -> None:
    slo = {"p95_latency_s": 1, "error_rate": 0.1, "throughput_rps": 1}
    labels = {"job": 'a"b\\', "instance": "x"}
    service = Service.model_validate({**SERVICE, "engine": engine, "slo": slo, "metrics": labels})
    answers = await query_many(spec_of(prometheus), slo_queries(service, "5m", CheckPolicy()))
    assert set(map(type, answers.values())) == {tuple}, answers
