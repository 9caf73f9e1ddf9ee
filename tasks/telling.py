"""Tasks that reach people. A second page is better than none: all of them may be repeated."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from blocks import notify, pagerduty
from blocks.escalation import PagerDutySpec
from blocks.pagerduty import Action, Page
from tasks.reads import is_transient


@task(
    name="send-page",
    task_run_name="{action} in PagerDuty",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 5],
    timeout_seconds=90,
    retry_condition_fn=is_transient,
)
async def send_page(spec: PagerDutySpec, action: Action, page: Page, role: str) -> None:
    """One event of an alert; its key makes it the same alert however often it is sent.

    Raises:
        Transient: PagerDuty does not answer. Permanent: it refuses the event.
    """
    await pagerduty.send(spec, action, page, role)


@task(
    name="send-notice",
    task_run_name="tell {way}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=2,
    timeout_seconds=90,
    retry_condition_fn=is_transient,
)
async def send_notice(way: str, ref: str, title: str, body: str, email: str) -> None:
    """One message by a way of the inventory.

    Raises:
        Transient: it was not taken. Permanent: its URL is missing or refused.
    """
    await notify.notify(way, ref, title, body, email=email)
