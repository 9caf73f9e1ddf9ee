"""Service down: the handbooks' P0 checklist, from the diagnosis to the call for a person."""

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.errors import Unsafe
from blocks.model_link import dangling
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource
from blocks.stack_blocks import load_stack
from flows.broken import diagnosed, on_broken
from flows.calling import call_people, needs_people
from flows.decisions.crash import UNSTABLE
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.outage import Course, Measure, course
from flows.decisions.plan import Plan
from flows.lifecycle import NeedsApproval, attempt
from flows.planning import make_plan, plan_only
from flows.procedure import perform, state_of
from flows.proxy_outage import on_proxy
from flows.remediate_crash import choose_for_crash, crashes_of
from flows.remediate_oom import choose_for_memory
from flows.report import WORST, Attempt, Options, Report
from flows.run import Run
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
    runs: list[Run] = []

    async def body(run: Run) -> Report:
        runs.append(run)
        if run.target.service.engine == "litellm":
            return await on_proxy(run, dead, _treat)
        return await on_broken(run, _treat)

    if (await load_stack(stack)).service(service).engine != "litellm":
        return state_of(await perform(PROCEDURE, stack, service, options, body))
    # What ails a proxy may be behind it: people are called once, when all of it was tried.
    reports = [await perform(PROCEDURE, stack, service, options, body, call=False)]
    if dead:
        reports = await _behind(stack, list(dict.fromkeys(dead)), options)
        if all(r.verdict == "passed" for r in reports):
            # One service, one lock, one record each; then the proxy in front of them once more.
            reports.append(await perform(PROCEDURE, stack, service, options, body, call=False))
    worst = max(reports, key=lambda r: (WORST.index(r.verdict), needs_people(options, r)))
    return state_of(await call_people(runs[0], worst))


async def _behind(stack: str, backends: list[str], options: Options) -> list[Report]:
    """Remedy the dead backends of a proxy, one after the other."""

    async def body(run: Run) -> Report:
        return await on_broken(run, _treat)

    return [await perform(PROCEDURE, stack, name, options, body, call=False) for name in backends]


async def _treat(run: Run, seen: Observation) -> Report:
    if report := await diagnosed(run, seen):
        return report
    assert run.diagnosis is not None  # noqa: S101 - it was just made
    model = run.target.service.model
    if problem := await dangling(model.link if model else None):
        advice = "put the model or its link back (switch-model), then rerun"
        return run.report(
            "failed", f"nothing was changed: {problem}; a restart would fail", next_step=advice
        )
    chosen = course(
        run.diagnosis,
        engine=run.target.service.engine,
        crashes=await crashes_of(run, seen),
        edited=_edited(run.diagnosis, seen.config),
        can_recreate=isinstance(run.target.service.serving, ArgumentsSource),
        can_roll_back=_known_good(run, seen.config) is not None,
    )
    if not chosen.measures:
        return run.report(
            "failed", f"nothing was changed: {chosen.reason}", next_step=run.diagnosis.advice
        )
    return await _follow(run, seen, chosen)


def _edited(diagnosis: Diagnosis, config: ServingConfig) -> bool:
    """Whether that start asked for another context than is written down now."""
    requested = diagnosis.facts.get("requested_max_model_len")
    return None not in (requested, config.max_model_len) and requested != config.max_model_len


def _known_good(run: Run, config: ServingConfig) -> ServingConfig | None:
    """The configuration to go back to: one that was verified, or that the last change replaced.

    Where somebody edited the file since the last kept change, what that change had proved. Where
    the change itself is in place, what it replaced, unless a remedy replaced it: that one is known
    not to work.
    """
    applied = run.journal.applied()
    if applied is None:
        return None
    if applied.config != config:
        return applied.config
    newest = next(iter(run.journal.backups()), None)
    mine = newest is not None and newest.run_id == applied.run_id
    if newest is None or not mine or newest.procedure.startswith("remediate-"):
        return None
    return newest.config if newest.config != config else None


async def _follow(run: Run, seen: Observation, chosen: Course) -> Report:
    """One measure after the other; what is learnt from a failed one may call for its own remedy."""
    failed: list[str] = []
    for measure in chosen.measures:
        if measure == "step-down":
            report = await _step_down(run, seen)
            if report.attempts or report.verdict in ("passed", "planned"):
                return report
            if chosen.measures[-1] == measure:
                return report
            failed.append(report.message)
            continue
        plan = run.plan = _plan(run, seen.config, measure, chosen.reason)
        if plan_only(run):
            order = ", then ".join(chosen.measures)
            return run.report("planned", f"would {order}: {chosen.reason}")
        try:
            done = run.tried(plan) or await attempt(run, plan)
        except Unsafe as e:
            if not failed or isinstance(e, NeedsApproval):
                raise
            failed.append(f"{measure}: {e}")
            continue
        if done.kept:
            took = done.verification.first_token_s or 0
            return run.report("passed", f"{_did(plan)}; healthy {took:.1f} s later, and stable")
        if done.verification.outcome == "inconclusive":
            why = done.verification.reason
            return run.report(
                "inconclusive",
                f"{_did(plan)}, and whether that helped could not be measured ({why})",
                next_step="make it measurable before anything else is tried",
            )
        failed.append(f"{_did(plan)}: {done.verification.reason}")
        if measure != "rollback" and _calls_for_a_step(done):
            run.diagnosis = done.diagnosis_after
            return await _step_down(run, seen)
    return _call_a_person(run, failed)


def _call_a_person(run: Run, failed: list[str]) -> Report:
    advice = run.diagnosis.advice if run.diagnosis else ""
    return run.report(
        "failed",
        f"nothing helped ({'; '.join(failed)}); the configuration is as it was before",
        next_step=f"a person must look now. {advice}",
    )


def _calls_for_a_step(done: Attempt) -> bool:
    """Whether the failed start shows a cause that a smaller configuration treats."""
    after = done.diagnosis_after
    return after is not None and "step-down" in course(after).measures


async def _step_down(run: Run, seen: Observation) -> Report:
    cause = run.diagnosis
    assert cause is not None  # noqa: S101 - the caller diagnosed
    if cause.label in UNSTABLE:
        rule, procedure = choose_for_crash(run, await crashes_of(run, seen)), "remediate-crash"
    else:
        rule, procedure = choose_for_memory(run), "remediate-oom"
    return await step_down(run, seen.config, cause, rule, procedure=procedure)


def _plan(run: Run, config: ServingConfig, measure: Measure, reason: str) -> Plan:
    evidence = run.diagnosis.evidence if run.diagnosis else ()
    expected = "the service answers and decodes"
    if measure == "rollback":
        earlier = _known_good(run, config)
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
        undo="nothing is to be put back: the numbers stay as they are",
    )


def _did(plan: Plan) -> str:
    words = {"restart": "restarted", "recreate": "recreated", "apply": "the last change went back"}
    return words[plan.how]
