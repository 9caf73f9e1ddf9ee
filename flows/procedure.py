"""What every mutating procedure shares: its target, its record, its verdict as a state."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from blocks.errors import RunbookError, Unsafe
from blocks.journal import Verdict
from blocks.stack_blocks import load_stack
from blocks.target import target_of
from flows.approval import ask, waits
from flows.calling import call_people
from flows.decisions.plan import Plan
from flows.lifecycle import NeedsApproval
from flows.record import publish
from flows.report import Options, Report
from flows.run import Run

Body = Callable[[Run], Awaitable[Report]]


async def perform(
    procedure: str, stack: str, service: str, options: Options, body: Body, *, call: bool = True
) -> Report:
    """Run `body` on one service and record whatever comes of it; call people where it is lost.

    A refusal becomes `blocked` with its reason, a failure to act `error`; only an unknown
    stack or service raises. A record that cannot be published never changes the verdict.
    """
    spec = await load_stack(stack)
    target = target_of(spec, service)
    if "auto-scheduled" in (flow_run.tags or ()):
        options = options.model_copy(update={"source": "schedule", "actor": "schedule"})
    run = Run(procedure, target, options, run_id=str(flow_run.id), spec=spec)
    await tag(procedure, options, f"stack:{target.stack}", f"service:{target.name}")
    report = await _outcome(run, body)
    level = get_run_logger().info if report.verdict in ("passed", "planned") else None
    (level or get_run_logger().warning)(report.headline)
    return await publish(await call_people(run, report) if call else report, run)


async def _outcome(run: Run, body: Body) -> Report:
    """Whatever comes of the body, as a report."""
    asks = run.target.service.policy.autonomy_of(run.procedure) == "approve"
    try:
        report = await _approved(run, body)
        if asks and run.plan and report.verdict == "planned":
            return report.model_copy(update={"next_step": _how(run.plan)})
        return report
    except NeedsApproval as e:
        run.plan = e.plan
        return run.report("blocked", str(e), blocked_by=e.reason, next_step=_how(e.plan))
    except Unsafe as e:
        return run.report("blocked", str(e), blocked_by=e.reason, next_step=_NEXT.get(e.reason, ""))
    except RunbookError as e:
        return run.report("error", str(e))
    except BaseException as e:
        # Interrupted: the lifecycle has undone what it did; say so, then let it go on.
        interrupted = run.report("error", f"interrupted ({type(e).__name__})")
        get_run_logger().error(interrupted.headline)
        raise


async def _approved(run: Run, body: Body) -> Report:
    """The body, begun anew after each approval that it turned out to need."""
    while True:
        try:
            return await body(run)
        except NeedsApproval as e:
            if not waits(run, e):
                raise
            run.plan = e.plan
            wait_s = run.spec.approval.timeout_s
            # Beside the pause: a click must find the run waiting, and Slack may be away.
            telling = asyncio.create_task(run.teller.ask(e.plan, wait_s, **run.shown()))
            try:
                await ask(run, e.plan)
            finally:
                run.notes += filter(None, [await _told(telling)])
            run.teller.say(
                f"approved by {run.approver}; looking at it again", approver=run.approver
            )


async def _told(telling: asyncio.Task[str]) -> str:
    """What went wrong with the telling; an answer from elsewhere does not wait for Slack."""
    try:
        return await asyncio.wait_for(telling, 2)
    except TimeoutError:
        return "Slack was not told of the plan in time"


def _how(plan: Plan) -> str:
    return f"to approve exactly this plan: --approve {plan.digest}"


_NEXT = {
    "locked": "wait for the other run, or look at it: runbooks runs",
    "frozen": "wait for the window's end, or act by hand",
    "cooling-down": "wait; a second remediation at once hides what the first did",
    "attempts-exhausted": "escalated: a person must look; the config is as it was before",
    "not-approved": "it stays as it is; rerun when it is wanted",
    "approval-expired": "look at the service, and rerun when the plan is still wanted",
    "drifted": "somebody changed it meanwhile; rerun to plan on what is there now",
    "would-exceed-window": "runs by itself in the next maintenance window",
}


class Judged(Protocol):
    """What every report of a procedure has."""

    @property
    def verdict(self) -> Verdict:
        """How it ended."""
        ...

    @property
    def headline(self) -> str:
        """Its one line."""
        ...


R = TypeVar("R", bound=Judged)


def state_of(report: R) -> State[R]:
    """The verdict as a Prefect state: only `passed` and `planned` are ever green."""
    make: Any = Completed if report.verdict in ("passed", "planned") else Failed
    return make(  # type: ignore[no-any-return]
        name=report.verdict.capitalize(), message=report.headline[:1000], data=report
    )


async def tag(procedure: str, options: Options, *more: str) -> None:
    """Tags an operator filters by; a server that does not take them changes nothing.

    Who starts a run gives it these tags already: then nothing is asked or written here, for at
    three in the morning an act must not wait for a label.
    """
    actor, source = options.actor or "unknown", options.source
    tags = {f"procedure:{procedure}", f"actor:{actor}", f"source:{source}", *more}
    tags |= {f"incident:{options.incident}"} if options.incident else set()
    if tags <= set(flow_run.tags or ()):
        return
    try:
        async with get_client() as client:
            # Read anew: an earlier part of this run may have added its own.
            now = await client.read_flow_run(UUID(str(flow_run.id)))
            await client.update_flow_run(now.id, tags=tags | set(now.tags))
    except Exception as e:  # noqa: BLE001 - a label must not stop a procedure
        get_run_logger().warning("the run could not be tagged: %s", e)
