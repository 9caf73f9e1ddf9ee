"""A Prometheus server: instant queries, where "no series" and NaN are never a number."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from blocks.alert import Alert, Rules, alert_of
from blocks.errors import Permanent, RunbookError, Transient
from blocks.http_client import Answer, Unreachable, check_status, client_to, fetch
from blocks.metric_values import Sample
from blocks.models import Frozen
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl

__all__ = [
    "PrometheusServer",
    "PrometheusSpec",
    "Sample",
    "active",
    "query",
    "query_many",
    "rules",
]

log = logging.getLogger(__name__)
AT_ONCE = 8
"""Queries to one server; its own default bound is 20, which dashboards share."""
_PREFIX = ": has its url the route prefix?"


class PrometheusSpec(Frozen):
    """Where a Prometheus answers."""

    url: HttpUrl = Field(description="base URL, e.g. http://motoko:9090, with its route prefix")
    token: SecretRef | None = Field(default=None, description="reference to a bearer token")
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    timeout_s: float = Field(default=10, gt=0, le=120, description="of one query, seconds")
    window: str = Field(
        default="5m", pattern=r"^[1-9]\d*[smhd]$", description="range that rates are taken over"
    )


class PrometheusServer(PrometheusSpec, Block):
    """The Prometheus that scrapes a platform."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Prometheus server"
    _block_type_slug = "prometheus-server"
    _description = "Where metrics are asked for. The token is a reference to a secret."


async def query(spec: PrometheusSpec, promql: str) -> tuple[Sample, ...]:
    """The series of an instant query, now. An empty tuple is "no such series", never zero.

    NaN and infinities are kept. A scalar is one sample without labels. Source: Prometheus HTTP
    API v1, `/api/v1/query`.

    Raises:
        Transient: no answer in time, 429, 5xx, or nothing but a warning.
        Permanent: a bad query, no access, a result that is no vector, no Prometheus there.
    """
    async with client_to(spec.url, spec.token, tls_verify=spec.tls_verify) as client:
        return await _query(client, spec, promql, spec.timeout_s)


async def query_many(
    spec: PrometheusSpec, queries: Mapping[str, str]
) -> dict[str, tuple[Sample, ...] | str]:
    """Several instant queries over shared connections, eight at once; never a RunbookError.

    All of it takes twice `timeout_s` at most, and a server that nobody speaks for is asked once.

    Args:
        spec: the server.
        queries: name -> PromQL.

    Returns:
        name -> the series, or why there are none, in an operator's words.
    """
    until = time.monotonic() + 2 * spec.timeout_s
    places = asyncio.Semaphore(AT_ONCE)
    dead: list[str] = []

    async def one(client: httpx.AsyncClient, promql: str) -> tuple[Sample, ...] | str:
        async with places:
            if dead:
                return dead[0]
            left = min(spec.timeout_s, until - time.monotonic())
            if left <= 0:
                return f"{spec.url}: no answer within {2 * spec.timeout_s:g} s for all queries"
            try:
                return await _query(client, spec, promql, left)
            except Unreachable as e:
                dead.append(str(e))
                return str(e)
            except RunbookError as e:
                return str(e)

    try:
        async with client_to(
            spec.url, spec.token, tls_verify=spec.tls_verify, at_once=AT_ONCE
        ) as client:
            answers = await asyncio.gather(*(one(client, promql) for promql in queries.values()))
    except RunbookError as e:
        return dict.fromkeys(queries, str(e))
    return dict(zip(queries, answers, strict=True))


async def active(spec: PrometheusSpec, service_label: str = "service") -> tuple[Alert, ...]:
    """The alerts that fire by Prometheus' own rules; a silence is Alertmanager's to know.

    Pending ones are left out. Source: Prometheus HTTP API v1, `/api/v1/alerts`.

    Args:
        spec: the server.
        service_label: the label of an alert that names a service.

    Raises:
        Transient: no answer in time, 429, 5xx.
        Permanent: no access, or no Prometheus there.
    """
    async with client_to(spec.url, spec.token, tls_verify=spec.tls_verify) as client:
        data = _data(await fetch(client, "/api/v1/alerts", spec.timeout_s), f"{spec.url} (alerts)")
    items = data.get("alerts")
    if not isinstance(items, list):
        raise Permanent(f"{spec.url} (alerts) answers no list of alerts; is it a Prometheus?")
    firing = [i for i in items if isinstance(i, dict) and i.get("state") == "firing"]
    found = [
        alert_of(i.get("labels"), i.get("annotations"), i.get("activeAt"), service_label)
        for i in firing
    ]
    return tuple(alert for alert in found if alert)


async def rules(spec: PrometheusSpec) -> Rules:
    """The alerting rules it has loaded: without any, that no alert fires says nothing.

    Source: Prometheus HTTP API v1, `/api/v1/rules?type=alert`.

    Raises:
        Transient: no answer in time, 429, 5xx.
        Permanent: no access, or no Prometheus there.
    """
    async with client_to(spec.url, spec.token, tls_verify=spec.tls_verify) as client:
        answer = await fetch(client, "/api/v1/rules", spec.timeout_s, {"type": "alert"})
    groups = _data(answer, f"{spec.url} (rules)").get("groups")
    if not isinstance(groups, list):
        raise Permanent(f"{spec.url} (rules) answers no list of groups; is it a Prometheus?")
    lists = [group.get("rules") for group in groups if isinstance(group, dict)]
    found = [rule for many in lists if isinstance(many, list) for rule in many]
    # An old server does not know `type` and tells of recording rules too.
    alerting = [r for r in found if isinstance(r, dict) and r.get("type") == "alerting"]
    broken = [r for r in alerting if r.get("health") == "err"]
    said = (" ".join(f"{r.get('name')}: {r.get('lastError', '')}".split()) for r in broken)
    return Rules(loaded=len(alerting), broken=tuple(sorted(text[:200] for text in said)))


async def _query(
    client: httpx.AsyncClient, spec: PrometheusSpec, promql: str, timeout_s: float
) -> tuple[Sample, ...]:
    # The server gives up when nobody waits any more.
    params = {"query": promql, "timeout": f"{max(1, round(timeout_s * 1000))}ms"}
    answer = await fetch(client, "/api/v1/query", timeout_s, params)
    return _samples(_data(answer, spec.url), spec.url)


def _data(answer: Answer, where: str) -> dict[str, Any]:
    """The `data` of an answer of status success.

    Raises:
        Transient, Permanent: it has none.
    """
    body = answer.json_body()
    said = body if isinstance(body, dict) else {}
    if said.get("status") == "error":
        kind, text = str(said.get("errorType", ""))[:40], " ".join(str(said.get("error")).split())
        problem = f"{where}: {kind}: {text[:200]}"
        # `execution` may be a query that asks for too much, or one that cannot be computed.
        if kind in ("timeout", "canceled", "unavailable", "internal", "too_many_requests"):
            raise Transient(problem, retry_after_s=answer.retry_after_s)
        if kind in ("bad_data", "execution", "not_found"):
            raise Permanent(problem)
    check_status(answer, where, secret="token", prefix=_PREFIX)  # noqa: S106 - a field's name
    data = said.get("data")
    if said.get("status") != "success" or not isinstance(data, dict):
        raise Permanent(
            f"{where} answers 200 without Prometheus' JSON; is a login page before it, or does "
            "its url lack the route prefix?"
        )
    if warnings := said.get("warnings"):
        words = " ".join(str(warnings).split())[:200]
        if not data.get("result") and "result" in data:
            raise Transient(f"{where} answers no series and a warning: {words}")
        log.warning("%s answered with a warning, its result may be partial: %s", where, words)
    return data


def _samples(data: dict[str, Any], where: str) -> tuple[Sample, ...]:
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar":
        return (Sample(labels={}, value=_value(result, where)),)
    if kind != "vector" or not isinstance(result, list):
        raise Permanent(f"{where} answers a {str(kind)[:20]}; write a query for an instant vector")
    found = []
    for item in result:
        if not isinstance(item, dict) or not isinstance(item.get("metric"), dict):
            raise Permanent(f"{where} answers a vector that is none; is it a Prometheus?")
        if "value" not in item:
            raise Permanent(f"{where} answers a native histogram; ask for its quantile")
        labels = {str(k): str(v) for k, v in item["metric"].items()}
        found.append(Sample(labels=labels, value=_value(item["value"], where)))
    return tuple(found)


def _value(pair: Any, where: str) -> float:
    try:
        _, text = pair
        return float(text)  # it reads NaN, +Inf and -Inf as Prometheus writes them
    except (TypeError, ValueError):
        raise Permanent(f"{where} answers a value that is no number; is it a Prometheus?") from None
