"""Who is told of an incident, in which order, and how fast they must answer."""

from blocks.models import Frozen


class EscalationSpec(Frozen):
    """Severities, rotations, and the ways to reach people."""
