"""A LiteLLM proxy that answers errors: is it the proxy, or what is behind it?"""

import asyncio
import time

from blocks.errors import RunbookError
from flows.broken import Treatment, left_alone, settled
from flows.decisions.health import Health
from flows.holding import holding
from flows.planning import plan_only
from flows.report import Report
from flows.routes import routes_of
from flows.run import Run, observe
from tasks.reads import Observation

RESTS = "No deployments available"
COOL_DOWN_S = 70
"""How long a proxy rests a backend that failed: 5 s by default, 60 s in older versions."""


async def on_proxy(run: Run, dead: list[str], treat: Treatment) -> Report:
    """Treat the proxy only when everything behind it is known to be well.

    Its 429 "No deployments available" may mean a rate limit or a dead backend in cool-down
    (FACTS), so each backend is asked to decode before any verdict on the proxy.

    Args:
        run: of the proxy.
        dead: the backends that are down are added to it, for the caller to remedy.
        treat: called with what was seen of a proxy that is broken itself.
    """
    looks, strangers = await _backends(run)
    # One that loads is waited for by its own remedy; one that hangs before its API looks the same.
    down = {name: h for name, h in looks.items() if h.status in ("broken", "loading")}
    if down:
        dead += down
        words = "; ".join(f"{name}: {h.reason}" for name, h in down.items())
        return run.report(
            "failed",
            f"the proxy was left alone: {words}",
            next_step="the backend is remedied in this run, with a record of its own",
        )
    unsure = [f"{name}: {h.reason}" for name, h in looks.items() if h.status == "unknown"]
    unsure += [f"{model}: its backend is no service of this stack" for model in strangers]
    if plan_only(run):
        return await _judged(run, *await observe(run), unsure, treat)
    async with holding(run):
        seen, health = await settled(run)
        if not unsure:
            seen, health = await _cooled_down(run, seen, health)
        return await _judged(run, seen, health, unsure, treat)


async def _cooled_down(run: Run, seen: Observation, health: Health) -> tuple[Observation, Health]:
    """Every backend is well: a proxy that still rests one will soon send it requests again."""
    until = time.monotonic() + COOL_DOWN_S
    while health.status == "unknown" and RESTS in health.reason and time.monotonic() < until:
        await asyncio.sleep(run.target.service.policy.poll_s)
        seen, health = await observe(run)
    return seen, health


async def _judged(
    run: Run, seen: Observation, health: Health, unsure: list[str], treat: Treatment
) -> Report:
    if report := left_alone(run, health):
        return report
    if health.status == "loading" and plan_only(run):
        return run.report("planned", f"nothing to do yet: {health.reason}")
    if unsure and seen.state.phase not in ("exited", "missing", "restarting"):
        return run.report(
            "inconclusive",
            f"nothing was changed: {health.reason}; it may be what is behind it: "
            + "; ".join(unsure),
            next_step="make the backends measurable (routes, api_key), or restart it by hand",
        )
    return await treat(run, seen)


async def _backends(run: Run) -> tuple[dict[str, Health], list[str]]:
    """One look at every service that the proxy routes to, and the models of unknown backends."""
    routes = await routes_of(run.spec, run.target.name)
    names = sorted({name for name in routes.values() if name})
    looks = await asyncio.gather(*(_look(run, name) for name in names))
    return dict(zip(names, looks, strict=True)), [m for m, name in routes.items() if not name]


async def _look(run: Run, name: str) -> Health:
    try:
        return (await observe(run.on(name, run.procedure)))[1]
    except RunbookError as e:
        return Health(status="unknown", reason=str(e))
