"""Check: latency, errors, throughput, queue and cache against the service's objectives."""

from blocks.metrics_page import MetricsPage, scrape
from blocks.prometheus_server import PrometheusSpec, Sample, query_many
from blocks.service import Service
from flows.checks.platform_view import Platform
from flows.decisions.check_slo import LEVELS, judge_slo, judge_slo_page, slo_queries
from flows.decisions.finding import Finding
from tasks.check_reads import Read, Unread

Answers = dict[str, tuple[Sample, ...] | str]
TOGETHER = 100
"""Services whose numbers are asked for over one set of connections."""


async def run(platform: Platform) -> list[Finding]:
    """The findings of every service, out of Prometheus, else of its own /metrics page."""
    prometheus, found = platform.spec.prometheus, []
    window = prometheus.window if prometheus else "5m"
    asked: dict[str, dict[str, str]] = {}
    for name, service in platform.spec.services.items():
        try:
            queries = slo_queries(service, window, platform.policy)
        except ValueError as e:
            found.append(_unknown(name, f"its labels: {e}"))
            continue
        if queries:
            asked[name] = queries
    if prometheus:
        return found + await _by_prometheus(platform, prometheus, asked)
    return found + await _by_pages(platform, list(asked))


async def _by_prometheus(
    platform: Platform, prometheus: PrometheusSpec, asked: dict[str, dict[str, str]]
) -> list[Finding]:
    def reads(names: list[str]) -> Read[Answers]:
        # One call for many: a Prometheus that is down is then found once, not by each of them.
        queries = {f"{n}/{what}": q for n in names for what, q in asked[n].items()}
        return lambda: query_many(prometheus, queries)

    names = list(asked)
    groups = [names[at : at + TOGETHER] for at in range(0, len(names), TOGETHER)]
    answers: Answers = {}
    wanted = {group[0]: reads(group) for group in groups}
    for group, got in zip(
        groups, (await platform.read("Prometheus", wanted)).values(), strict=True
    ):
        if isinstance(got, Unread):
            got = {f"{n}/{what}": got.reason for n in group for what in asked[n]}
        answers |= got
    return [
        finding
        for name in names
        for finding in judge_slo(
            name,
            platform.spec.services[name],
            platform.policy,
            {what: answers[f"{name}/{what}"] for what in asked[name]},
            prometheus.window,
        )
    ]


async def _by_pages(platform: Platform, names: list[str]) -> list[Finding]:
    def reads(service: Service) -> Read[MetricsPage]:
        return lambda: scrape(service)

    services = platform.spec.services
    wanted = {name: reads(services[name]) for name in names}
    findings: list[Finding] = []
    for name, page in (await platform.read("metrics", wanted, platform.machines)).items():
        if isinstance(page, Unread):
            findings.append(_unknown(name, page.reason))
        else:
            # Without its address the same problem of many services is one line.
            why = page.problem.replace(services[name].url, "its API")
            page = page.model_copy(update={"problem": why})
            findings += judge_slo_page(name, services[name], platform.policy, page)
    return findings


def _unknown(name: str, why: str) -> Finding:
    return Finding(check=LEVELS, subject=name, status="unknown", evidence=why)
