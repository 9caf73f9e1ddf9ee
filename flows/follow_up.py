"""After a service's context changed: the proxy in front of it must not let longer requests in."""

from blocks.errors import RunbookError
from flows.align_token_limits import PROCEDURE, align
from flows.holding import holding
from flows.routes import proxies_of
from flows.run import Run


async def align_after(run: Run) -> None:
    """Re-align every proxy that routes to this run's service, where its autonomy is `auto`.

    Otherwise, and where it fails, a note says what to run: the service's own change stands.
    Source: handbook 004, "Token Limit Errors".
    """
    for name in await proxies_of(run.spec, run.target.name):
        proxy = run.on(name, PROCEDURE)
        advice = f"run {PROCEDURE} --service {run.target.name}"
        if proxy.target.service.policy.autonomy_of(PROCEDURE) != "auto":
            run.notes.append(f"the limits of proxy {name} were left alone (autonomy); {advice}")
            continue
        try:
            async with holding(proxy):
                report = await align(proxy, run.target.name)
            run.notes.append(f"proxy {name}: {report.verdict}, {report.message}")
            run.notes += [f"proxy {name}: {note}" for note in report.notes]
        except RunbookError as e:
            run.notes.append(f"the limits of proxy {name} are not aligned: {e}; {advice}")
