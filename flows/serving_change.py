"""A wanted serving config through the lifecycle: shared by apply and rollback."""

from blocks.journal import Verdict
from blocks.models import ServingConfig
from flows.lifecycle import attempt
from flows.planning import make_plan, plan_only, sizing_warning
from flows.report import Report
from flows.run import Run


async def change_to(
    run: Run, before: ServingConfig, wanted: ServingConfig, *, reason: str
) -> Report:
    """Plan, apply and verify `wanted`."""
    if wanted == before:
        return run.report("passed", "no action: the service already has these numbers")
    plan = make_plan(
        run,
        before,
        wanted,
        reason=reason,
        expected="the service decodes with the new numbers",
        warning=await sizing_warning(run, wanted),
    )
    run.plan = plan
    if plan_only(run):
        warning = f"; warning: {plan.warning}" if plan.warning else ""
        return run.report("planned", f"would change {plan.summary()}{warning}")
    done = await attempt(run, plan)
    if done.kept:
        return run.report("passed", f"{plan.summary()}; decoding, and stable")
    why = f" ({done.diagnosis_after.label})" if done.diagnosis_after else ""
    verdict: Verdict = "failed" if done.verification.outcome == "failed" else "inconclusive"
    return run.report(
        verdict,
        f"{plan.summary()} did not hold: {done.verification.reason}{why}; {done.undo}",
        next_step=done.diagnosis_after.advice if done.diagnosis_after else "",
    )
