"""Step after step down the ladder, until one holds or none is left."""

from collections.abc import Callable, Sequence

from blocks.models import ServingConfig
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.plan import Plan
from flows.decisions.step_down import Exhausted, NoStep, Step
from flows.follow_up import align_after
from flows.lifecycle import attempt
from flows.planning import make_plan, plan_only
from flows.report import Report
from flows.run import Run

Choose = Callable[[ServingConfig, Diagnosis, Sequence[ServingConfig]], Step | NoStep | Exhausted]
"""The next configuration for a cause, given those that were tried."""


async def step_down(
    run: Run, original: ServingConfig, cause: Diagnosis, choose: Choose, *, procedure: str = ""
) -> Report:
    """Each step is planned against the recorded original, which is in place between two.

    Args:
        run: whose service is stepped down.
        original: what is written down now.
        cause: why the latest start failed.
        choose: the rule of the procedure.
        procedure: under whose autonomy it acts; default: the run's own.
    """
    config = original
    tried: list[ServingConfig] = []
    while True:
        choice = choose(config, cause, tried)
        if isinstance(choice, NoStep):
            return run.report(
                "failed", f"{cause.label}, no step-down: {choice.reason}", next_step=choice.advice
            )
        if isinstance(choice, Exhausted):
            return run.report(
                "blocked",
                f"the ladder is exhausted: {choice.reason}; the original config is in place",
                blocked_by="attempts-exhausted",
                next_step=choice.advice,
            )
        plan = run.plan = _plan(run, original, choice, cause, procedure)
        if plan_only(run):
            return run.report("planned", f"would change {plan.summary()}: {plan.reason}")
        done = run.tried(plan) or await attempt(run, plan)
        if done.kept:
            took = done.verification.first_token_s or 0
            return await kept(run, f"{plan.summary()}; decoding {took:.1f} s after the restart")
        if done.verification.outcome == "inconclusive" or done.diagnosis_after is None:
            return run.report(
                "inconclusive",
                f"{plan.summary()} could not be verified ({done.verification.reason}); {done.undo}",
                next_step="find out why it could not be measured before you try again",
            )
        config, cause = plan.after, done.diagnosis_after
        tried.append(plan.after)


async def kept(run: Run, did: str) -> Report:
    """The report on a step that holds: the proxy in front of the service follows it."""
    after = await align_after(run)
    if after.broken:
        return run.report(
            "failed",
            f"{did}, and stable; but the proxy in front of it is left broken: {after.broken}",
            next_step="look at the proxy now; remediate-outage on it reconciles first",
        )
    return run.report("passed", f"{did}, and stable", next_step=after.advice)


def _plan(run: Run, original: ServingConfig, step: Step, cause: Diagnosis, procedure: str) -> Plan:
    return make_plan(
        run,
        original,
        step.after,
        reason=step.reason,
        procedure=procedure,
        evidence=cause.evidence,
        expected=step.expected,
        costs=step.costs,
    )
