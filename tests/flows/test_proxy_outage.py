"""remediate-outage on a LiteLLM proxy: its own fault, its backend's, or nobody knows."""

import os
import signal
from pathlib import Path
from typing import Any

from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.scenarios import SERVICE
from deployments.staging import PROXY
from tests.flows.conftest import Build
from tests.flows.support import QUICK, Scene

OUTAGE = "remediate-outage"


async def behind_a_proxy(build: Build, **model: Any) -> tuple[Scene, Any]:
    scene = await build(until="serving")
    proxy = scene.box.add_litellm(PROXY, {SERVICE: {"backend": SERVICE, **model}})
    scene.box.start(PROXY, ready_s=10)
    document = scene.spec.model_dump(mode="json")
    document["services"][PROXY] = {**proxy.fragment(), "policy": QUICK}
    scene.spec = StackSpec.model_validate(document)
    await register(scene.spec)
    return scene, proxy


def pid(scene: Scene) -> int:
    return int(scene.box.status(PROXY)["pid"])


async def test_a_proxy_that_is_down_is_started(build: Build) -> None:
    scene, _ = await behind_a_proxy(build)
    os.kill(pid(scene), signal.SIGTERM)
    scene.box.wait_exited(PROXY)
    server = scene.pid
    report = await scene.run(OUTAGE, service=PROXY)
    assert report.verdict == "passed", report.message
    assert report.service == PROXY and report.message.startswith("restarted")
    assert scene.pid == server, "the server behind it was left alone"


async def test_a_proxy_that_answers_500_before_a_healthy_server_is_its_own_fault(
    build: Build,
) -> None:
    scene, _ = await behind_a_proxy(build)
    scene.box.fault(PROXY, status_5xx=True)  # a restart does not end it
    was = pid(scene)
    report = await scene.run(OUTAGE, service=PROXY)
    assert report.verdict == "failed" and "nothing helped" in report.message
    assert [a.plan.how for a in report.attempts] == ["restart"]
    assert pid(scene) != was


async def test_a_proxy_whose_backend_nobody_knows_is_not_restarted(build: Build) -> None:
    scene, proxy = await behind_a_proxy(build)
    file = Path(proxy.config)
    file.write_text(file.read_text().replace("127.0.0.1", "localhost.localdomain"))
    scene.box.fault(PROXY, status_5xx=True)
    scene.box.restart(PROXY, ready_s=10)
    was = pid(scene)
    report = await scene.run(OUTAGE, service=PROXY)
    assert report.verdict == "inconclusive", report.message
    assert "no service of this stack" in report.message
    assert pid(scene) == was


async def test_a_backend_that_stays_dead_is_no_green_run(build: Build) -> None:
    scene, _ = await behind_a_proxy(build)
    scene.fault(frozen=True)
    was = pid(scene)
    report = await scene.run(OUTAGE, service=PROXY)
    assert report.verdict == "failed" and report.service == SERVICE, report.message
    assert pid(scene) == was, "a proxy is never restarted for its backend's fault"
