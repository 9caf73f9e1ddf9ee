"""Alertmanager's webhook, version 4, as far as the gateway reads it; and what it keeps of it."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from blocks.models import Frozen

MAX_ALERTS = 2000
"""Of one notification: what 1 MiB holds."""
KEPT_LABELS, KEPT_LABEL, KEPT_VALUE, KEPT_TEXT = 60, 100, 500, 300
"""What is kept of an alert: labels (count), and characters of a name, a value and a text."""


def plain(text: str, most: int = KEPT_TEXT) -> str:
    """One line without control characters, cut."""
    return re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+", " ", text)[:most]


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except (OverflowError, ValueError) as e:
        raise ValueError("is outside the years 1 to 9999 in UTC; send RFC 3339") from e


class _Wire(BaseModel):
    # Newer Alertmanagers add fields: those are nobody's fault.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class WireAlert(_Wire):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    startsAt: Annotated[AwareDatetime, AfterValidator(_utc)]  # noqa: N815 - theirs
    generatorURL: str = ""  # noqa: N815
    fingerprint: str = Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")


class Notification(_Wire):
    """The body that Alertmanager posts."""

    version: Literal["4"]
    alerts: tuple[WireAlert, ...] = Field(max_length=MAX_ALERTS)
    truncatedAlerts: int = Field(default=0, ge=0)  # noqa: N815


class Received(Frozen):
    """One alert, as it is kept."""

    key: str
    """SHA-256 (hex) of stack, fingerprint and start: the same alert has the same one."""
    kind: Literal["firing", "resolved"]
    stack: str
    fingerprint: str
    starts_at: str
    """ISO 8601, UTC."""
    name: str
    summary: str
    url: str
    labels: dict[str, str]


def received(stack: str, alert: WireAlert) -> Received:
    """What is kept of an alert that came for a stack."""
    starts = alert.startsAt.isoformat()
    labels = list(alert.labels.items())[:KEPT_LABELS]
    name = plain(alert.labels.get("alertname", "")) or "unnamed alert"
    words = alert.annotations.get("summary") or alert.annotations.get("description") or ""
    return Received(
        key=hashlib.sha256("\0".join((stack, alert.fingerprint, starts)).encode()).hexdigest(),
        kind=alert.status,
        stack=stack,
        fingerprint=alert.fingerprint,
        starts_at=starts,
        name=name,
        summary=plain(words) or name,
        url=plain(alert.generatorURL, 500),
        labels={plain(k, KEPT_LABEL): plain(v, KEPT_VALUE) for k, v in labels},
    )
