"""What every remedy of a broken service begins with: is it broken, and may it be touched?"""

from collections.abc import Awaitable, Callable

from flows.holding import holding
from flows.planning import plan_only
from flows.report import Report
from flows.run import Run, observe
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
        if health.status == "healthy" and unstable and seen.state.restarts:
            return await unstable(run, seen)
        if health.status != "broken":
            return run.report("planned", f"nothing to do: {health.status}, {health.reason}")
        return await treat(run, seen)
    async with holding(run):
        seen, health = await observe(run)
        if health.status == "loading":
            # A slow start is not a failure: it is waited for, never cut short.
            waited = await verify(run.target, seen.config, stabilisation_s=0)
            if waited.outcome == "passed":
                after = f"{waited.total_s:.0f} s"
                return run.report(
                    "passed", f"no action: it was still starting, decoding after {after}"
                )
            # Up, silent and its time over is as good as broken: its log says why.
            seen, health = await observe(run)
        if health.status == "healthy":
            if unstable and seen.state.restarts:
                return await unstable(run, seen)
            return run.report("passed", f"no action: the service is healthy, {health.reason}")
        if health.status == "unknown":
            return run.report(
                "inconclusive",
                f"nothing was changed: {health.reason}",
                next_step="make what could not be measured measurable, then rerun",
            )
        return await treat(run, seen)
