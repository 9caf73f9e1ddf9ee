"""What every remedy of a broken service begins with: is it broken, and may it be touched?"""

from collections.abc import Awaitable, Callable

from flows.decisions.health import Health
from flows.holding import holding
from flows.planning import plan_only
from flows.report import Report
from flows.run import Run, examine, observe
from flows.verify import verify
from tasks.reads import Observation

Treatment = Callable[[Run, Observation], Awaitable[Report]]


async def on_broken(run: Run, treat: Treatment, *, unstable: Treatment | None = None) -> Report:
    """Treat the service if it is broken; leave a healthy, loading or unmeasured one alone.

    Args:
        run: whose service it is.
        treat: called with what was seen of a broken service.
        unstable: called for a healthy one that restarted by itself; without it such a service
            is left alone.
    """
    if plan_only(run):
        seen, health = await observe(run)
        if health.status == "loading":
            return run.report("planned", f"nothing to do yet: {health.reason}")
        return await _judged(run, seen, health, treat, unstable)
    async with holding(run):
        return await _judged(run, *await settled(run), treat, unstable)


async def settled(run: Run) -> tuple[Observation, Health]:
    """A look at the service once it has ended loading; the caller holds it.

    A slow start is not a failure: it is waited for, never cut short. What is up, silent and
    over its time still is `loading` then, which is as good as broken: its log says why.
    """
    seen, health = await observe(run)
    if health.status != "loading":
        return seen, health
    waited = await verify(run.target, seen.config, stabilisation_s=0, restarts=seen.state.restarts)
    if waited.outcome == "passed":
        words = f"it was still starting, decoding after {waited.total_s:.0f} s"
        return seen, Health(status="healthy", reason=words)
    return await observe(run)


async def diagnosed(run: Run, seen: Observation) -> Report | None:
    """Diagnose the service, and look again before anything is done to it.

    Returns:
        The report that ends the run when it is well or not measurable by now: reading the log of
        a looping start takes a while, and one slow token is no outage.
    """
    run.diagnosis = await examine(run, seen)
    return left_alone(run, (await observe(run))[1])


def left_alone(run: Run, health: Health) -> Report | None:
    """The report on a service that is not to be touched; None for one that is broken."""
    if health.status == "healthy":
        if plan_only(run):
            return run.report("planned", f"nothing to do: healthy, {health.reason}")
        return run.report("passed", f"no action: the service is healthy, {health.reason}")
    if health.status == "unknown":
        return run.report(
            "inconclusive",
            f"nothing was changed: {health.reason}",
            next_step="make what could not be measured measurable, then rerun",
        )
    return None


async def _judged(
    run: Run, seen: Observation, health: Health, treat: Treatment, unstable: Treatment | None
) -> Report:
    if health.status == "healthy" and unstable and seen.state.restarts:
        return await unstable(run, seen)
    return left_alone(run, health) or await treat(run, seen)
