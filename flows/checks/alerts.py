"""Check: which alerts fire now."""

from typing import Any

from blocks import alertmanager_server, prometheus_server
from flows.checks.platform_view import Platform
from flows.decisions.check_alerts import SUBJECT, judge_alerts
from flows.decisions.finding import Finding
from tasks.check_reads import Read, Unread

_RULES = "rules"


async def run(platform: Platform) -> list[Finding]:
    """What fires by Alertmanager, which knows the silences; without one, by Prometheus.

    Prometheus is asked for its rules as well: without them, nothing can fire.
    """
    alertmanager, prometheus = platform.spec.alertmanager, platform.spec.prometheus
    wanted: dict[str, Read[Any]] = {}
    if alertmanager:
        wanted[SUBJECT] = lambda: alertmanager_server.firing(alertmanager)
    elif prometheus:
        wanted["prometheus"] = lambda: prometheus_server.active(prometheus)
    if prometheus:
        wanted[_RULES] = lambda: prometheus_server.rules(prometheus)
    read = await platform.read("alerts", wanted)
    told = {who: one.reason if isinstance(one, Unread) else one for who, one in read.items()}
    rules = told.pop(_RULES, None)
    services = platform.spec.services
    return [
        finding
        for subject, alerts in told.items()
        for finding in judge_alerts(alerts, services, subject, rules)
    ]
