"""What an alert of the inbox opens, and what its run is given. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from blocks.incidents import Opened
from deployments.gateway.alert_models import plain
from deployments.gateway.inbox_rows import Row

ACTOR = "alertmanager"
LONGEST = 4900
"""Characters of an incident as JSON: Prefect refuses a Variable of more than 5,000."""


def key_of(row: Row) -> str:
    """The idempotency key of its run: one for each time that it is started."""
    return f"alert:{row.incident}" + (f":{row.tries}" if row.tries > 1 else "")


def together(what: str, row: Row) -> str:
    """The key of one message an hour for all alerts of a stack to which the same happened."""
    return f"{what}-{row.stack}-{int(row.received_at // 3600)}"


def opened(row: Row) -> Opened:
    """The incident that an alert opens; long texts are cut until Prefect takes it."""
    texts = {"title": plain(row.summary), "name": row.name, "summary": row.summary, "url": row.url}
    # In JSON an emoji is twelve characters: what counts is measured, not guessed.
    while len(json.dumps((fact := _opened(row, texts)).model_dump(mode="json"))) > LONGEST:
        longest = max(texts, key=lambda k: len(json.dumps(texts[k])))
        texts[longest] = texts[longest][: len(texts[longest]) * 3 // 4]
        if not texts[longest]:
            break
    return fact


def _opened(row: Row, texts: dict[str, str]) -> Opened:
    return Opened(
        id=row.incident,
        stack=row.stack,
        service=row.service,
        severity=row.severity,
        title=texts["title"],
        source="alert",
        at=datetime.fromtimestamp(row.received_at, UTC),
        alert={
            "name": texts["name"],
            "fingerprint": row.fingerprint,
            "starts_at": row.starts_at,
            "summary": texts["summary"],
            "url": texts["url"],
        },
    )


def parameters(row: Row) -> dict[str, Any]:
    """Of the run that an alert starts: the route's, and ours, which win."""
    options = {
        **row.parameters.get("options", {}),
        "actor": ACTOR,
        "source": "alert",
        "incident": row.member,
    }
    return {**row.parameters, "stack": row.stack, "service": row.service, "options": options}


def tags(row: Row) -> list[str]:
    """What an operator finds the run by."""
    return [
        f"incident:{row.member}",
        f"stack:{row.stack}",
        f"service:{row.service}",
        f"procedure:{row.procedure}",
        "source:alert",
        f"actor:{ACTOR}",
    ]
