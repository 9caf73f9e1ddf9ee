"""Align the proxy's limits with the servers behind it (handbook 004, "Token Limit Errors")."""

import asyncio

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from blocks.errors import RunbookError
from blocks.litellm_text import enforced, left_to_environment
from blocks.service import LitellmSource
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack
from flows.decisions.token_limits import (
    Misalignment,
    is_burst,
    misalignments,
    realigned,
    too_long,
)
from flows.holding import holding
from flows.planning import plan_only
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.routes import proxies_of, routes_of
from flows.run import Run, observe
from flows.serving_change import change_to

PROCEDURE = "align-token-limits"
EVERY = "*"


@flow(name="align-token-limits", flow_run_name="align-token-limits {stack} {service}")
async def align_token_limits(
    stack: str,
    service: str = EVERY,
    proxy: str = "",
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Set a LiteLLM proxy's max_input_tokens to 85-90 % of the context its servers have now.

    Reads max_model_len from each server that decodes, changes the proxy's config file in one
    step, restarts it, verifies that it answers with the new limits, undoes if not. A model whose
    server is not healthy keeps its limit. Handbook: Token Limit Errors.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: The vLLM server whose models are aligned, or * for every one.
        proxy: The LiteLLM proxy; may be left empty where the stack has one, or where one routes
            to the service.
        options: Dry run, approval, actor, source.
    """
    spec = await load_stack(stack)
    proxies = [proxy] if proxy else await _proxies(spec, service)
    if len(proxies) == 1:
        return state_of(
            await perform(PROCEDURE, stack, proxies[0], options, lambda run: _align(run, service))
        )
    fault = (
        f"stack {spec.name!r} has {len(proxies)} proxies; name one: proxy={proxies[0]}, for "
        f"instance (known: {', '.join(proxies)})"
        if proxies
        else f"stack {spec.name!r} has no LiteLLM proxy; add a service with engine: litellm and "
        "serving: {kind: litellm, path: its config file}"
    )
    if service == EVERY:
        return Failed(name="Failed", message=fault)

    async def refuse(run: Run) -> Report:
        return run.report("failed", fault)

    return state_of(await perform(PROCEDURE, stack, service, options, refuse))


async def align(run: Run, service: str = EVERY) -> Report:
    """Align the proxy that `run` is on; the caller holds it, unless the run only plans.

    Args:
        run: its target is the proxy.
        service: the server whose models are aligned, or * for every one.

    Raises:
        Unsafe: a guard refused, or the file changed meanwhile.
        Permanent: the proxy's file cannot be read or edited, or the undo failed.
    """
    source = run.target.service.serving
    if not isinstance(source, LitellmSource):
        return run.report("failed", _no_file(run), next_step=_DATABASE)
    routes = await routes_of(run.spec, run.target.name)
    if not routes:
        message = "its config file lists no model; nothing was changed"
        return run.report("failed", message, next_step=_DATABASE)
    chosen = {m: s for m, s in routes.items() if s and service in (EVERY, s)}
    if not chosen:
        known = ", ".join(sorted({s for s in routes.values() if s})) or "none"
        return run.report(
            "failed",
            f"no model of the proxy is routed to {service}; services behind it: {known}",
            next_step="name the service under `routes` of the proxy, or mend its api_base",
        )
    unknown = [m for m, s in routes.items() if s is None]
    if service == EVERY and unknown:
        run.notes.append(f"left alone, its backend is none of the stack's: {', '.join(unknown)}")
    asked = await _written(run, source, chosen)
    lengths = await _lengths(run, asked)
    if not lengths:
        return run.report(
            "inconclusive",
            "nothing was changed: no server behind it told its context",
            next_step="see the notes; a server that is down is brought up by remediate-outage",
        )
    return await _change(run, lengths, [m for m in asked if m not in lengths])


async def _change(run: Run, lengths: dict[str, int], left: list[str]) -> Report:
    seen, health = await observe(run)
    before = seen.config
    if health.status == "unknown":
        # Its verification could not succeed either: two restarts for nothing.
        return run.report(
            "inconclusive",
            f"nothing was changed: the proxy cannot be measured, {health.reason}",
            next_step="set api_key of the proxy, or wait until it is not throttled",
        )
    found = misalignments(before.limits, lengths, run.spec.token_limits)
    after = before.changed(limits=realigned(before.limits, found))
    for model, advice in too_long(after.limits, lengths).items():
        run.notes.append(f"{model}: {advice}")
    if not found:
        limits = {m: before.limits.get(f"{m}.max_input_tokens") for m in lengths}
        words = ", ".join(f"{m} {limits[m]} of {lengths[m]}" for m in lengths)
        if left:
            return run.report(
                "inconclusive",
                f"nothing was changed: {words} aligned already, {', '.join(left)} not known",
                next_step="bring the server behind it up (remediate-outage), then rerun",
            )
        return run.report("passed", f"no action: aligned already ({words})")
    return await change_to(run, before, after, reason=_reason(run, found))


async def _written(run: Run, source: LitellmSource, routes: dict[str, str]) -> dict[str, str]:
    """The models whose limit stands in the file; a note for each that has it from elsewhere."""
    if not await asyncio.to_thread(enforced, source):
        run.notes.append("router_settings.enable_pre_call_checks is not true: nothing is refused")
    elsewhere = await asyncio.to_thread(left_to_environment, source)
    fixed = [m for m in routes if f"{m}.max_input_tokens" in elsewhere]
    if fixed:
        run.notes.append(f"{', '.join(fixed)} left alone: max_input_tokens is an os.environ/NAME")
    return {m: s for m, s in routes.items() if m not in fixed}


async def _align(run: Run, service: str) -> Report:
    if plan_only(run):
        return await align(run, service)
    async with holding(run):
        return await align(run, service)


async def _proxies(spec: StackSpec, service: str) -> list[str]:
    """The only proxy of the stack, or those of several that route to the service."""
    known = [name for name, s in spec.services.items() if s.engine == "litellm"]
    if len(known) > 1 and service != EVERY:
        return await proxies_of(spec, service) or known
    return known


async def _lengths(run: Run, routes: dict[str, str]) -> dict[str, int]:
    """Model key -> live max_model_len of the server behind it; a note for each that has none."""
    names = sorted(set(routes.values()))
    read = dict(zip(names, await asyncio.gather(*(_length(run, n) for n in names)), strict=True))
    lengths: dict[str, int] = {}
    for name in names:
        models = [m for m, s in routes.items() if s == name]
        length = read[name]
        if isinstance(length, int):
            lengths |= dict.fromkeys(models, length)
        else:
            run.notes.append(f"{', '.join(models)} left alone: {name} is {length}")
    return lengths


async def _length(run: Run, name: str) -> int | str:
    """The context of one server, tokens, or why it is not known."""
    try:
        seen, health = await observe(run.on(name, PROCEDURE))
    except RunbookError as e:
        return f"unknown, {e}"
    if health.status != "healthy":
        return f"{health.status}, {health.reason}"
    length = seen.serving.max_model_len if seen.serving else None
    return length or "healthy, but tells no max_model_len"


def _reason(run: Run, found: list[Misalignment]) -> str:
    rule = run.spec.token_limits
    burst = any(is_burst(m.model, rule) for m in found)
    bounds = f"{rule.low * 100:g}-{rule.high * 100:g} %"
    bounds += f" (burst: to {rule.burst_high * 100:g} %)" if burst else ""
    words = "; ".join(m.summary() for m in found)
    return f"{words}: the proxy's limit belongs at {bounds} of the server's context"


def _no_file(run: Run) -> str:
    return (
        f"{run.target.name} has no config file in the inventory (serving.kind "
        f"{run.target.service.serving.kind}); nothing was changed"
    )


_DATABASE = (
    "name its file under `serving` ({kind: litellm, path: ...}); models kept in LiteLLM's database "
    "are changed there: PATCH /model/{id}/update with model_info.max_input_tokens"
)
