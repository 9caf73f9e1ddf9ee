"""remediate-latency on the sandbox: measured under traffic, kept only when it helped."""

from contextlib import AbstractAsyncContextManager

from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.scenarios import SERVICE, load_one
from deployments.staging import PROXY, traffic
from tests.flows.conftest import Build
from tests.flows.support import QUICK, Scene

LATENCY = "remediate-latency"


def clients(scene: Scene, count: int) -> AbstractAsyncContextManager[None]:
    scenario = load_one("latency-spike")
    trigger = scenario.trigger.model_copy(update={"traffic": count})
    return traffic(scenario.model_copy(update={"trigger": trigger}), scene.box)


async def slow(build: Build) -> Scene:
    """A server whose latency does not depend on how many sequences run at once."""
    scene = await build(until="serving", serving={"max_num_seqs": 8}, params={"tokens_per_s": 40})
    await scene.edit(service={"slo": {"p90_latency_s": 0.3}, "ladder": {"max_num_seqs": [8, 2]}})
    return scene


async def test_without_an_objective_there_is_nothing_to_hold_it_against(build: Build) -> None:
    scene = await build(until="serving")
    report = await scene.run(LATENCY, window_s=1)
    assert report.verdict == "error" and "slo.p90_latency_s" in report.message


async def test_without_traffic_nothing_is_measured_and_nothing_changed(build: Build) -> None:
    scene = await slow(build)
    was = scene.snapshot()
    report = await scene.run(LATENCY, window_s=1)
    assert report.verdict == "inconclusive" and "no request ended" in report.message
    assert scene.snapshot() == was


async def test_what_does_not_help_is_undone_at_the_server_and_at_the_proxy(build: Build) -> None:
    scene = await slow(build)
    limits = {"backend": SERVICE, "max_input_tokens": 7000, "tpm": 120_000}
    proxy = scene.box.add_litellm(PROXY, {SERVICE: limits})
    scene.box.start(PROXY, ready_s=10)
    document = scene.spec.model_dump(mode="json")
    document["services"][PROXY] = {**proxy.fragment(), "policy": QUICK}
    scene.spec = StackSpec.model_validate(document)
    await register(scene.spec)
    assert proxy.config
    before, limited = scene.config.read_bytes(), proxy.config.read_bytes()
    async with clients(scene, 4):
        report = await scene.run(LATENCY, window_s=4)
    assert report.verdict == "failed", report.message
    assert report.message.startswith("still too slow"), report.notes
    assert len(report.attempts) == 2, report.notes
    assert [list(a.plan.changes) for a in report.attempts] == [
        ["max_num_seqs"],
        [f"{SERVICE}.tpm"],
    ]
    assert not any(a.kept for a in report.attempts)
    scene.as_before(before)
    assert proxy.config.read_bytes() == limited


async def test_a_service_within_its_objective_is_left_alone(build: Build) -> None:
    scene = await slow(build)
    await scene.edit(service={"slo": {"p90_latency_s": 30}})
    was = scene.snapshot()
    async with clients(scene, 2):
        report = await scene.run(LATENCY, window_s=2)
    assert report.verdict == "passed" and "no action" in report.message
    assert scene.snapshot() == was
