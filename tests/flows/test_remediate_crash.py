"""remediate-crash on a server that is up again between two crashes: how often decides."""

import asyncio
import contextlib

import httpx

from deployments.scenarios import SERVICE
from tests.flows.conftest import Build
from tests.flows.support import Scene

CRASH = "remediate-crash"
UNSTABLE = {"fp8_unstable_after": 40}
FP8 = {"kv_cache_dtype": "fp8"}


async def crash(scene: Scene, times: int) -> None:
    """Requests until it has died and come back so often."""
    url = scene.spec.services[SERVICE].url
    body = {"model": SERVICE, "prompt": "x", "max_tokens": 4}
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        for _ in range(1000):
            status = await asyncio.to_thread(scene.box.status, SERVICE)
            if status["restarts"] >= times:
                if await scene.health() == "healthy":
                    return
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(httpx.HTTPError):
                for _ in range(40):
                    await client.post(f"{url}/v1/completions", json=body)
            await asyncio.sleep(0.05)
    raise AssertionError(status)


async def test_one_crash_is_said_and_nothing_is_changed(build: Build) -> None:
    scene = await build(until="serving", serving=FP8, params=UNSTABLE, restart="on-failure:9")
    await crash(scene, 1)
    before = scene.snapshot()
    report = await scene.run(CRASH)
    assert report.verdict == "passed" and "shows 1 crash(es)" in report.message, report
    assert report.diagnosis and report.diagnosis.label == "cuda_illegal_access"
    assert scene.snapshot() == before


async def test_crashes_that_repeat_are_treated_while_it_is_up(build: Build) -> None:
    scene = await build(until="serving", serving=FP8, params=UNSTABLE, restart="on-failure:9")
    await crash(scene, 2)
    planned = await scene.run(CRASH, flags={"dry_run": True})
    assert planned.verdict == "planned" and planned.plan, planned
    assert planned.plan.changes["kv_cache_dtype"] == ("fp8", "auto")
    report = await scene.run(CRASH)
    assert report.verdict == "passed" and len(report.attempts) == 1, report
    assert scene.journal.degraded() is not None and await scene.health() == "healthy"


async def test_one_that_never_crashed_is_left_alone(build: Build) -> None:
    scene = await build(until="serving")
    before = scene.snapshot()
    report = await scene.run(CRASH)
    assert report.verdict == "passed" and "no action" in report.message
    assert scene.snapshot() == before
