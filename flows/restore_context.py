"""Step a degraded service back up, inside a maintenance window (DESIGN: after a step)."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.journal import Verdict, degraded_services
from flows.dead_man import HOOKS
from flows.decisions.step_down import step_back
from flows.holding import holding
from flows.lifecycle import attempt
from flows.planning import make_plan, plan_only
from flows.procedure import perform, state_of
from flows.report import WORST, Options, Report
from flows.run import Run, observe
from flows.stepping import kept

EVERY = "*"


@flow(name="restore-context", flow_run_name="restore-context {stack} {service}", **HOOKS)
async def restore_context(
    stack: str = EVERY,
    service: str = EVERY,
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Give a stepped-down service its original config back; undo at once if that fails.

    Acts only on a service that a remediation marked degraded, that is healthy now, and,
    where the stack names maintenance windows, only inside one. With `*` it takes, one after
    the other, every service of this host that is degraded. Handbook: maintenance windows.

    Args:
        stack: Registered stack, the path of its YAML file, or * for every one.
        service: Service in that stack, or * for every degraded one.
        options: Dry run, approval, actor, source.
    """
    chosen = [(stack, service)]
    if EVERY in (stack, service):
        chosen = [
            (of, name)
            for of, name in degraded_services()
            if stack in (EVERY, of) and service in (EVERY, name)
        ]
    if not chosen:
        return Completed(name="Passed", message="no service of this host is degraded")
    reports = [await perform("restore-context", of, name, options, _restore) for of, name in chosen]
    # The worst decides the colour: one service that did not come back must not hide.
    return state_of(max(reports, key=lambda r: WORST.index(r.verdict)))


async def _restore(run: Run) -> Report:
    if plan_only(run):
        return await _step_up(run)
    async with holding(run):
        return await _step_up(run)


async def _step_up(run: Run) -> Report:
    mark = run.journal.degraded()
    if mark is None:
        return run.report("passed", "no action: the service is not degraded")
    seen, health = await observe(run)
    if health.status != "healthy":
        verdict: Verdict = "failed" if health.status == "broken" else "inconclusive"
        return run.report(
            verdict,
            f"nothing was changed: the service is {health.status}, {health.reason}",
            next_step="only a healthy service is stepped up; run remediate-oom",
        )
    step = step_back(seen.config, mark.original, run.target.service.ladder)
    if step is None:
        if not plan_only(run):
            run.journal.clear_degraded()
        return run.report("passed", "no action: nothing is left to give back; the mark is cleared")
    plan = make_plan(
        run,
        seen.config,
        step.after,
        reason=f"degraded since {mark.since:%Y-%m-%d %H:%M} UTC by {mark.procedure}; {step.reason}",
        expected=step.expected,
        costs=step.costs,
    )
    run.plan = plan
    if plan_only(run):
        return run.report("planned", f"would change {plan.summary()}")
    done = await attempt(run, plan, needs_window=bool(run.target.maintenance))
    if not done.kept:
        verdict = "failed" if done.verification.outcome == "failed" else "inconclusive"
        return run.report(
            verdict,
            f"{plan.summary()} did not hold ({done.verification.reason}); {done.undo}",
            next_step="it stays degraded; make room on the GPU before the next window",
        )
    return await kept(run, f"{plan.summary()}; decoding")
