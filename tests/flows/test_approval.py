"""A run that needs an approval waits for it, holds nothing meanwhile, and looks again."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.responses import SetStateStatus

from deployments.approvals import Waiting, answer, find, waiting
from flows.report import Report
from tests.flows.conftest import Build
from tests.flows.support import SERVICE, Scene

OOM = "remediate-oom"
ASK = {"policy": {"autonomy": "approve"}}
WAIT = {"wait": True}


async def asked(scene: Scene) -> Waiting:
    """The run of this stack, once it waits."""
    for _ in range(600):
        if found := await waiting(scene.spec.name):
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError("no run waits")


async def begin(scene: Scene, procedure: str = OOM, **flags: Any) -> tuple[Any, Waiting]:
    run = asyncio.create_task(scene.run(procedure, flags={**WAIT, **flags}))
    return run, await asked(scene)


async def slots(scene: Scene) -> int:
    async with get_client() as client:
        found = await client.read_global_concurrency_limit_by_name(scene.lock)
    return found.active_slots


async def test_it_waits_without_a_lock_and_acts_once_approved(build: Build) -> None:
    scene = await build(**ASK)
    before = scene.snapshot()
    run, waits = await begin(scene)
    assert (waits.procedure, waits.service, waits.asked_by) == (OOM, SERVICE, "ada")
    assert scene.snapshot() == before and await slots(scene) == 0
    assert await find(waits.run_id[:8]) == waits.run_id
    given = await answer(waits.run_id, "approve", actor="eve", source="slack", digest=waits.digest)
    assert given.status == "resumed", given
    report: Report = await run
    assert (report.verdict, report.approver) == ("passed", "eve, from slack"), report
    assert report.plan and report.plan.digest == waits.digest
    assert await scene.health() == "healthy"
    late = await answer(waits.run_id, "approve", actor="bob", source="slack")
    assert late.status == "not-waiting" and "too late: the run ended Passed" in late.words


async def test_rejected(build: Build) -> None:
    scene = await build(**ASK)
    before = scene.snapshot()
    run, waits = await begin(scene)
    assert (await answer(waits.run_id, "reject", actor="eve", source="cli")).status == "resumed"
    report = await run
    assert (report.verdict, report.blocked_by) == ("blocked", "not-approved")
    assert "eve, from cli rejected" in report.message and scene.snapshot() == before


async def test_nobody_answers(build: Build) -> None:
    scene = await build(**ASK)
    await scene.edit(approval={"timeout_s": 2})
    before = scene.snapshot()
    state = await scene.state(OOM, flags=WAIT)
    assert (state.name, state.type.value) == ("Blocked", "FAILED")
    report = await state.result(raise_on_failure=False)
    assert (report.verdict, report.blocked_by) == ("blocked", "approval-expired"), report
    assert "within 2 s" in report.message and scene.snapshot() == before
    late = await answer(report.run_id, "approve", actor="eve", source="slack")
    assert late.status == "not-waiting" and "too late" in late.words


async def test_what_drifted_while_it_waited_is_not_acted_on(build: Build) -> None:
    scene = await build(**ASK)
    run, waits = await begin(scene)
    text = scene.config.read_text()
    assert "16384" in text
    scene.config.write_text(text.replace("16384", "15000"))
    await answer(waits.run_id, "approve", actor="eve", source="slack")
    report = await run
    assert (report.verdict, report.blocked_by) == ("blocked", "approval-expired"), report
    assert report.plan and report.plan.digest != waits.digest
    assert "15000" in scene.config.read_text() and not report.attempts


async def test_what_was_healed_while_it_waited_is_left_alone(build: Build) -> None:
    scene = await build(**ASK)
    run, waits = await begin(scene)
    scene.config.write_text(scene.config.read_text().replace("16384", "8192"))
    await asyncio.to_thread(scene.box.restart, SERVICE)
    for _ in range(300):
        if await scene.health() == "healthy":
            break
        await asyncio.sleep(0.1)
    pid = scene.pid
    await answer(waits.run_id, "approve", actor="eve", source="slack")
    report = await run
    assert report.verdict == "passed" and "no action" in report.message, report
    assert scene.pid == pid and not report.attempts


async def test_two_approve_at_once_and_one_act_is_done(build: Build) -> None:
    scene = await build(**ASK)
    run, waits = await begin(scene)
    both = await asyncio.gather(
        *(answer(waits.run_id, "approve", actor=who, source="slack") for who in ("eve", "bob"))
    )
    assert sorted(a.status for a in both) == ["not-waiting", "resumed"], both
    report = await run
    assert report.verdict == "passed" and len(report.attempts) == 1


PEOPLE = {
    "people": {
        "members": {"eve": {"shell": ["e.adams"]}},
        "groups": {"leads": "S1"},
        "roles": {"approver": ["eve", "leads"]},
    }
}


async def test_only_an_approver_counts_and_four_eyes_are_two_people(build: Build) -> None:
    scene = await build(**ASK)
    await scene.edit(approval={"four_eyes": True}, **PEOPLE)
    run, waits = await begin(scene, actor="e.adams@desk")
    for actor, source in (("bob", "cli"), ("", "ui"), ("eve", "slack")):
        given = await answer(waits.run_id, "approve", actor=actor, source=source)  # type: ignore[arg-type]
        assert given.status == "resumed", given
        waits = await asked(scene)  # it waits on
    assert waits.digest == (await asked(scene)).digest
    await answer(waits.run_id, "approve", actor="carl", source="slack")  # Slack checked his group
    report = await run
    assert (report.verdict, report.approver) == ("passed", "carl, from slack"), report
    said = "\n".join(report.notes)
    assert "bob is no approver" in said and "has no name" in said and "four_eyes" in said
    await scene.edit(approval={"four_eyes": True}, **PEOPLE)
    own = await scene.run(OOM, flags={"approval": "yes", "actor": "eve"})
    assert own.verdict == "passed" and "no action" in own.message


async def test_an_approval_that_comes_with_the_run_is_judged_as_well(build: Build) -> None:
    scene = await build(**ASK)
    await scene.edit(**PEOPLE)
    report = await scene.run(OOM, flags={"approval": "yes", "actor": "bob@desk"})
    assert (report.verdict, report.blocked_by) == ("blocked", "not-authorised")
    assert "bob is no approver" in report.message and not report.attempts
    report = await scene.run(OOM, flags={"approval": "yes", "actor": "eve@desk"})
    assert report.verdict == "passed"


async def test_the_next_step_of_a_run_is_asked_for_anew(build: Build) -> None:
    """The first rung is approved and does not fit; the second one is another plan."""
    scene = await build(**ASK)
    await scene.edit(service={"ladder": {"max_model_len": [16384, 10240, 6144]}})
    scene.fault(weights_gib=9.6)  # somebody took of the card since the estimate was printed
    run, first = await begin(scene)
    await answer(first.run_id, "approve", actor="eve", source="slack")

    async def second() -> Waiting | None:
        return next((w for w in await waiting(scene.spec.name) if w.digest != first.digest), None)

    for _ in range(600):
        if found := await second():
            break
        await asyncio.sleep(0.1)
    assert found, "it did not ask for the second step"
    await answer(found.run_id, "approve", actor="bob", source="slack")
    report = await run
    assert report.verdict == "passed" and len(report.attempts) == 2, report


async def test_the_form_of_the_ui_and_a_wrong_digest(build: Build, prefect_server: Any) -> None:
    scene = await build(**ASK)
    run, waits = await begin(scene)
    other = await answer(waits.run_id, "approve", actor="e", source="ui", digest="0" * 12)
    assert other.status == "other-plan" and waits.digest in other.words
    async with get_client() as client:
        # The server takes what fits the form; the run judges what it says.
        body = {"decision": "approve", "digest": "0" * 12}
        done = await client.resume_flow_run(UUID(waits.run_id), body)
        assert done.status == SetStateStatus.ACCEPT
        again = await asked(scene)
        wrong = await client.resume_flow_run(UUID(waits.run_id), {"decision": "maybe"})
        assert wrong.status == SetStateStatus.REJECT
        key = f"paused-{waits.digest}-2-schema"
        form = await client._client.get(f"/flow_runs/{again.run_id}/input/{key}")
        assert waits.digest in form.text  # prefilled
    await answer(again.run_id, "approve", actor="", source="ui")
    report = await run
    assert report.verdict == "passed" and report.approver == "somebody, from ui"


@pytest.mark.parametrize("run_id", ["nonsense", "", "00000000-0000-0000-0000-000000000000"])
async def test_no_such_run(prefect_server: Any, run_id: str) -> None:
    assert (await answer(run_id, "approve", actor="e", source="cli")).status == "unknown-run"
