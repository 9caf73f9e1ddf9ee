"""The errors every adapter raises, so that flows decide by class and never by text."""

from typing import Literal

GuardReason = Literal[
    "locked",
    "frozen",
    "cooling-down",
    "attempts-exhausted",
    "not-authorised",
    "not-approved",
    "approval-expired",
    "drifted",
    "would-exceed-window",
    "blast-radius",
]
"""Why a change was refused; the word an operator sees (DESIGN: the lifecycle of a change)."""


class RunbookError(Exception):
    """Anything that went wrong, with the system, the target and the next step in its text."""


class Transient(RunbookError):
    """May pass by itself: connection refused, time-out, 429, 5xx."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Permanent(RunbookError):
    """Will not pass by itself: another 4xx, bad configuration, a missing container."""


class Unsafe(RunbookError):
    """A guard refused to act.

    Attributes:
        reason: the named reason shown to the operator.
    """

    def __init__(self, reason: GuardReason, message: str) -> None:
        super().__init__(message)
        self.reason: GuardReason = reason
