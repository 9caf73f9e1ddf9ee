"""One escalation as it goes: what it knows of the incident, and what it reports."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blocks.alert_routes import Severity
from blocks.errors import GuardReason, Permanent
from blocks.escalation import EscalationSpec, SeveritySpec, Tick
from blocks.incidents import Incident, Led, Opened, Telling
from blocks.journal import Verdict
from blocks.stack import StackSpec
from flows.decisions.checklist import Box, Seen, boxes
from flows.decisions.escalation import Course, course
from flows.decisions.incident_report import Action
from flows.report import Options, Report

PROCEDURE = "escalate-incident"
LONGEST_S = 604_800
"""A run waits for a week at most, s: one that begins on a Friday waits for the Monday."""
RESOLVE_MIN = 240
"""How long it may take where the severity does not say, minutes."""


@dataclass
class Escalation:
    """What one run knows."""

    spec: StackSpec
    service: str
    severity: Severity
    options: Options
    run_id: str
    incident: Incident
    poll_s: float
    watch_s: float = 0
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    called_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When people were called first: their time to answer counts from it, not from the opening."""
    round: int = 0
    """How often the path was gone through before, and nobody had answered."""
    taken_by: Led | None = None
    """Another run that escalates the incident now."""
    told: dict[int, Telling] = field(default_factory=dict)
    seen: dict[Tick, Seen] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    done: set[int] = field(default_factory=set)
    """Steps that this run has told, or that nobody was there for."""
    healthy_since: datetime | None = None
    health: str = ""
    """Of the service at the latest look of the watch; empty: it was not looked at."""
    notes: list[str] = field(default_factory=list)
    posted: str = ""
    """The checklist as people see it now."""
    slack_after: float = 0
    """Slack failed: it is not asked again before, monotonic s."""
    settled: set[str] = field(default_factory=set)
    """What PagerDuty was told of the incident: acknowledge, resolve."""

    @property
    def opened(self) -> Opened:
        """How it began."""
        return self.incident.opened

    @property
    def matrix(self) -> EscalationSpec:
        """The section of the inventory.

        Raises:
            Permanent: there is none.
        """
        if self.spec.escalation is None:
            raise Permanent(
                f"stack {self.spec.name!r} has no section escalation: nobody can be told; add it "
                "and run: runbooks apply"
            )
        return self.spec.escalation

    @property
    def row(self) -> SeveritySpec:
        """The severity's row of the matrix.

        Raises:
            Permanent: the matrix has no such severity.
        """
        found = self.matrix.severities.get(self.severity)
        if found is None:
            known = ", ".join(self.matrix.severities)
            raise Permanent(f"escalation.severities has no {self.severity} (known: {known})")
        return found

    @property
    def planned(self) -> Course:
        """Whom to tell when, as long as nobody acknowledges. Raises Permanent as `row`."""
        found = course(self.matrix, self.spec.timezone, self.severity, self.called_at)
        if found is None:
            raise Permanent(f"escalation.severities has no {self.severity}")
        return found

    @property
    def bound_s(self) -> float:
        """How long this run may last, s: as asked, or from the severity."""
        if self.watch_s:
            return self.watch_s
        path_s = (self.planned.exhausted_at - self.called_at).total_seconds()
        resolve_s = 60 * (self.row.resolve_min or RESOLVE_MIN)
        return min(LONGEST_S, path_s + resolve_s + 120 * self.row.watch_min)

    @property
    def checklist(self) -> tuple[Box, ...]:
        """The severity's list with what was seen done."""
        return boxes(self.row, self.seen)

    def number(self, step: int, way: int) -> int:
        """Of an entry: the same in every run that goes on with this round of this severity.

        Args:
            step: place in the path, from 0.
            way: place in the severity's ways, from 0.
        """
        return self._base + step * WAYS + way

    @property
    def mine(self) -> dict[int, Telling]:
        """Who was told in this round, at this severity."""
        return {n: t for n, t in self.told.items() if self._base <= n < self._base + ROUND}

    @property
    def unreached(self) -> set[int]:
        """Steps of which every way failed."""
        outcomes: dict[int, list[bool]] = {}
        for number, one in self.mine.items():
            step = (number - self._base) // WAYS
            outcomes.setdefault(step, []).append(bool(one.heard and not one.heard.sent))
        return {step for step, failed in outcomes.items() if all(failed)}

    @property
    def _base(self) -> int:
        return (4 * self.round + int(self.severity[1])) * ROUND

    def note(self, words: str) -> None:
        """Keep a note, once."""
        if words and words not in self.notes:
            self.notes.append(words)

    def report(
        self,
        verdict: Verdict,
        message: str,
        *,
        next_step: str = "",
        blocked_by: GuardReason | None = None,
    ) -> Report:
        """The record of what happened up to now."""
        return Report(
            procedure=PROCEDURE,
            stack=self.spec.name,
            service=self.service,
            run_id=self.run_id,
            actor=self.options.actor or "unknown",
            source=self.options.source,
            started_at=self.started_at,
            duration_s=round(time.monotonic() - self.began, 3),
            verdict=verdict,
            blocked_by=blocked_by,
            message=message,
            next_step=next_step,
            notes=tuple(self.notes),
            incident=self.opened.id,
        )


WAYS = 20
"""Ways a severity may have at most."""
ROUND = 10_000
"""Numbers of one round of one severity: a path is never that long."""
