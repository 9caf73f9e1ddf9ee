"""Answers to plans and incidents, for the commands and the buttons alike."""

import re
from datetime import UTC, datetime
from typing import Literal

from blocks.errors import RunbookError
from blocks.incidents import Acknowledged, Ended, Incident, add, read_incident
from blocks.slack_blocks import Mrkdwn, escape, section
from blocks.slack_card import read_card, thread
from deployments.approvals import Waiting, answer, waiting
from deployments.gateway.dispatch import prefect_errors
from deployments.gateway.slack_call import Call, log
from deployments.gateway.slack_reading import find_run, tags_of
from deployments.gateway.slack_words import Told, quoted
from deployments.gateway.state import record_fact
from flows.decisions.access import no_approval

Decision = Literal["approve", "reject"]


async def waiting_here(stack: str, run_id: str = "") -> list[Waiting]:
    """Runs of this stack that wait for an approval; with an id, that one.

    Raises:
        Transient: the Prefect server does not answer.
    """
    async with prefect_errors("approvals"):
        found = await waiting(stack)
    return [w for w in found if not run_id or w.run_id == run_id]


async def decide(call: Call, decision: Decision, run_text: str, digest: str) -> str:
    """Approve or reject the plan of a run of this stack; what to tell who answered, or nothing.

    Args:
        call: who answers, and on which stack: a run of another one is not found.
        decision: what they say.
        run_text: id of the run, or its beginning.
        digest: the plan that they saw.

    Raises:
        Permanent: no such run. Transient: the Prefect server does not answer.
    """
    what = f"{decision} {run_text[:40]} {digest[:40]}".strip()
    try:
        run = await find_run(call.spec.name, run_text)
    except RunbookError:
        if await call.permitted("approver", what=what):
            raise
        return ""
    run_id, procedure = str(run.id), tags_of(run).get("procedure", "")
    if not await call.permitted("approver", procedure, what):
        return ""
    for one in await waiting_here(call.spec.name, run_id):
        if decision == "approve" and (why := _no(call, one)):
            await record_fact("approval", {**_fact(call, decision, one.digest), "refused": why})
            return f"Your approval does not count: {escape(why)}."
    async with prefect_errors("the approval"):
        done = await answer(run_id, decision, actor=call.name, source="slack", digest=digest)
    fact = {**_fact(call, decision, digest), "run": run_id, "outcome": done.status}
    await record_fact("approval", fact)
    if done.status == "resumed":
        call.gateway.metrics.approvals.labels(decision).inc()
        again = "; the run looks again before it acts" if decision == "approve" else ""
        return f"You {escape(done.words)}{again}."
    said = {
        "not-waiting": "Nothing was done",
        "unknown-run": "Nothing was done",
        "other-plan": "Not approved" if decision == "approve" else "Not rejected",
    }[done.status]
    return f"{said}: {escape(done.words)}"


def _no(call: Call, one: Waiting) -> str:
    """Why the run would not take the approval; it judges again itself."""
    people, rule = call.spec.people, call.spec.approval
    return no_approval(
        people, rule, one.procedure, by=call.name, source="slack", asked_by=one.asked_by
    )


def _fact(call: Call, decision: str, digest: str) -> dict[str, str]:
    return {
        "stack": call.spec.name,
        "who": call.name,
        "slack": call.user,
        "source": "slack",
        "decision": decision,
        "digest": digest[:40],
    }


async def acknowledge(call: Call, text: str) -> str:
    """Take an incident of this stack, so that nobody else is woken; what to tell who did.

    Raises:
        Permanent: no such incident. Transient: the Prefect server does not answer.
    """
    found = await _incident(call.spec.name, text)
    incident = found.opened.id
    title = quoted(found.opened.title, 120)
    if found.ended:
        return f"{quoted(incident)} is over already ({found.ended.how}): {title}"
    fact = Acknowledged(by=call.name, source="slack", at=datetime.now(UTC))
    async with prefect_errors("the incident"):
        new = await add(incident, fact)
        now = await read_incident(incident)
    if not new:
        has = now.acknowledged.by if now and now.acknowledged else "somebody"
        return f"{quoted(incident)} is acknowledged already: {quoted(has, 60)} has it."
    await record_fact(
        "incident",
        {"stack": call.spec.name, "incident": incident, "what": "acknowledged", "by": call.name},
    )
    await _tell_thread(call, incident, f"{quoted(call.name, 60)} has it.")
    return f"You have {quoted(incident)}: {title}. Nobody else is woken."


async def close(call: Call, text: str) -> str:
    """End an incident of this stack by hand; what to tell who did.

    An alert that fires still is then nobody's: it neither starts nor calls anybody any more.

    Raises:
        Permanent: no such incident. Transient: the Prefect server does not answer.
    """
    found = await _incident(call.spec.name, text)
    incident = found.opened.id
    title = quoted(found.opened.title, 120)
    fact = Ended(by=call.name, how="closed", at=datetime.now(UTC))
    async with prefect_errors("the incident"):
        new = not found.ended and await add(incident, fact)
    if not new:
        how = found.ended.how if found.ended else "just now"
        return f"{quoted(incident)} is over already ({how}): {title}"
    await record_fact(
        "incident",
        {"stack": call.spec.name, "incident": incident, "what": "closed", "by": call.name},
    )
    await _tell_thread(call, incident, f"{quoted(call.name, 60)} closed it.")
    return f"{quoted(incident)} is closed: {title}. An alert that fires still starts nothing more."


async def _incident(stack: str, text: str) -> Incident:
    name = text.strip().strip("`").lower()
    if not re.fullmatch(r"[0-9a-f]{8}", name):
        raise Told(f"{quoted(text, 60)} is no incident: its id has 8 digits, 0-9 and a-f.")
    async with prefect_errors("incidents"):
        found = await read_incident(name)
    if found is None or found.opened.stack != stack:
        raise Told(f"There is no incident {quoted(name)} of {quoted(stack)}.")
    return found


async def _tell_thread(call: Call, incident: str, text: str) -> None:
    """Say it in the incident's thread; what was done holds without it too."""
    try:
        if ref := await read_card(incident):
            said = Mrkdwn(text)
            await thread(call.slack, ref, [section(said)], said)
    except (RunbookError, OSError) as e:
        log.warning("the thread of incident %s was not told: %s", incident, e)
