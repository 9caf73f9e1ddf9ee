"""The plan of a change: what a person approves is what is executed, to the byte."""

import hashlib
import json
from typing import Any

from blocks.models import Frozen, How, ServingConfig


class Plan(Frozen):
    """Exact before and after of every field, with the reason, the effect and the undo."""

    procedure: str
    stack: str
    service: str
    before: ServingConfig
    after: ServingConfig
    how: How = "apply"
    reason: str
    evidence: tuple[str, ...] = ()
    expected: str = ""
    costs: str = ""
    warning: str = ""
    undo: str = "the recorded config is put back and the service returns to its earlier run state"

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Field -> (before, after)."""
        return self.before.diff(self.after)

    @property
    def digest(self) -> str:
        """12 hex digits over what would be executed; the words around it do not count."""
        body = {
            "procedure": self.procedure,
            "stack": self.stack,
            "service": self.service,
            "before": self.before.model_dump(),
            "after": self.after.model_dump(),
            "how": self.how,
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

    def summary(self) -> str:
        """`max_model_len 16384 -> 8192`, or `restart`, for log lines."""
        if self.how != "apply":
            return self.how
        return ", ".join(f"{k} {shown(b)} -> {shown(a)}" for k, (b, a) in self.changes.items())


def shown(value: object) -> str:
    """A value as an operator reads it."""
    if value is None:
        return "(default)"
    return str(value).lower() if isinstance(value, bool) else str(value)
