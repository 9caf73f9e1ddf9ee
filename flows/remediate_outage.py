"""Service down: the handbooks' P0 checklist, from the diagnosis to the call for a person."""

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.model_link import dangling
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource
from flows.broken import on_broken
from flows.decisions.crash import UNSTABLE
from flows.decisions.outage import Course, Measure, course
from flows.decisions.plan import Plan
from flows.lifecycle import attempt
from flows.planning import make_plan, plan_only
from flows.procedure import perform, state_of
from flows.proxy_outage import on_proxy
from flows.remediate_crash import choose_for_crash
from flows.remediate_oom import choose_for_memory
from flows.report import Attempt, Options, Report
from flows.run import Run, examine
from flows.stepping import step_down
from tasks.reads import Observation

PROCEDURE = "remediate-outage"


@flow(name=PROCEDURE, flow_run_name="remediate-outage {service}")
async def remediate_outage(stack: str, service: str, options: Options = Options()) -> State[Report]:  # noqa: B008
    """Bring a service back that is down, frozen or answering errors, or say who must.

    Diagnoses first. A cause with a remedy of its own gets that remedy; a cause outside the
    service (a missing model, a held port, a full disk) is named and nothing is touched. Else:
    restart, then a new container from the same configuration, then the last configuration that
    differs; each verified by decoding, each undone when it does not help; then a person. A proxy
    is restarted only when its backends are well: a dead backend behind it is remedied instead.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack: a vLLM server, a proxy, or any other.
        options: Dry run, approval, actor, source.
    """
    dead: list[str] = []

    async def body(run: Run) -> Report:
        if run.target.service.engine == "litellm":
            return await on_proxy(run, dead, _treat)
        return await on_broken(run, _treat)

    report = await perform(PROCEDURE, stack, service, options, body)
    for backend in dead:
        # One service, one lock, one record each: the backend is remedied by a part of its own.
        report = await perform(PROCEDURE, stack, backend, options, body)
    return state_of(report)


async def _treat(run: Run, seen: Observation) -> Report:
    run.diagnosis = await examine(run, seen)
    model = run.target.service.model
    if problem := await dangling(model.link if model else None):
        advice = "put the model or its link back (switch-model), then rerun"
        return run.report(
            "failed", f"nothing was changed: {problem}; a restart would fail", next_step=advice
        )
    chosen = course(
        run.diagnosis,
        crashes=_crashes(seen),
        can_recreate=isinstance(run.target.service.serving, ArgumentsSource),
        can_roll_back=_earlier(run, seen.config) is not None,
    )
    if not chosen.measures:
        return run.report(
            "failed",
            f"nothing was changed: {chosen.reason}",
            next_step=run.diagnosis.advice,
        )
    return await _follow(run, seen, chosen)


def _crashes(seen: Observation) -> int:
    return seen.state.restarts + (seen.state.phase in ("exited", "restarting"))


def _earlier(run: Run, config: ServingConfig) -> ServingConfig | None:
    """The configuration that the last change replaced, if it differs from the present one."""
    return next((b.config for b in run.journal.backups() if b.config != config), None)


async def _follow(run: Run, seen: Observation, chosen: Course) -> Report:
    """One measure after the other; what is learnt from a failed one may call for its own remedy."""
    failed: list[str] = []
    for measure in chosen.measures:
        if measure == "step-down":
            return await _step_down(run, seen)
        plan = _plan(run, seen.config, measure, chosen.reason)
        run.plan = plan
        if plan_only(run):
            order = ", then ".join(chosen.measures)
            return run.report("planned", f"would {order}: {chosen.reason}")
        done = await attempt(run, plan)
        if done.kept:
            took = done.verification.first_token_s or 0
            return run.report("passed", f"{_did(plan)}; healthy {took:.1f} s later, and stable")
        failed.append(f"{_did(plan)}: {done.verification.reason}")
        if _now_a_step(run, done):
            run.diagnosis = done.diagnosis_after
            return await _step_down(run, seen)
    why = "; ".join(failed)
    advice = run.diagnosis.advice if run.diagnosis else ""
    return run.report(
        "failed",
        f"nothing helped ({why}); everything is as it was before",
        next_step=f"a person must look now. {advice}",
    )


def _now_a_step(run: Run, done: Attempt) -> bool:
    """Whether the failed start shows a cause that a smaller configuration treats."""
    after = done.diagnosis_after
    return after is not None and course(after).measures == ("step-down",)


async def _step_down(run: Run, seen: Observation) -> Report:
    cause = run.diagnosis
    assert cause is not None  # noqa: S101 - the caller diagnosed
    if cause.label in UNSTABLE:
        rule, procedure = choose_for_crash(run, _crashes(seen)), "remediate-crash"
    else:
        rule, procedure = choose_for_memory(run), "remediate-oom"
    return await step_down(run, seen.config, cause, rule, procedure=procedure)


def _plan(run: Run, config: ServingConfig, measure: Measure, reason: str) -> Plan:
    evidence = run.diagnosis.evidence if run.diagnosis else ()
    expected = "the service answers and decodes"
    if measure == "rollback":
        earlier = _earlier(run, config)
        assert earlier is not None  # noqa: S101 - only then is it a measure
        return make_plan(
            run,
            config,
            earlier,
            reason=f"a restart did not help, so the last change goes back; {reason}",
            procedure="rollback-serving",
            evidence=evidence,
            expected=expected,
        )
    return make_plan(
        run,
        config,
        config,
        how="recreate" if measure == "recreate" else "restart",
        reason=reason,
        evidence=evidence,
        expected=expected,
        costs="Requests that are under way are lost.",
        undo="the service returns to its earlier run state",
    )


def _did(plan: Plan) -> str:
    words = {"restart": "restarted", "recreate": "recreated", "apply": "the last change went back"}
    return words[plan.how]
