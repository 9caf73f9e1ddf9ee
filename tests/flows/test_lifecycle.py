"""The lifecycle of a change, proved on a stand-in server: hold, look, act, verify, undo."""

import asyncio

import pytest
from prefect.concurrency.asyncio import concurrency

from tests.flows.conftest import Build
from tests.flows.support import until


async def test_of_two_remediations_at_once_one_acts_and_the_other_is_locked(build: Build) -> None:
    scene = await build(policy={"stabilisation_s": 3})
    first = asyncio.create_task(scene.run("remediate-oom"))
    await until(scene.journal.entry)
    second = await scene.run("remediate-oom")
    assert (second.verdict, second.blocked_by, second.attempts) == ("blocked", "locked", ())
    assert (await first).verdict == "passed"
    assert len(scene.journal.acts()) == 1
    assert await scene.health() == "healthy"


async def test_a_holder_on_another_host_is_seen_through_prefect(build: Build) -> None:
    scene = await build()
    before = scene.snapshot()
    async with concurrency(scene.lock, strict=True, lease_duration=60):
        report = await scene.run("remediate-oom")
    assert (report.verdict, report.blocked_by) == ("blocked", "locked")
    assert scene.snapshot() == before
    assert (await scene.run("remediate-oom")).verdict == "passed"


async def test_a_holder_on_this_host_is_seen_without_prefect(build: Build) -> None:
    scene = await build()
    before = scene.snapshot()
    with scene.journal.held():
        report = await scene.run("remediate-oom")
    assert (report.verdict, report.blocked_by) == ("blocked", "locked")
    assert scene.snapshot() == before


async def test_a_service_that_recovered_meanwhile_is_left_alone(build: Build) -> None:
    scene = await build(until="serving")
    before = scene.snapshot()
    report = await scene.run("remediate-oom")
    assert report.verdict == "passed"
    assert "no action" in report.message and "healthy" in report.message
    assert scene.snapshot() == before


async def test_a_frozen_engine_is_not_healthy_although_it_answers_200(build: Build) -> None:
    scene = await build(until="serving")
    scene.fault(frozen=True)
    before = scene.snapshot()
    report = await scene.run("remediate-oom")
    assert report.verdict == "failed"
    assert "up but not decoding" in report.seen
    assert scene.snapshot() == before


async def test_a_server_that_freezes_after_a_change_gets_its_old_config_back(build: Build) -> None:
    scene = await build(until="serving", policy={"stabilisation_s": 5})
    before = scene.config.read_bytes()
    run = asyncio.create_task(scene.run("apply-serving", change={"max_model_len": 4096}))
    await until(lambda: scene.config.read_bytes() != before)
    scene.fault(frozen=True)
    report = await run
    assert report.verdict == "failed"
    assert "not decoding" in report.message and "undone" in report.message
    scene.as_before(before)
    assert scene.pid
    scene.fault(frozen=None)
    assert await scene.health() == "healthy"


@pytest.mark.parametrize(
    ("faults", "policy", "reason"),
    [
        ({"slow_start_s": 600}, {"start_timeout_s": 2}, "not up after"),
        ({"served_max_model_len": 8191}, {}, "serves max_model_len 8191, expected 4096"),
        ({"crash_after": 3}, {"stabilisation_s": 5}, "answered 500, no token"),
        ({"model_missing": True}, {}, "exited"),
    ],
    ids=["never-up", "wrong-length", "crash-while-watched", "crash-at-start"],
)
async def test_what_does_not_prove_itself_is_undone(
    build: Build, faults: dict, policy: dict, reason: str
) -> None:
    scene = await build(until="serving", policy=policy)
    before, first = scene.config.read_bytes(), scene.pid
    scene.fault(**faults)
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert report.verdict == "failed"
    assert reason in report.attempts[0].verification.reason
    scene.as_before(before)
    scene.box.fault("wintermute", clear=True)
    scene.box.restart("wintermute", ready_s=10)
    assert scene.pid != first
    assert await scene.health() == "healthy"


async def test_a_service_that_was_down_is_down_again_after_the_undo(build: Build) -> None:
    scene = await build()
    before = scene.config.read_bytes()
    scene.fault(model_missing=True)
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert report.verdict == "failed"
    scene.as_before(before)
    assert scene.pid is None


async def test_a_config_edited_after_the_plan_was_made_is_not_overwritten(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build(until="serving")
    pid = scene.pid

    def somebody_edits(*_: object, **__: object) -> None:
        scene.config.write_bytes(scene.config.read_bytes().replace(b"8192", b"6144"))

    monkeypatch.setattr("flows.lifecycle.guarded", somebody_edits)
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert (report.verdict, report.blocked_by) == ("blocked", "drifted")
    assert b"6144" in scene.config.read_bytes()
    assert scene.pid == pid
    assert scene.journal.entry() is None
