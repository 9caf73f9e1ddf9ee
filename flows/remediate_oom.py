"""Out of memory: find which memory ran out, and take the one step that helps.

Handbooks: "OOM at Startup", "Out of Memory Errors", "OOM during compile", "High GPU memory".
"""

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.models import ServingConfig
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.plan import Plan
from flows.decisions.step_down import Exhausted, NoStep, Step, next_step
from flows.holding import holding
from flows.lifecycle import attempt
from flows.planning import make_plan, plan_only
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.run import Run, examine, observe
from flows.verify import verify


@flow(name="remediate-oom", flow_run_name="remediate-oom {service}")
async def remediate_oom(stack: str, service: str, options: Options = Options()) -> State[Report]:  # noqa: B008
    """Step a vLLM server that ran out of memory down to what fits, and prove that it decodes.

    Reads the log and the state, diagnoses the root cause, takes the smallest step on the
    service's ladder that the cause calls for (skipping rungs above vLLM's own estimate),
    restarts once per step, and verifies by decoding a token for the stabilisation window.
    What does not help is undone. Memory held by another process, host RAM, a missing model
    and the like are named and never stepped down.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack.
        options: Dry run, approval, actor, source.
    """
    return state_of(await perform("remediate-oom", stack, service, options, _remediate))


async def _remediate(run: Run) -> Report:
    if plan_only(run):
        seen, health = await observe(run)
        if health.status != "broken":
            return run.report("planned", f"nothing to do: {health.status}, {health.reason}")
        run.diagnosis = await examine(run, seen)
        return await _step_down(run, seen.config, run.diagnosis)
    async with holding(run):
        return await _decide_and_act(run)


async def _decide_and_act(run: Run) -> Report:
    seen, health = await observe(run)
    if health.status == "loading":
        # A slow start is not a failure: it is waited for, never cut short.
        waited = await verify(run.target, seen.config, stabilisation_s=0)
        if waited.outcome == "passed":
            after = f"{waited.total_s:.0f} s"
            return run.report("passed", f"no action: it was still starting, decoding after {after}")
        seen, health = await observe(run)
    if health.status == "healthy":
        return run.report("passed", f"no action: the service is healthy, {health.reason}")
    if health.status == "unknown":
        return run.report(
            "inconclusive",
            f"nothing was changed: {health.reason}",
            next_step="make what could not be measured measurable, then rerun",
        )
    run.diagnosis = await examine(run, seen)
    return await _step_down(run, seen.config, run.diagnosis)


async def _step_down(run: Run, original: ServingConfig, cause: Diagnosis) -> Report:
    """Step after step from the failing config, each planned against the recorded original."""
    config = original
    tried: list[ServingConfig] = []
    while True:
        choice = next_step(config, cause, run.target.service.ladder, tried=tried)
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
        plan = _plan(run, original, choice, cause)
        run.plan = plan
        if plan_only(run):
            return run.report("planned", f"would change {plan.summary()}: {plan.reason}")
        done = await attempt(run, plan)
        if done.kept:
            took = done.verification.first_token_s or 0
            return run.report(
                "passed", f"{plan.summary()}; decoding {took:.1f} s after the restart, and stable"
            )
        if done.verification.outcome == "inconclusive" or done.diagnosis_after is None:
            return run.report(
                "inconclusive",
                f"{plan.summary()} could not be verified ({done.verification.reason}); {done.undo}",
                next_step="find out why it could not be measured before you try again",
            )
        config, cause = plan.after, done.diagnosis_after
        tried.append(plan.after)


def _plan(run: Run, original: ServingConfig, step: Step, cause: Diagnosis) -> Plan:
    return make_plan(
        run,
        original,
        step.after,
        reason=step.reason,
        evidence=cause.evidence,
        expected=step.expected,
        costs=step.costs,
    )
