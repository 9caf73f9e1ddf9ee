"""Check: which alerts fire now."""

from blocks import alertmanager_server, prometheus_server
from blocks.alert import Alert
from flows.checks.platform_view import Platform
from flows.decisions.check_alerts import SUBJECT, judge_alerts
from flows.decisions.finding import Finding
from tasks.check_reads import Read, Unread


async def run(platform: Platform) -> list[Finding]:
    """What fires by Alertmanager, which knows the silences; without one, by Prometheus."""
    alertmanager, prometheus = platform.spec.alertmanager, platform.spec.prometheus
    wanted: dict[str, Read[tuple[Alert, ...]]] = {}
    if alertmanager:
        wanted[SUBJECT] = lambda: alertmanager_server.firing(alertmanager)
    elif prometheus:
        wanted["prometheus"] = lambda: prometheus_server.active(prometheus)
    findings: list[Finding] = []
    for subject, alerts in (await platform.read("alerts", wanted)).items():
        told = alerts.reason if isinstance(alerts, Unread) else alerts
        findings += judge_alerts(told, platform.spec.services, subject)
    return findings
