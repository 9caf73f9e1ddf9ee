"""One procedure run on one service: what it knows, and how it looks at the service."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect.logging import get_run_logger

from blocks.errors import GuardReason
from blocks.journal import Journal, Verdict
from blocks.models import ServiceState
from blocks.stack import StackSpec
from blocks.target import Target, runtime_of, target_of
from flows.decisions.diagnosis import Diagnosis, diagnose, without_cause
from flows.decisions.health import Health, judge
from flows.decisions.plan import Plan
from flows.report import Attempt, Options, Report
from flows.telling import Teller
from flows.verify import expectation
from tasks.reads import Observation, read_log, read_service


@dataclass
class Run:
    """One procedure run on one service, as it goes."""

    procedure: str
    target: Target
    options: Options
    run_id: str
    spec: StackSpec
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seen: str = ""
    diagnosis: Diagnosis | None = None
    plan: Plan | None = None
    attempts: list[Attempt] = field(default_factory=list)
    earlier: tuple[Attempt, ...] = ()
    """Attempts of the run that this one is a part of."""
    notes: list[str] = field(default_factory=list)
    first_act_s: float | None = None
    approver: str = ""
    asked: int = 0
    """How often it waited for an approval."""
    telling: Teller | None = None

    @property
    def teller(self) -> Teller:
        """Who tells people what the run does; a plan alone is nobody's business yet."""
        if self.telling is None:
            self.telling = Teller(
                slack=None if self.options.dry_run else self.target.slack,
                stack=self.target.stack,
                service=self.target.name,
                procedure=self.procedure,
                run_id=self.run_id,
                asked_by=f"{self.options.actor or 'unknown'}, from {self.options.source}",
                incident=self.options.incident,
            )
        return self.telling

    def shown(self) -> dict[str, Any]:
        """What is known of the fault by now, for the card."""
        found = self.diagnosis
        return {
            "title": self.seen or self.procedure,
            "diagnosis": found.label if found else "",
            "evidence": found.evidence if found else (),
        }

    @property
    def journal(self) -> Journal:
        """The journal of this service on this host."""
        return Journal(self.target.stack, self.target.name)

    def on(self, service: str, procedure: str) -> "Run":
        """The same run on another service of the stack: it has its own lock and journal.

        Raises:
            Permanent: no such service.
        """
        # A digest names the service whose plan it approves; a bare yes was said of this one.
        digest = "" if self.options.approval == "yes" else self.options.approval
        options = self.options.model_copy(update={"approval": digest})
        target = target_of(self.spec, service)
        earlier = (*self.earlier, *self.attempts)
        part = Run(procedure, target, options, self.run_id, self.spec, earlier=earlier)
        part.approver, part.telling = self.approver, self.teller
        return part

    def tried(self, plan: Plan) -> Attempt | None:
        """The attempt of this very plan that did not help, made before the run waited."""
        known = (*self.earlier, *self.attempts)
        return next((a for a in known if not a.kept and a.plan.digest == plan.digest), None)

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
            procedure=self.procedure,
            stack=self.target.stack,
            service=self.target.name,
            run_id=self.run_id,
            actor=self.options.actor or "unknown",
            source=self.options.source,
            started_at=self.started_at,
            duration_s=round(time.monotonic() - self.began, 3),
            verdict=verdict,
            blocked_by=blocked_by,
            message=message,
            next_step=next_step,
            seen=self.seen,
            diagnosis=self.diagnosis,
            plan=self.plan,
            attempts=tuple(self.attempts),
            notes=tuple(self.notes),
            first_act_s=self.first_act_s,
            incident=self.options.incident,
            approver=self.approver,
        )


async def observe(run: Run) -> tuple[Observation, Health]:
    """One look at the service and its judgement against its own written config."""
    seen = await read_service(run.target)
    health = judge(seen.state, seen.serving, expectation(run.target, seen.config))
    run.seen = run.seen or f"{health.status}: {health.reason}"
    return seen, health


BEGUN = ("healthy_noise", "unknown")
"""What the log of a start that has not failed yet is diagnosed as."""


async def examine(run: Run, seen: Observation) -> Diagnosis:
    """Diagnose the latest start of the service from its log and how it ended.

    In a restart loop the latest start has often only just begun, and its log says nothing yet:
    its end is waited for.
    """
    found, torn = await _diagnosed(run, seen.state)
    answers = seen.serving is not None and seen.serving.reachable
    looping = seen.state.phase == "restarting" or (seen.state.restarts > 0 and not answers)
    until = time.monotonic() + run.target.service.policy.start_timeout_s
    ends = 0
    while looping and (torn or found.label in BEGUN) and ends < 5 and time.monotonic() < until:
        await asyncio.sleep(min(0.2, run.target.service.policy.poll_s))
        state = await runtime_of(run.target).state()
        if state.phase in ("exited", "restarting"):
            ends += 1
            found, torn = await _diagnosed(run, state)
    get_run_logger().info("%s: diagnosed %s %s", run.target.label, found.label, found.facts)
    return found


async def _diagnosed(run: Run, state: ServiceState) -> tuple[Diagnosis, bool]:
    """The diagnosis, and whether a new start began while the log was read."""
    log = await read_log(run.target)
    ended = state.phase in ("exited", "restarting")
    found = await asyncio.to_thread(
        diagnose, log, state.exit_code if ended else None, state.oom_killed
    )
    now = await runtime_of(run.target).state() if state.restarts else state
    found = without_cause(found)  # only what is broken is examined
    return found, now.started_at != state.started_at
