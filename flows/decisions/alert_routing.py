"""Which alert starts what, and how much at once. Pure: the clock is an argument."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from blocks.alert_routes import REGEX, AlertRoute, AlertsSpec, Severity, Storm
from blocks.models import Frozen
from blocks.regex_cost import MATCHED

Labels = Mapping[str, str]
Why = Literal["unmatched", "unknown-service", "unknown-procedure", "told-only"]

SEVERITIES: dict[str, Severity] = {
    "critical": "P0",
    "page": "P0",
    "error": "P1",
    "high": "P1",
    "warning": "P2",
}
"""Words of the severity label; any other is P3."""


class Routed(Frozen):
    """An alert that starts a procedure."""

    route: AlertRoute
    procedure: str
    service: str
    severity: Severity


class Unrouted(Frozen):
    """An alert that starts nothing; people are told."""

    why: Why
    reason: str
    """For people: what is missing, and where it is written."""
    service: str
    """Of the stack; empty when it is not known."""
    severity: Severity


class Start(Frozen):
    """A run that an alert started."""

    service: str
    at: float
    """Seconds since the epoch."""


def severity_of(labels: Labels, route: AlertRoute | None = None) -> Severity:
    """The route's, else from the severity label, else P3."""
    if route and route.severity:
        return route.severity
    return SEVERITIES.get(labels.get("severity", "").lower(), "P3")


def matches(route: AlertRoute, labels: Labels) -> bool:
    """Whether every matcher holds; a missing label is an empty one, as in Alertmanager.

    A regular expression sees the first 256 characters: its time is bounded for these.
    """
    return all(_holds(wanted, labels.get(label, "")) for label, wanted in route.match.items())


def _holds(wanted: str, value: str) -> bool:
    if wanted.startswith(REGEX):
        return re.fullmatch(wanted.removeprefix(REGEX), value[:MATCHED]) is not None
    return wanted == value


def route(
    labels: Labels, alerts: AlertsSpec, services: Collection[str], procedures: Collection[str]
) -> Routed | Unrouted:
    """What an alert starts: the first route that matches decides.

    Args:
        labels: of the alert.
        alerts: the routes, and the label that names the service.
        services: of the stack.
        procedures: that exist.
    """
    found = next((r for r in alerts.routes if matches(r, labels)), None)
    named = (found.service if found else "") or labels.get(alerts.service_label, "")
    known = named if named in services else ""
    severity = severity_of(labels, found)

    def unrouted(why: Why, reason: str) -> Unrouted:
        return Unrouted(why=why, reason=reason, service=known, severity=severity)

    if found is None:
        return unrouted("unmatched", "no route of the stack matches its labels; add one to alerts")
    if not named:
        said = f"it has no label {alerts.service_label!r}; name the service in its route"
        return unrouted("unknown-service", said)
    if not known:
        said = f"service {named[:60]!r} is not in the stack; known: {', '.join(services)}"
        return unrouted("unknown-service", said)
    if not found.procedure:
        return unrouted("told-only", "its route names no procedure")
    if found.procedure not in procedures:
        said = f"its route names {found.procedure[:60]!r}, and there is no such procedure"
        return unrouted("unknown-procedure", said)
    return Routed(route=found, procedure=found.procedure, service=known, severity=severity)


def admits(history: Sequence[Start], now: float, storm: Storm, service: str) -> str:
    """Whether one more run may start: empty, or the words of the refusal.

    In no window of `storm.window_s` seconds are there more starts than the bounds allow. A start
    that lies in the future (a clock was set back) counts.
    """
    recent = [s for s in history if s.at > now - storm.window_s]
    mine = sum(s.service == service for s in recent)
    if mine >= storm.per_service:
        return (
            f"{mine} runs on {service} within {storm.window_s} s, and alerts may start "
            f"{storm.per_service} (alerts.storm.per_service)"
        )
    if len(recent) >= storm.total:
        return (
            f"{len(recent)} runs on the platform within {storm.window_s} s, and alerts may start "
            f"{storm.total} (alerts.storm.total)"
        )
    return ""
