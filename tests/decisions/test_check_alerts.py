"""Firing alerts as lines of the report."""

from datetime import UTC, datetime
from typing import Any

import pytest

from blocks.alert import Alert, Rules
from blocks.service import Service
from flows.decisions.check_alerts import judge_alerts
from flows.decisions.finding import Finding


def service(port: int, **more: Any) -> Service:
    values = {"url": f"http://motoko:{port}", "runtime": {"kind": "docker", "container": "c"}}
    return Service.model_validate({**values, **more})


SERVICES = {
    "wintermute": service(8000, slo={"p95_latency_s": 5}),
    "loose": service(8001),
    "proxy": service(4000, engine="litellm", slo={"p95_latency_s": 5}),
}


def alert(name: str, severity: str = "warning", of: str = "", **more: Any) -> Alert:
    return Alert(name=name, severity=severity, service=of, **more)


def only(alerts: Any) -> Finding:
    (found,) = judge_alerts(alerts, SERVICES)
    return found


@pytest.mark.parametrize(
    ("severity", "status"),
    [("critical", "fail"), ("page", "fail"), ("p0", "fail"), ("p1", "fail"), ("warning", "warn"),
     ("info", "warn"), ("none", "warn"), ("", "warn"), ("p3", "warn")],
)  # fmt: skip
def test_severity_decides(severity: str, status: str) -> None:
    assert only([alert("GPUMemoryHigh", severity)]).status == status


def test_none_firing_is_ok_and_not_knowing_is_not() -> None:
    assert (only([]).status, only([]).value) == ("ok", "none firing")
    found = only("http://motoko:9093: connection refused")
    assert (found.status, found.evidence[-18:]) == ("unknown", "connection refused")


@pytest.mark.parametrize(
    ("rules", "status", "words"),
    [
        (Rules(loaded=3), "ok", "3 alerting rules are evaluated"),
        (Rules(loaded=0), "unknown", "no alerting rules are loaded"),
        (Rules(loaded=1, broken=("Odd: x",)), "unknown", "no rule can be evaluated"),
        ("http://motoko:9090: connection refused", "unknown", "9090: connection refused"),
        (None, "ok", ""),
    ],
)
def test_none_firing_is_ok_only_where_one_could(
    rules: Rules | str | None, status: str, words: str
) -> None:
    found = judge_alerts([], SERVICES, rules=rules)[0]
    assert found.status == status and words in found.evidence
    assert bool(found.value) == (status == "ok")
    beat = judge_alerts([alert("Watchdog", "none")], SERVICES, rules=rules)[0]
    assert beat.status == "ok", "it came all the way: alerting works"
    fired = judge_alerts([alert("Disk")], SERVICES, rules=rules)[0]
    assert fired.check == "alert Disk"


def test_a_rule_that_cannot_be_evaluated_watches_nothing() -> None:
    rules = Rules(loaded=3, broken=("Odd: many-to-many",))
    found = judge_alerts([], SERVICES, rules=rules)
    assert [(f.check, f.status) for f in found] == [("alerts", "ok"), ("alert rules", "unknown")]
    assert found[1].value == "1 of 3 cannot be evaluated" and "many-to-many" in found[1].evidence


def test_an_alert_that_always_fires_is_none() -> None:
    beat = alert("Watchdog", "none")
    assert only([beat]).status == "ok" and "Watchdog fires" in only([beat]).evidence
    assert only([beat, alert("Disk")]).check == "alert Disk"
    assert only([alert("Watchdog", "critical")]).status == "fail"


def test_one_line_for_each_name_and_service_the_worst_first() -> None:
    at = datetime(2026, 11, 21, 4, tzinfo=UTC)
    found = judge_alerts(
        [
            alert("Full", of="loose"),
            alert("Full", of="wintermute", since=at, summary="it is full"),
            alert("Full", "critical", of="wintermute", since=at.replace(hour=5), summary="later"),
            alert("Full", of="elsewhere"),
        ],
        SERVICES,
    )
    assert [(f.subject, f.status) for f in found] == [
        ("wintermute", "fail"), ("alertmanager", "warn"), ("loose", "warn")
    ]  # fmt: skip
    assert found[0].value == "2 firing, critical/warning"
    assert found[0].evidence == "it is full; since 2026-11-21 04:00 UTC"
    assert "elsewhere, which is not in the inventory" in found[1].evidence


def test_a_service_is_found_by_the_labels_of_its_series() -> None:
    labels = {"alertname": "ExpertDown", "instance": "motoko:8001", "job": "vllm"}
    found = only([alert("ExpertDown", labels=labels)])
    assert (found.subject, found.suggests) == ("loose", "remediate-outage")


@pytest.mark.parametrize(
    ("name", "of", "procedure"),
    [
        ("VllmDown", "wintermute", "remediate-outage"),
        ("ExpertDown", "proxy", "remediate-outage"),
        ("service_down", "loose", "remediate-outage"),
        ("HighErrorRate", "wintermute", "remediate-outage"),
        ("HighLatency", "wintermute", "remediate-latency"),
        ("QueueBacklog", "wintermute", "remediate-latency"),
        ("HighLatency", "loose", ""),  # without an objective the procedure has no aim
        ("HighLatency", "proxy", ""),
        ("VllmDown", "elsewhere", ""),
        ("ModelDownload", "wintermute", ""),
        ("GPUMemoryHigh", "wintermute", ""),
    ],
)
def test_only_an_obvious_name_suggests_a_procedure(name: str, of: str, procedure: str) -> None:
    assert only([alert(name, of=of)]).suggests == procedure
