"""Which incident an alert belongs to."""

from blocks.incidents import open_incident, open_incidents
from deployments.gateway.alert_runs import opened
from deployments.gateway.dispatch import prefect_errors
from deployments.gateway.inbox import Inbox
from deployments.gateway.inbox_rows import Row
from deployments.gateway.state import log


async def into_incident(inbox: Inbox, row: Row) -> tuple[Row, bool]:
    """The open incident on the service, or a new one; and whether it was open before.

    What is worse than an incident is one of its own: it has its own people to call.

    Raises:
        Transient: the Prefect server does not answer. Permanent: it refuses the incident.
    """
    if not row.service:
        return row, False
    async with prefect_errors("incidents"):
        there = await open_incidents(row.stack, row.service)
        mine = any(i.opened.id == row.incident for i in there)
        like = next((i for i in there if i.opened.severity <= row.severity), None)
        if like and not mine:
            return await inbox.update(row, member=like.opened.id), True
        if not mine and await open_incident(opened(row)):
            log.info("incident %s on %s/%s: %s", row.incident, row.stack, row.service, row.name)
    return await inbox.update(row, member=row.incident), False
