"""After a service's context changed: the proxy in front of it must not let longer requests in."""

from blocks.errors import RunbookError
from blocks.models import Frozen
from flows.align_token_limits import PROCEDURE, align
from flows.holding import holding
from flows.routes import proxies_of, unreadable
from flows.run import Run


class FollowUp(Frozen):
    """What came of the proxies."""

    advice: str = ""
    """What a person should do; empty when nothing."""
    broken: str = ""
    """The proxy that this run left worse than it was, and how; empty when none."""


async def align_after(run: Run) -> FollowUp:
    """Re-align every proxy that routes to this run's service, where its autonomy is `auto`.

    The service's own change stands whatever comes of it. Source: handbook 004, "Token Limit
    Errors".
    """
    advice, broken = "", ""
    rerun = f"run {PROCEDURE} --service {run.target.name}"
    for name, why in (await unreadable(run.spec)).items():
        run.notes.append(f"proxy {name} could not be looked at: {why}")
        advice = rerun
    for name in await proxies_of(run.spec, run.target.name):
        proxy = run.on(name, PROCEDURE)
        if proxy.target.service.policy.autonomy_of(PROCEDURE) != "auto":
            run.notes.append(f"the limits of proxy {name} were left alone (autonomy)")
            advice = rerun
            continue
        try:
            async with holding(proxy):
                report = await align(proxy, run.target.name)
            run.notes.append(f"proxy {name}: {report.verdict}, {report.message}")
            advice = advice if report.verdict == "passed" else rerun
        except RunbookError as e:
            run.notes.append(f"the limits of proxy {name} are not aligned: {e}")
            advice = rerun
            broken = f"{name}: {e}" if proxy.journal.entry() else broken
        run.notes += [f"proxy {name}: {note}" for note in proxy.notes]
    return FollowUp(advice=advice, broken=broken)
