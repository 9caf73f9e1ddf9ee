"""An Alertmanager: which alerts are firing now, neither silenced nor inhibited."""

from typing import Any

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from blocks.alert import Alert, alert_of
from blocks.errors import Permanent
from blocks.http_client import check_status, client_to, fetch
from blocks.models import Frozen
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl

__all__ = ["Alert", "AlertmanagerServer", "AlertmanagerSpec", "firing"]

_ASKED = {"active": "true", "silenced": "false", "inhibited": "false"}


class AlertmanagerSpec(Frozen):
    """Where an Alertmanager answers."""

    url: HttpUrl = Field(description="base URL, e.g. http://motoko:9093, with its route prefix")
    token: SecretRef | None = Field(default=None, description="reference to a bearer token")
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    timeout_s: float = Field(default=10, gt=0, le=120, description="of one request, seconds")
    service_label: str = Field(
        default="service", description="label of an alert that names the service of this stack"
    )


class AlertmanagerServer(AlertmanagerSpec, Block):
    """The Alertmanager of a platform."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Alertmanager"
    _block_type_slug = "alertmanager-server"
    _description = "Where firing alerts are asked for. The token is a reference to a secret."


async def firing(spec: AlertmanagerSpec) -> tuple[Alert, ...]:
    """The alerts that fire now, silenced and inhibited ones left out, the oldest first.

    An empty tuple is the server's word that none does. Source: Alertmanager API v2,
    `GET /api/v2/alerts`.

    Raises:
        Transient: no answer in time, 429, 5xx.
        Permanent: no access, or no Alertmanager there.
    """
    async with client_to(spec.url, spec.token, tls_verify=spec.tls_verify) as client:
        answer = await fetch(client, "/api/v2/alerts", spec.timeout_s, _ASKED)
    check_status(
        answer,
        spec.url,
        secret="token",  # noqa: S106 - a field's name
        prefix=": has its url the route prefix, and is it Alertmanager 0.16 or newer?",
    )
    items = answer.json_body()
    if not isinstance(items, list):
        raise Permanent(
            f"{spec.url} answers 200 and no list of alerts; is a login page before it, or does "
            "its url lack the route prefix?"
        )
    found = [alert for item in items if (alert := _alert(item, spec.service_label))]
    if items and not found and not any(_quiet(item) for item in items):
        raise Permanent(f"{spec.url} answers a list that holds no alerts; is it an Alertmanager?")
    return tuple(sorted(found, key=lambda a: (a.since is None, a.since and a.since.timestamp())))


def _alert(item: Any, service_label: str) -> Alert | None:
    if not isinstance(item, dict) or _quiet(item):
        return None
    return alert_of(
        item.get("labels"),
        item.get("annotations"),
        item.get("startsAt"),
        service_label,
        fingerprint=str(item.get("fingerprint", "")),
        url=str(item.get("generatorURL", "")),
    )


def _quiet(item: Any) -> bool:
    """Suppressed after all: an old Alertmanager may not know the parameters."""
    status = item.get("status") if isinstance(item, dict) else None
    return isinstance(status, dict) and status.get("state") == "suppressed"
