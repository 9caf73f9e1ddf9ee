"""remediate-outage on a LiteLLM proxy: its own fault, its backend's, or nobody knows."""

import os
import signal
from pathlib import Path
from typing import Any

from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.scenarios import SERVICE
from deployments.staging import PROXY
from tests.deployments.gateway_support import runs_of
from tests.deployments.slack_support import deploy
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


async def test_an_alert_on_a_proxy_calls_people_once_for_what_could_not_be_remedied(
    build: Build,
) -> None:
    await deploy("escalate-incident")
    scene, _ = await behind_a_proxy(build)
    row = {"path": ["primary"], "via": ["mail"], "respond_min": 15}
    await scene.edit(
        people={"members": {"ada": {}}},
        escalation={
            "severities": {"P0": row},
            "contacts": {"primary": "ada"},
            "notify": {"mail": "${MAIL}"},
        },
    )
    os.kill(scene.pid or 0, signal.SIGTERM)
    scene.box.wait_exited(SERVICE)
    alert = {"source": "alert", "actor": "alertmanager"}
    report = await scene.run(OUTAGE, service=PROXY, flags=alert)
    assert report.verdict == "passed", report.message
    assert not [r for r in await runs_of(scene.spec.name) if r.parameters.get("severity")]
    scene.fault(frozen=True)
    report = await scene.run(OUTAGE, service=PROXY, flags=alert)
    assert (report.verdict, report.service) == ("failed", SERVICE)
    [run] = [r for r in await runs_of(scene.spec.name) if r.parameters.get("severity")]
    assert run.parameters["service"] == SERVICE and run.parameters["severity"] == "P0"
    assert "left alone" not in run.parameters["title"]
    assert report.notes[-1] == f"people are called (P0): escalate-incident, run {str(run.id)[:8]}"
