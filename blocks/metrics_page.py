"""A server's own `/metrics`, asked for directly: for stacks without a Prometheus."""

import asyncio
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from blocks.errors import Permanent, RunbookError
from blocks.http_client import MAX_BODY_BYTES, check_status, client_to, fetch
from blocks.metric_values import MetricsPage, Sample
from blocks.service import Service

__all__ = ["MetricsPage", "parse", "scrape"]

_IN_A_THREAD = 256 * 1024
"""From here on parsing takes long enough (25 ms) to be felt by everything else on the loop."""


async def scrape(service: Service, *, timeout_s: float = 5.0) -> MetricsPage:
    """GET `{url}/metrics` with the service's key; never a RunbookError: `problem` says why not.

    Args:
        service: the server.
        timeout_s: of the whole page, seconds; 8 MiB at most.
    """
    at = datetime.now(UTC)
    try:
        async with client_to(
            service.url, service.api_key, tls_verify=service.tls_verify, at_once=1
        ) as client:
            answer = await fetch(client, "/metrics", timeout_s, max_bytes=MAX_BODY_BYTES)
        check_status(answer, f"{service.url}/metrics", secret="api_key")  # noqa: S106 - a field
        if len(answer.body) > _IN_A_THREAD:
            return await asyncio.to_thread(parse, answer.body, at)
        return parse(answer.body, at)
    except RunbookError as e:
        return MetricsPage(at=at, problem=str(e))


def parse(body: bytes, at: datetime) -> MetricsPage:
    """A page in Prometheus' text format; one broken line makes the whole page a problem.

    Half a page would be a lower sum than the truth.

    Args:
        body: as it came.
        at: when it was asked for (aware).
    """
    found: dict[str, list[Sample]] = {}
    try:
        text = body.decode("utf-8")
        if text and not text.endswith("\n"):
            raise Permanent("it ends in the middle of a line")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = found.setdefault(sample.name, [])
                series.append(Sample(labels=sample.labels, value=float(sample.value)))
    except (Permanent, ValueError, KeyError, IndexError, TypeError) as e:
        why = " ".join(str(e).split())[:100]
        return MetricsPage(at=at, problem=f"/metrics is not in Prometheus' text format: {why}")
    if not found:
        return MetricsPage(at=at, problem="/metrics is empty")
    return MetricsPage(at=at, samples={name: tuple(series) for name, series in found.items()})
