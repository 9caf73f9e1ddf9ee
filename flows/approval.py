"""A plan that waits for somebody: the run pauses, holds nothing, and looks again before it acts.

While it waits it has no lock of the service. Whoever resumes it (Slack, the command line, the
form of the Prefect UI) sends an `Approval`; the flow itself judges it, for only the flow knows
the plan, who asked for it, and that time has not run out. After an approval the procedure
begins anew: what was healed or changed meanwhile is seen, and another plan is another digest.
"""

import asyncio
import time
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from blocks.errors import Unsafe
from flows.decisions.access import no_approval
from flows.decisions.plan import Plan
from flows.decisions.words import span
from flows.lifecycle import NeedsApproval
from flows.record import plan_table
from flows.report import Source
from flows.run import Run

GRACE_S = 600
"""The server must not end the pause before the flow does: its state would not be ours, s."""
POLL_S = 1


class Approval(RunInput):
    """What somebody says to a plan."""

    decision: Literal["approve", "reject"] = Field(default="approve")
    digest: str = Field(description="The plan that is meant; of another one nothing is done.")
    actor: str = Field(default="", description="Your name, for the record.")
    source: Source = Field(default="ui", description="Where it is said; leave it as it is.")
    comment: str = Field(default="", max_length=500, description="For the record.")


def waits(run: Run, refused: NeedsApproval) -> bool:
    """Whether the run may wait for an approval instead of being refused.

    Not where nobody could give it (a run in the command's own process), nor where one was given
    for another plan: whoever gave it must see that it was refused. Only the next plan of a run
    whose approved one was tried and undone is asked for anew.
    """
    given = run.options.approval
    spent = given in {a.plan.digest for a in (*run.earlier, *run.attempts)}
    asked = refused.reason == "not-approved" or (bool(given) and spent)
    wanted = run.options.wait and run.spec.approval.timeout_s > 0
    return asked and wanted and bool(PREFECT_API_URL.value())


async def ask(run: Run, plan: Plan) -> None:
    """Wait until somebody approves the plan; it is then approved for this run.

    Raises:
        Unsafe: it was rejected, or nobody approved it in time.
    """
    limit, began = run.spec.approval.timeout_s, time.monotonic()
    try:
        while (left := limit - (time.monotonic() - began)) > 0:
            run.asked += 1
            given = await _pause(f"{plan.digest}-{run.asked}", plan, left)
            if given is None:
                break
            by = f"{given.actor or 'somebody'}, from {given.source}"
            said = f" ({given.comment})" if given.comment else ""
            if why := _refused(run, plan, given):
                run.notes.append(f"an answer of {by} did not count: {why}")
                get_run_logger().warning(run.notes[-1])
                continue
            if given.decision == "reject":
                raise Unsafe("not-approved", f"{by} rejected the plan {plan.digest}{said}")
            run.approver = by
            run.notes.append(f"{plan.digest} was approved by {by}{said}")
            run.options = run.options.model_copy(update={"approval": plan.digest})
            return
    finally:
        waited = time.monotonic() - began
        run.began += waited  # a person's time is not the procedure's
    run.notes.append(f"waited {span(waited)} for an approval")
    raise Unsafe("approval-expired", f"nobody approved the plan {plan.digest} within {span(limit)}")


def _refused(run: Run, plan: Plan, given: Approval) -> str:
    """Why an answer does not count; empty when it does."""
    if given.digest != plan.digest:
        return f"it is for the plan {given.digest[:20]!r}, this one is {plan.digest}"
    rule = run.spec.approval
    if given.decision == "reject":
        rule = rule.model_copy(update={"four_eyes": False})
    return no_approval(
        run.spec.people,
        rule,
        plan.procedure,
        by=given.actor,
        source=given.source,
        asked_by=run.options.actor,
    )


async def _pause(key: str, plan: Plan, left_s: float) -> Approval | None:
    """Pause the run; None when nobody answered in time."""
    form = Approval.with_initial_data(
        description=f"**{plan.procedure}** of **{plan.stack}/{plan.service}**\n\n"
        + plan_table(plan),
        digest=plan.digest,
    )
    try:
        async with asyncio.timeout(left_s):
            return await apause_flow_run(
                wait_for_input=form, timeout=int(left_s) + GRACE_S, poll_interval=POLL_S, key=key
            )
    except TimeoutError:
        return await _expired(key, plan.digest)
    except httpx.HTTPError as e:  # the server is away for longer than Prefect asks it
        get_run_logger().warning("the wait ended: no server (%s)", type(e).__name__)
        return await _expired(key, plan.digest)


async def _expired(key: str, digest: str) -> Approval | None:
    """Go on without an answer, unless one came at the last moment: the server lets one win."""
    from prefect.runtime import flow_run

    nobody: dict[str, Any] = {"decision": "reject", "digest": digest, "comment": "expired"}
    try:
        async with get_client() as client:
            done = await client.resume_flow_run(UUID(str(flow_run.id)), nobody)
        if done.status == SetStateStatus.ACCEPT:
            return None
        return await Approval.aload(keyset_from_base_key(f"paused-{key}"))
    except Exception:  # noqa: BLE001 - it never got to pause: no answer can have come
        return None
