"""The record of a check: Slack, event, data and two pages. None of them changes the verdict."""

from prefect.logging import get_run_logger

from blocks.slack_workspace import SlackSpec
from flows.platform_page import page, slack_message, whole
from flows.platform_report import PlatformReport
from tasks.records import attempted, publish_artifact, publish_event, publish_slack


async def publish(
    report: PlatformReport, slack: SlackSpec | None, *, tell: bool = True
) -> PlatformReport:
    """Publish the record everywhere; returns it with a note for whatever could not be.

    Args:
        report: what was found.
        slack: where people are told; None: nowhere.
        tell: False: no message to people, as for a dry run.
    """
    log = get_run_logger()
    (log.info if report.verdict == "passed" else log.warning)(report.headline)
    problems = []
    if slack and tell:
        title, body = slack_message(report)
        problem = await attempted("Slack", lambda: publish_slack(slack, title, body, None))
        problems.append(problem or f"told {slack.channel} on Slack")
    elif tell and report.verdict == "error":
        problems.append("nobody was told: its inventory cannot be read, nor whom to tell")
    elif tell and report.verdict != "passed":
        problems.append("nobody was told: the stack has no slack section")
    report = _with(report, problems)
    name, data = report.procedure, report.model_dump(mode="json")
    payload = {"run_id": report.run_id, "message": report.message, "actor": report.actor}
    return _with(
        report,
        [
            await attempted(
                "event",
                lambda: publish_event(
                    f"runbooks.{name}.{report.verdict}",
                    f"runbooks.stack.{report.stack}",
                    payload,
                ),
            ),
            await attempted(
                "data", lambda: publish_artifact(f"{name}-data", data, report.headline)
            ),
            await attempted(
                "findings",
                lambda: publish_artifact(f"{name}-findings", whole(report), report.headline),
            ),
            await attempted(
                "record", lambda: publish_artifact(f"{name}-record", page(report), report.headline)
            ),
        ],
    )


def _with(report: PlatformReport, notes: list[str]) -> PlatformReport:
    return report.model_copy(update={"notes": report.notes + tuple(n for n in notes if n)})
