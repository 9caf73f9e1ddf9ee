"""Latency spikes: fewer sequences at once, then less through the proxy (handbook 004)."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from blocks.errors import Permanent, RunbookError, Unsafe
from blocks.models import ServingConfig
from flows.decisions import latency
from flows.decisions.latency import Miss, Traffic, traffic_between
from flows.holding import holding
from flows.lifecycle import Proof, attempt
from flows.planning import make_plan, plan_only
from flows.procedure import perform, state_of
from flows.report import Attempt, Options, Report, Verification
from flows.routes import proxies_of, routes_of
from flows.run import Run, observe
from flows.verify import verify
from tasks.latency_reads import read_traffic

PROCEDURE = "remediate-latency"
Window = Annotated[
    float, Field(ge=1, le=3600, description="How long traffic is watched before and after, s.")
]


@flow(name=PROCEDURE, flow_run_name="remediate-latency {service}")
async def remediate_latency(
    stack: str,
    service: str,
    window_s: Window = 60,
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Bring the latency of a vLLM server back under its objective, and prove that it fell.

    Measures the requests that end within a window against the objectives of the inventory. Too
    slow: the next lower `max_num_seqs`, measured again under traffic; kept only when the latency
    clearly fell. Then the tokens per minute of its models in the proxy, a quarter less. What did
    not help is undone; without traffic nothing is measured, and nothing is changed.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: vLLM server in that stack.
        window_s: How long traffic is watched, before and after a change, seconds.
        options: Dry run, approval, actor, source.
    """
    return state_of(
        await perform(PROCEDURE, stack, service, options, lambda run: _remediate(run, window_s))
    )


async def _remediate(run: Run, window_s: float) -> Report:
    if not latency.objectives(run.target.service.slo):
        raise Permanent(
            f"{run.target.label} has no latency objective; set slo.p90_latency_s (or p95, p99)"
        )
    if plan_only(run):
        return await _decide(run, window_s)
    async with holding(run):
        return await _decide(run, window_s)


async def _decide(run: Run, window_s: float) -> Report:
    seen, health = await observe(run)
    if health.status != "healthy":
        return run.report(
            "inconclusive" if health.status in ("unknown", "loading") else "failed",
            f"nothing was changed: the service is {health.status}, {health.reason}",
            next_step="a server that does not answer is remediate-outage's business",
        )
    traffic = await _measure(run, window_s)
    if problem := latency.measured(traffic, run.target.service.slo):
        return run.report(
            "inconclusive",
            f"nothing was changed: {problem}",
            next_step="rerun while there is traffic, or with a longer window_s",
        )
    missed = latency.misses(traffic, run.target.service.slo)
    run.seen = _words(missed) or f"within its objectives over {traffic.finished} requests"
    if not missed:
        return run.report("passed", f"no action: {run.seen}")
    return await _fewer(run, seen.config, traffic, missed, window_s)


async def _measure(run: Run, window_s: float) -> Traffic:
    before, after = await read_traffic(run.target, window_s)
    return traffic_between(before, after, window_s)


async def _fewer(
    run: Run, config: ServingConfig, traffic: Traffic, missed: list[Miss], window_s: float
) -> Report:
    """Sequences down, rung by rung, as long as each rung helps."""
    while count := latency.fewer_sequences(config, run.target.service.ladder):
        if traffic.running is not None and traffic.running <= count:
            run.notes.append(f"max_num_seqs {count} would change nothing: {traffic.running} run")
            break
        plan = run.plan = make_plan(
            run,
            config,
            config.changed(max_num_seqs=count),
            reason=f"{_words(missed)}: fewer sequences at once make each of them faster",
            expected=f"{missed[0].name} falls",
            costs=f"At most {count} requests run at once; others wait. One restart.",
        )
        if plan_only(run):
            return run.report("planned", f"would change {plan.summary()}: {_words(missed)}")
        after: list[Miss] = []
        done = run.tried(plan) or await attempt(
            run, plan, proof=_proof(run, missed, after, window_s)
        )
        if not done.kept:
            if report := await _undone(run, config, done):
                return report
            break
        if not after:
            return run.report("passed", f"{plan.summary()}; {done.verification.reason}")
        config, missed = plan.after, after
    return await _through_the_proxy(run, missed, window_s)


async def _undone(run: Run, config: ServingConfig, done: Attempt) -> Report | None:
    """What ends the run after a change that did not help; None when the next one may be tried."""
    what, why = done.plan.summary(), done.verification.reason
    run.notes.append(f"{what}: {why}; {done.undo}")
    # The undo restarted it; whoever looks through the proxy must not see that.
    back = await verify(run.target, config, stabilisation_s=0)
    if back.outcome != "passed":
        return run.report(
            "failed",
            f"{what} did not help, and the service did not come back: {back.reason}",
            next_step="run remediate-outage now",
        )
    if done.verification.outcome == "inconclusive":
        return run.report(
            "inconclusive",
            f"whether {what} helps could not be measured ({why}); {done.undo}",
            next_step="rerun while there is traffic, or with a longer window_s",
        )
    return None


async def _through_the_proxy(run: Run, missed: list[Miss], window_s: float) -> Report:
    """Less traffic let in, for the models that this server serves."""
    for name in await proxies_of(run.spec, run.target.name):
        proxy = run.on(name, PROCEDURE)
        try:
            report, missed = await _less(run, proxy, missed, window_s)
        except RunbookError as e:
            if isinstance(e, Unsafe) and e.reason in ("not-approved", "approval-expired"):
                raise
            run.notes.append(f"proxy {name} was left alone: {e}")
            continue
        finally:
            run.attempts += proxy.attempts
            run.notes += proxy.notes
            run.first_act_s = run.first_act_s or proxy.first_act_s
        if report:
            return report
    return run.report(
        "failed",
        f"still too slow: {_words(missed)}",
        next_step="a person must look: another server, a smaller model, or less traffic",
    )


async def _less(
    run: Run, proxy: Run, missed: list[Miss], window_s: float
) -> tuple[Report | None, list[Miss]]:
    """One proxy: the report that ends the run, if any, and what is still missed."""
    name = proxy.target.name
    seen, health = await observe(proxy)
    routes = await routes_of(run.spec, name)
    models = {model for model, backend in routes.items() if backend == run.target.name}
    lower = latency.lower_tpm(seen.config.limits, models)
    if health.status != "healthy" or lower == seen.config.limits:
        run.notes.append(f"proxy {name} was left alone: {health.reason}, or no tpm to lower")
        return None, missed
    plan = run.plan = make_plan(
        proxy,
        seen.config,
        seen.config.changed(limits=lower),
        reason=f"{_words(missed)} with as few sequences as the ladder allows",
        expected="fewer tokens per minute reach the server",
        costs="Clients over the limit get 429 and must back off.",
    )
    if plan_only(run) or plan_only(proxy):
        return run.report("planned", f"would change {plan.summary()}: {_words(missed)}"), missed
    after: list[Miss] = []
    async with holding(proxy):
        done = proxy.tried(plan) or await attempt(
            proxy, plan, proof=_proof(run, missed, after, window_s)
        )
    if not done.kept:
        run.notes.append(f"proxy {name}: {done.verification.reason}; {done.undo}")
        return None, missed
    if after:
        run.notes.append(f"proxy {name}: kept, {done.verification.reason}")
        return None, after
    back = f"rollback-serving --service {name} puts it back"
    return run.report("passed", f"{plan.summary()}; {done.verification.reason}; {back}"), after


def _proof(run: Run, missed: list[Miss], after: list[Miss], window_s: float) -> Proof:
    """Did it fall? Measured under traffic; what is still missed is put into `after`."""

    async def prove(verified: Verification) -> Verification:
        traffic = await _measure(run, window_s)
        if problem := latency.measured(traffic, run.target.service.slo):
            return verified.model_copy(update={"outcome": "inconclusive", "reason": problem})
        after[:] = latency.misses(traffic, run.target.service.slo)
        if latency.helped(missed, after):
            now = _words(after) or "every objective is met"
            return verified.model_copy(update={"reason": f"{now} ({traffic.finished} requests)"})
        words = f"it did not help: {_words(after)}, was {_words(missed)}"
        return verified.model_copy(update={"outcome": "failed", "reason": words})

    return prove


def _words(missed: list[Miss]) -> str:
    return ", ".join(m.words() for m in missed)
