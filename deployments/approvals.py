"""Answers to the runs that wait for one, from the command line and from Slack."""

import asyncio
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus

from blocks.audit_log import AuditLog
from blocks.models import Frozen
from flows.report import Source

Decision = Literal["approve", "reject"]


class Waiting(Frozen):
    """A run that waits for an approval."""

    run_id: str
    procedure: str
    stack: str
    service: str
    digest: str
    asked_by: str
    incident: str = ""
    since: datetime | None = None
    expires: datetime | None = None
    """By then the server ends the wait; the run itself does earlier."""


class Answer(Frozen):
    """What came of an answer."""

    status: Literal["resumed", "not-waiting", "unknown-run", "other-plan"]
    words: str
    """For the person who answered."""


def _waiting(run: FlowRun) -> Waiting | None:
    state = run.state
    if state is None or state.type != StateType.PAUSED or not state.state_details.pause_key:
        return None
    tags = dict(tag.split(":", 1) for tag in run.tags if ":" in tag)
    return Waiting(
        run_id=str(run.id),
        procedure=tags.get("procedure", run.name),
        stack=tags.get("stack", ""),
        service=tags.get("service", ""),
        digest=state.state_details.pause_key.partition("-")[0],
        asked_by=tags.get("actor", "unknown"),
        incident=tags.get("incident", ""),
        since=state.timestamp,
        expires=state.state_details.pause_timeout,
    )


async def waiting(stack: str = "") -> list[Waiting]:
    """Runs that wait for an approval, the oldest first.

    Args:
        stack: of this stack only; empty: of every one.
    """
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
        tags=FlowRunFilterTags(all_=[f"stack:{stack}"]) if stack else None,
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=wanted, limit=200)
    found = [w for run in runs if (w := _waiting(run))]
    return sorted(found, key=lambda w: (w.since is None, w.since))


async def answer(
    run_id: str, decision: Decision, *, actor: str, source: Source, digest: str = ""
) -> Answer:
    """Approve or reject the plan that a run waits with.

    The run itself judges the answer: who may, four eyes, whether the plan still holds.

    Args:
        run_id: of the flow run, whole.
        decision: approve or reject.
        actor: who answers.
        source: from where.
        digest: the plan that is meant; empty: the one it waits with now.
    """
    given = await _answer(run_id, decision, actor, source, digest)
    if source != "slack":  # its gateway records clicks and commands, refused ones too
        record = {"run": run_id, "decision": decision, "actor": actor, "source": source}
        what = {**record, "plan": digest, "status": given.status, "said": given.words[:300]}
        await asyncio.to_thread(AuditLog().append, "approval", what)
    return given


async def _answer(
    run_id: str, decision: Decision, actor: str, source: Source, digest: str
) -> Answer:
    async with get_client() as client:
        run = await _read(client, run_id)
        if run is None:
            return Answer(status="unknown-run", words=f"there is no run {run_id[:40]}")
        waits = _waiting(run)
        if waits is None:
            return _late(run)
        if digest and digest != waits.digest:
            words = f"the run waits with another plan now ({waits.digest}): look at that one"
            return Answer(status="other-plan", words=words)
        given: dict[str, Any] = {"decision": decision, "digest": waits.digest}
        done = await client.resume_flow_run(run.id, {**given, "actor": actor, "source": source})
        if done.status == SetStateStatus.ACCEPT:
            said = "approved" if decision == "approve" else "rejected"
            return Answer(status="resumed", words=f"{said}: {waits.procedure} {waits.service}")
        # 200 is no yes: somebody was quicker, or the pause is a moment too young.
        again = await _read(client, run_id)
        if again and _waiting(again):
            reason = str(getattr(done.details, "reason", "") or "no reason given")
            words = f"the server did not take it ({reason[:200]}); try again"
            return Answer(status="not-waiting", words=words)
        return _late(again or run)


async def _read(client: PrefectClient, run_id: str) -> FlowRun | None:
    try:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id)]))
    except ValueError:
        return None
    return next(iter(await client.read_flow_runs(flow_run_filter=wanted)), None)


def _late(run: FlowRun) -> Answer:
    state = run.state
    if state and state.is_final():
        words = f"too late: the run ended {state.name}. {(state.message or '')[:300]}".strip()
    else:
        words = "the run does not wait: somebody has answered already, or it never asked"
    return Answer(status="not-waiting", words=words)


async def find(prefix: str) -> str:
    """The id of the one waiting run whose id begins so; the text itself when there is not one."""
    found = [w.run_id for w in await waiting() if w.run_id.startswith(prefix)]
    return found[0] if len(found) == 1 else prefix
