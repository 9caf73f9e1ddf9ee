"""What people read of alerts that started nothing. Pure."""

from typing import Any

from blocks.incidents import Incident
from blocks.slack_blocks import context, header, message, section
from deployments.gateway.inbox_rows import Outcome, Row
from flows.slack_view import CardView, card

Message = tuple[list[dict[str, Any]], str]
"""Blocks, and the text of a notification."""

HEADS: dict[Outcome, str] = {
    "dropped": "alert storm: {count} alert(s) started nothing",
    "unrouted": "{count} alert(s) that no procedure answers",
    "too-old": "{count} alert(s) came too late to be acted on",
    "failed": "{count} alert(s) could not be worked",
}
TODO: dict[Outcome, str] = {
    "dropped": "Look at the platform yourself: the runs that were started may not be enough.",
    "unrouted": "Look at them yourself; give them a route in the stack's alerts.routes.",
    "too-old": "Look at them yourself; those that still fire are sent again and acted on then.",
    "failed": "Look at them yourself, and at the gateway's log.",
}


def summary_of(stack: str, rows: list[Row], count: int) -> Message:
    """One message for many alerts: the first ones by name, and how many there are."""
    outcome: Outcome = next((r.outcome for r in rows if r.outcome in HEADS), "failed")
    title = f"{stack}: {HEADS[outcome].format(count=count)}"
    lines = [f"• {r.name}, {r.service or 'no service'}: {r.reason}" for r in rows]
    if count > len(rows):
        lines.append(f"… and {count - len(rows)} more")
    blocks = [header(title), section("\n".join(lines)), context(TODO[outcome])]
    return message(blocks), title


def words_of(row: Row) -> Message:
    """What is said beneath a card."""
    if row.outcome in ("started", "joined"):  # its run is over, and it fires: that is the reason
        text = row.reason
    else:
        what = "resolved" if row.outcome == "resolved" else f"{row.outcome or 'failed'}: {row.name}"
        text = f"{what}: {row.reason}"
    return message([section(text)]), text


def card_of(incident: Incident, rows: list[Row]) -> Message:
    """The card of an incident for which no run speaks."""
    opened, over = incident.opened, incident.ended is not None
    said = [r for r in rows if (r.outcome == "resolved") == over] or rows
    return card(
        CardView(
            key=opened.id,
            stack=opened.stack,
            service=opened.service,
            title=opened.title,
            severity=opened.severity,
            incident=opened.id,
            open=not over,
            acknowledged_by=incident.acknowledged.by if incident.acknowledged else "",
            status=said[-1].reason if over else f"nothing was started: {said[-1].reason}",
            notes=tuple(f"{r.name}: {r.reason}" for r in said[:-1]),
            next_step="" if over else "look at the service yourself",
        )
    )
