"""The lifecycle of a change, proved on a stand-in server: hold, look, act, verify, undo."""

import asyncio

from prefect.concurrency.asyncio import concurrency

from tests.flows.conftest import Build


async def test_of_two_remediations_at_once_one_acts_and_the_other_is_locked(build: Build) -> None:
    scene = await build()
    reports = await asyncio.gather(scene.run("remediate-oom"), scene.run("remediate-oom"))
    assert sorted(r.verdict for r in reports) == ["blocked", "passed"]
    blocked = next(r for r in reports if r.verdict == "blocked")
    assert (blocked.blocked_by, blocked.attempts) == ("locked", ())
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
