"""PagerDuty, outgoing events only: trigger, acknowledge and resolve one alert per incident.

Source: PagerDuty Events API v2 (POST /v2/enqueue: 202 accepted, 400 invalid event, 429 too many).
It cannot be asked: an acknowledgement made in PagerDuty does not come back this way.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal

import httpx

from blocks.alert_routes import Severity
from blocks.errors import Permanent, Transient
from blocks.escalation import PagerDutySpec
from blocks.http_words import why
from blocks.models import Frozen
from blocks.secret_ref import resolve

SUMMARY_LIMIT = 1024
"""Characters (PD-CEF `summary`)."""

BODY_LIMIT = 64 * 1024
LEVELS: dict[Severity, str] = {"P0": "critical", "P1": "error", "P2": "warning", "P3": "info"}

Action = Literal["trigger", "acknowledge", "resolve"]


class Page(Frozen):
    """What an alert says."""

    incident: str
    """Its id: the deduplication key, so that two triggers are one alert."""
    summary: str
    source: str
    """What is affected: `stack/service`."""
    severity: Severity
    details: dict[str, str] = {}
    link: str = ""


async def send(spec: PagerDutySpec, action: Action, page: Page, role: str = "") -> None:
    """Send one event; it may be repeated, for the incident is its deduplication key.

    Args:
        spec: address and keys.
        action: what happened.
        page: what the alert says.
        role: whose PagerDuty service it goes to, where the role has one of its own.

    Raises:
        Transient: no answer, 429 (`retry_after_s`), 5xx, or a 2xx that is not PagerDuty's.
        Permanent: the key or the event is refused, or the key is missing.
    """
    key = (await resolve(spec.by_role.get(role, spec.routing_key))).get_secret_value()
    try:
        async with (
            asyncio.timeout(spec.timeout_s),
            httpx.AsyncClient(
                timeout=spec.timeout_s,
                follow_redirects=False,
                # A worker behind a proxy must reach PagerDuty; a plain address is a test's.
                trust_env=spec.url.startswith("https:"),
            ) as client,
        ):
            answer = await client.post(spec.url, json=_event(key, action, page))
    except (TimeoutError, httpx.TimeoutException):
        raise Transient(f"PagerDuty: no answer within {spec.timeout_s:g} s") from None
    except httpx.LocalProtocolError:
        raise Permanent("PagerDuty: the event cannot be sent; check url") from None
    except httpx.HTTPError as e:
        raise Transient(f"PagerDuty does not answer: {why(e)}") from None
    _check(answer, action, key)


def _event(key: str, action: Action, page: Page) -> dict[str, Any]:
    event: dict[str, Any] = {
        "routing_key": key,
        "event_action": action,
        "dedup_key": page.incident,
    }
    if action == "trigger":
        event["payload"] = {
            "summary": _bounded(page.summary),
            "source": page.source,
            "severity": LEVELS[page.severity],
            "timestamp": datetime.now(UTC).isoformat(),
            "component": page.source.rpartition("/")[2],
            "custom_details": page.details,
        }
        event["client"] = "llm-runbooks"
        if page.link:
            event["links"] = [{"href": page.link, "text": "Open in Prefect"}]
    return event


def _bounded(text: str) -> str:
    return text if len(text) <= SUMMARY_LIMIT else text[: SUMMARY_LIMIT - 1] + "…"


def _check(answer: httpx.Response, action: Action, key: str) -> None:
    status, said = answer.status_code, _said(answer)
    where = f"PagerDuty answered {status} to {action}"
    if status == 202 and said.get("status") == "success":
        return
    if status == 429 or status >= 500 or 200 <= status < 300:
        odd = ", and not as PagerDuty does: is url right?" if status < 300 else ""
        waits = answer.headers.get("Retry-After", "")
        good = waits.isascii() and waits.isdigit() and len(waits) < 6
        raise Transient(f"{where}{odd}", retry_after_s=float(waits) if good else None)
    errors = said.get("errors")
    words = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
    words = "".join(c for c in words if c.isprintable()).replace(key, "***")[:200]
    raise Permanent(f"{where}{f' ({words})' if words else ''}; check routing_key and url")


def _said(answer: httpx.Response) -> dict[str, Any]:
    if len(answer.content) > BODY_LIMIT:
        return {}
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
