"""Frozen readings of ended runs, for the audit trail. No I/O here."""

from datetime import datetime
from typing import Any

from blocks.models import Frozen


class StateChange(Frozen):
    """One state of a run, in the order it went through them."""

    id: str
    type: str
    name: str
    at: datetime
    message: str = ""


class Data(Frozen):
    """One data artifact of a run: what its procedure reported."""

    id: str
    key: str
    data: Any = None


class EndedRun(Frozen):
    """A run of a procedure that has ended, with all that Prefect keeps of it."""

    id: str
    name: str
    procedure: str
    tags: tuple[str, ...]
    parameters: dict[str, Any]
    created: datetime | None
    started: datetime | None
    ended: datetime
    states: tuple[StateChange, ...]
    """At least the last one."""
    data: tuple[Data, ...] = ()
    """The oldest first."""

    @property
    def incident(self) -> str:
        """Id of the incident that it belongs to; empty for none."""
        told = [d.data.get("incident") for d in self.data if isinstance(d.data, dict)]
        options = self.parameters.get("options")
        asked = options.get("incident") if isinstance(options, dict) else ""
        return str(next((x for x in (*reversed(told), asked) if x), ""))
