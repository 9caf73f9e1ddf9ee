"""The checklist of an incident: which of its boxes may be ticked. Pure."""

from collections.abc import Mapping
from datetime import datetime

from blocks.escalation import ChecklistItem, SeveritySpec, Tick
from blocks.models import Frozen


class Seen(Frozen):
    """What was seen done."""

    at: datetime
    how: str = ""
    """By whom, by which run; empty where there is nothing to add."""


class Box(Frozen):
    """One line of the list."""

    text: str
    seen: Seen | None = None
    persons: bool = False
    """Only a person knows whether it was done."""

    @property
    def line(self) -> str:
        """`[x] Acknowledge alert (ada, 10:42)`; a person's box stays open."""
        if self.seen is None:
            return f"[ ] {self.text}{' (yours to do)' if self.persons else ''}"
        how = f"{self.seen.how}, " if self.seen.how else ""
        return f"[x] {self.text} ({how}{self.seen.at:%H:%M} UTC)"


def items_of(row: SeveritySpec) -> tuple[ChecklistItem, ...]:
    """The severity's own list, or one with everything that can be ticked."""
    if row.checklist:
        return row.checklist
    watched = f"Watched for {row.watch_min:g} minutes"
    texts: dict[Tick, str] = {
        "told": "Somebody was told",
        "acknowledged": "Acknowledged",
        "diagnosed": "Diagnosed",
        "fixed": "Fixed or rolled back",
        **({"watched": watched} if row.watch_min else {}),
        "resolved": "Resolved",
        "drafted": "Incident report drafted",
    }
    return tuple(ChecklistItem(text=text, ticked=tick) for tick, text in texts.items())


def boxes(row: SeveritySpec, seen: Mapping[Tick, Seen]) -> tuple[Box, ...]:
    """The list with what was seen; what was not seen is never ticked."""
    return tuple(
        Box(
            text=item.text,
            seen=seen.get(item.ticked) if item.ticked else None,
            persons=item.ticked is None,
        )
        for item in items_of(row)
    )
