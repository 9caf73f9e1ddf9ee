"""A firing alert, whoever told of it, and the rules that make them. No I/O here."""

from datetime import datetime
from typing import Any

from blocks.models import Frozen

_LONGEST = 500


class Alert(Frozen):
    """One alert that fires now."""

    name: str
    """Its `alertname`."""
    severity: str = ""
    """As its rule says it, in lower case; empty when it says none."""
    labels: dict[str, str] = {}
    summary: str = ""
    """The annotation `summary`, else `description` or `message`, on one line."""
    since: datetime | None = None
    """Aware; None when the server's word for it is no time."""
    fingerprint: str = ""
    service: str = ""
    """What the service label holds; empty without one."""
    url: str = ""
    """Where its expression can be seen."""


class Rules(Frozen):
    """The alerting rules that a Prometheus has loaded."""

    loaded: int
    broken: tuple[str, ...] = ()
    """`NAME: error` of those it cannot evaluate: they never fire."""


def alert_of(
    labels: Any, annotations: Any, since: Any, service_label: str, **more: str
) -> Alert | None:
    """An alert out of an answer's parts; None when they are no alert's."""
    tags, notes = _strings(labels), _strings(annotations)
    if not tags:
        return None
    said = next((notes[k] for k in ("summary", "description", "message") if notes.get(k)), "")
    return Alert(
        name=tags.get("alertname") or "(unnamed)",
        severity=tags.get("severity", "").strip().lower(),
        labels=tags,
        summary=" ".join(said.split())[:_LONGEST],
        since=_time(since),
        service=tags.get(service_label, ""),
        **{name: value[:_LONGEST] for name, value in more.items()},
    )


def _strings(values: Any) -> dict[str, str]:
    if not isinstance(values, dict):
        return {}
    return {str(k): v[:_LONGEST] for k, v in values.items() if isinstance(v, str)}


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else None
