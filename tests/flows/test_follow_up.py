"""After a step-down and after the way back up, the proxy's limits follow the context."""

from pathlib import Path

from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.scenarios import SERVICE
from deployments.staging import PROXY
from tests.flows.conftest import Build
from tests.flows.support import QUICK, Scene


async def behind_a_proxy(build: Build, **policy: str) -> tuple[Scene, Path]:
    """A server that died of its KV cache at 16384, and the file of the proxy in front of it."""
    scene = await build()
    limits = {"backend": SERVICE, "max_input_tokens": 14_000}
    burst = {"backend": SERVICE, "max_input_tokens": 15_000}
    proxy = scene.box.add_litellm(PROXY, {SERVICE: limits, f"{SERVICE}-burst": burst})
    scene.box.start(PROXY, ready_s=10)
    document = scene.spec.model_dump(mode="json")
    document["services"][PROXY] = {**proxy.fragment(), "policy": {**QUICK, **policy}}
    scene.spec = StackSpec.model_validate(document)
    await register(scene.spec)
    assert proxy.config
    return scene, proxy.config


async def test_a_step_down_takes_the_proxy_with_it_and_the_way_up_too(build: Build) -> None:
    scene, file = await behind_a_proxy(build)
    report = await scene.run("remediate-oom")
    assert report.verdict == "passed", report.message
    assert any(note.startswith(f"proxy {PROXY}: passed") for note in report.notes)
    assert "max_input_tokens: 7000" in file.read_text()
    assert "max_input_tokens: 7500" in file.read_text(), "the burst profile stays above"
    scene.fault(kv_kib_per_token=48)  # room again
    report = await scene.run("restore-context")
    assert report.verdict == "passed", report.message
    assert "max_input_tokens: 14000" in file.read_text()
    assert "max_input_tokens: 15000" in file.read_text()


async def test_a_proxy_that_asks_for_approval_is_named_not_touched(build: Build) -> None:
    scene, file = await behind_a_proxy(build, autonomy="approve")
    before = file.read_bytes()
    report = await scene.run("remediate-oom")
    assert report.verdict == "passed", report.message
    assert any("left alone (autonomy)" in note for note in report.notes)
    assert report.next_step == f"run align-token-limits --service {SERVICE}"
    assert file.read_bytes() == before
