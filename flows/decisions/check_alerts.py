"""What fires now, grouped by alert and service. Pure."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from blocks.alert import Alert, Rules
from blocks.service import Service
from flows.decisions.finding import Finding, Status
from flows.decisions.latency import objectives

CHECK = "alerts"
SUBJECT = "alertmanager"
_FAIL = {"critical", "page", "p0", "p1", "emergency", "error", "high", "disaster"}
_HEARTBEAT = re.compile(r"watchdog|dead_?mans_?(switch|snitch)|info_?inhibitor", re.IGNORECASE)
"""Alerts that fire as long as alerting works."""
_SLOW = re.compile(r"latency|slow|queue|backlog", re.IGNORECASE)
_DOWN = re.compile(
    r"(?:Down|DOWN|(?:^|_)down)(?![a-z])|(?i:unreachable|unavailable|outage|error_?rate)"
)


def judge_alerts(
    alerts: Sequence[Alert] | str,
    services: Mapping[str, Service],
    subject: str = SUBJECT,
    rules: Rules | str | None = None,
) -> list[Finding]:
    """One finding for all alerts of one name and service; one `ok` when none fires, but could.

    Severity critical, page, P0 or P1 fails; every other, and none at all, warns: an alert that
    nobody ranked is still one. Alerts that fire as long as alerting works (Watchdog) are none.

    Args:
        alerts: what fires, or why that is not known.
        services: of the stack, by name.
        subject: who was asked, for what is no service's.
        rules: what Prometheus has loaded, or why that is not known; None: it was not asked.
    """
    return [*_fired(alerts, services, subject, rules), *_broken(rules)]


def _broken(rules: Rules | str | None) -> list[Finding]:
    """Rules that cannot be evaluated: what they watch is not watched."""
    if not isinstance(rules, Rules) or not rules.broken:
        return []
    return [
        Finding(
            check="alert rules",
            subject="prometheus",
            status="unknown",
            value=f"{len(rules.broken)} of {rules.loaded} cannot be evaluated",
            evidence="; ".join(rules.broken)[:300],
            advice="mend their expressions: they never fire",
        )
    ]


def _fired(
    alerts: Sequence[Alert] | str,
    services: Mapping[str, Service],
    subject: str,
    rules: Rules | str | None,
) -> list[Finding]:
    if isinstance(alerts, str):
        return [Finding(check=CHECK, subject=subject, status="unknown", evidence=alerts[:300])]
    beats = sorted({a.name for a in alerts if _is_heartbeat(a)})
    groups: dict[tuple[str, str], list[Alert]] = {}
    for alert in alerts:
        if not _is_heartbeat(alert):
            groups.setdefault((alert.name, _service(alert, services)), []).append(alert)
    if not groups:
        return [_none(subject, beats, rules)]
    found = [_judge(*key, group, services, subject) for key, group in groups.items()]
    return sorted(found, key=lambda f: (f.status != "fail", f.check, f.subject))


def _judge(
    name: str,
    service: str,
    group: Sequence[Alert],
    services: Mapping[str, Service],
    subject: str,
) -> Finding:
    severities = sorted({a.severity for a in group if a.severity})
    status: Status = "fail" if _FAIL & set(severities) else "warn"
    times = [a.since for a in group if a.since]
    oldest = min(group, key=lambda a: (a.since is None, a.since.timestamp() if a.since else 0))
    said = [oldest.summary] if oldest.summary else []
    said += [f"since {_utc(min(times))}"] if times else []
    if service and service not in services:
        said.append(f"of {service}, which is not in the inventory")
    return Finding(
        check=f"alert {name}"[:100],
        subject=service if service in services else subject,
        status=status,
        value=f"{len(group)} firing, {'/'.join(severities) or 'no severity'}",
        threshold="none firing",
        evidence="; ".join(said)[:300],
        suggests=_procedure(name, services.get(service)),
    )


def _none(subject: str, beats: Sequence[str], rules: Rules | str | None) -> Finding:
    """Nothing fires: well, where anything can."""
    found = Finding(check=CHECK, subject=subject, status="ok", value="none firing")
    if beats:
        # It came all the way from Prometheus: what stands behind the others works too.
        return found.model_copy(update={"evidence": f"{', '.join(beats)} fires, as it must"})
    if rules is None:
        return found
    if isinstance(rules, str):
        blind = {"evidence": f"none arrived, but whether any can is not known: {rules}"[:300]}
    elif rules.loaded > len(rules.broken):
        count = rules.loaded - len(rules.broken)
        words = f"{count} alerting rule{'s are' if count != 1 else ' is'} evaluated"
        return found.model_copy(update={"evidence": words})
    else:
        what = "no alerting rules are loaded" if not rules.loaded else "no rule can be evaluated"
        blind = {"evidence": what, "advice": "load rules into Prometheus: rule_files"}
    return found.model_copy(update={"status": "unknown", "value": "", **blind})


def _is_heartbeat(alert: Alert) -> bool:
    # Somebody's real alert may be called so as well: theirs has a severity.
    return bool(_HEARTBEAT.fullmatch(alert.name)) and alert.severity in ("none", "")


def _service(alert: Alert, services: Mapping[str, Service]) -> str:
    """The service that an alert names, or that the labels of its series select."""
    if alert.service:
        return alert.service
    of = [n for n, s in services.items() if s.labels.items() <= alert.labels.items()]
    return of[0] if len(of) == 1 else ""


def _procedure(name: str, service: Service | None) -> str:
    """What the name of an alert suggests for a service of the inventory."""
    if service is None:
        return ""
    if _DOWN.search(name):
        return "remediate-outage"
    if _SLOW.search(name) and service.engine == "vllm" and objectives(service.slo):
        return "remediate-latency"
    return ""


def _utc(when: datetime) -> str:
    return f"{when.astimezone(tz=UTC):%Y-%m-%d %H:%M} UTC"
