"""Frozen readings of Prefect itself: runs under way, locks and their leases. No I/O here."""

from datetime import datetime
from typing import Literal

from blocks.models import Frozen

POOL = "runbooks"
"""The work pool that every run of this product goes to."""

ActiveState = Literal["PENDING", "RUNNING", "CANCELLING"]


class ActiveRun(Frozen):
    """A run of this product that has not ended, at one instant."""

    id: str
    name: str
    state: ActiveState
    state_id: str
    """Of this very state: a run that moved on has another one."""
    since: datetime
    """When it got into this state."""
    last_beat: datetime | None = None
    """When the server received its latest heartbeat; None: it never beat."""


class Lease(Frozen):
    """A promise that a slot is given back: renewed by its holder, freed once it expired."""

    id: str
    expires_at: datetime
    renewed_at: datetime
    """When it was made or renewed last."""
    holder: str | None = None
    """Id of the flow run that holds it, where the holder said so."""


class Lock(Frozen):
    """A global concurrency limit that stands for one service."""

    name: str
    limit: int
    active: bool
    slots: int
    """Slots taken (count)."""
    touched_at: datetime | None = None
    """When the server changed it last."""
    leases: tuple[Lease, ...] | None = None
    """None: they could not be looked at, for the reason in `unseen`."""
    unseen: str = ""
