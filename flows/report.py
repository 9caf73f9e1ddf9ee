"""What one procedure run saw, did and could not find out: the record."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from blocks.errors import GuardReason
from blocks.journal import Verdict
from blocks.models import Frozen
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.health import Outcome, Status
from flows.decisions.plan import Plan

Source = Literal["cli", "ui", "schedule", "slack", "alert"]

WORST: tuple[Verdict, ...] = ("passed", "planned", "blocked", "inconclusive", "failed", "error")
"""Verdicts, the best first: of several reports the worst decides."""

EXIT_CODES: dict[Verdict, int] = {
    "passed": 0,
    "planned": 0,
    "failed": 1,
    "error": 1,
    "blocked": 3,
    "inconclusive": 3,
}


class Options(Frozen):
    """How a procedure is run; the same for every one."""

    dry_run: bool = Field(
        default=False, description="Plan only: look and decide, but change nothing."
    )
    approval: str = Field(
        default="",
        description="The digest of the plan you approve (a dry run shows it), or the word yes for "
        "whatever this run decides. Not needed where the service's autonomy is auto.",
    )
    actor: str = Field(default="", description="Who starts it: your name, for the record.")
    source: Source = Field(default="ui", description="Where it is started from, for the record.")
    incident: str = Field(default="", description="The incident it belongs to, if any.")
    wait: bool = Field(
        default=True,
        description="Wait for somebody's approval where it is needed; else refuse at once.",
    )


class Look(Frozen):
    """One look of a verification."""

    at_s: float
    status: Status
    reason: str


class Verification(Frozen):
    """How a change was verified: is it decoding, and does it stay so."""

    outcome: Outcome
    reason: str
    looks: tuple[Look, ...] = ()
    first_token_s: float | None = None
    """Seconds from the start to the first decoded token."""
    total_s: float = 0.0


class Attempt(Frozen):
    """One act with its verification and, where it did not help, its undo."""

    plan: Plan
    verification: Verification
    kept: bool
    act_s: float = 0.0
    undo: str = ""
    diagnosis_after: Diagnosis | None = None


class Report(Frozen):
    """The outcome of a procedure on one service."""

    procedure: str
    stack: str
    service: str
    run_id: str
    actor: str
    source: Source
    started_at: datetime
    duration_s: float
    verdict: Verdict
    blocked_by: GuardReason | None = None
    message: str
    """One sentence: what was found and what was done."""
    next_step: str = ""
    """What a person should do now; empty when nothing."""
    seen: str = ""
    """The service's health before anything was done."""
    diagnosis: Diagnosis | None = None
    plan: Plan | None = None
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    first_act_s: float | None = None
    """Seconds from the flow's start to the first act."""
    incident: str = ""
    """Id of the incident that it belongs to."""
    approver: str = ""
    """Who approved the plan while it waited, and from where: `ada, from slack`."""

    @property
    def headline(self) -> str:
        """`PASSED remediate-oom wintermute: ...`."""
        why = f" ({self.blocked_by})" if self.blocked_by else ""
        return f"{self.verdict.upper()}{why} {self.procedure} {self.service}: {self.message}"
