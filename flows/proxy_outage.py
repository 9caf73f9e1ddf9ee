"""A LiteLLM proxy that answers errors: is it the proxy, or what is behind it?"""

import asyncio

from flows.broken import Treatment
from flows.decisions.health import Health
from flows.holding import holding
from flows.planning import plan_only
from flows.report import Report
from flows.routes import routes_of
from flows.run import Run, observe


async def on_proxy(run: Run, dead: list[str], treat: Treatment) -> Report:
    """Treat the proxy only when everything behind it is well.

    Its 429 "No deployments available" may mean a rate limit or a dead backend in cool-down
    (FACTS), so each backend is asked to decode before any verdict on the proxy.

    Args:
        run: of the proxy.
        dead: the broken backends are added to it, for the caller to remedy.
        treat: called with what was seen of a proxy that is broken itself.
    """
    seen, health = await observe(run)
    looks = await _backends(run)
    broken = {name: h for name, h in looks.items() if h.status == "broken"}
    if broken:
        dead += broken
        words = "; ".join(f"{name}: {h.reason}" for name, h in broken.items())
        return run.report(
            "failed",
            f"the proxy was left alone: {words}",
            next_step="the backend is remedied in this run, with a record of its own",
        )
    if health.status == "healthy":
        return run.report("passed", f"no action: the proxy is healthy, {health.reason}")
    if health.status == "unknown":
        well = ", ".join(looks) or "none known"
        return run.report(
            "inconclusive",
            f"nothing was changed: {health.reason} (backends asked: {well})",
            next_step="throttling passes by itself; a key that is refused is api_key of this proxy",
        )
    if plan_only(run):
        return await treat(run, seen)
    async with holding(run):
        seen, health = await observe(run)
        if health.status == "healthy":
            return run.report("passed", f"no action: it recovered meanwhile, {health.reason}")
        return await treat(run, seen)


async def _backends(run: Run) -> dict[str, Health]:
    """One look at every service of the stack that the proxy routes to."""
    names = sorted({n for n in (await routes_of(run.spec, run.target.name)).values() if n})
    looks = await asyncio.gather(*(observe(run.on(name, run.procedure)) for name in names))
    return {name: health for name, (_, health) in zip(names, looks, strict=True)}
