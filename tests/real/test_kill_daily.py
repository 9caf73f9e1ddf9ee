"""kill -9 of remediate-outage and align-token-limits at every step: the next run reconciles."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
from prefect import get_client

from blocks.stack import StackSpec, lock_name
from deployments.bootstrap import register
from deployments.sandbox.local import Sandbox
from deployments.scenarios import SERVICE
from flows.report import Report
from tests.conftest import PrefectServer
from tests.flows.support import QUICK, Scene
from tests.real.support import Children, Container, free, run, swept

pytestmark = pytest.mark.real
OUTAGE, ALIGN, PROXY = "remediate-outage", "align-token-limits", "motoko"


@pytest.fixture(scope="module")
def children(prefect_server: PrefectServer) -> Children:
    return Children(prefect_server)


@pytest.fixture
def container(
    docker_client: docker.DockerClient, tmp_path: Path, home: Path
) -> Iterator[Container]:
    with swept(Container(docker_client, tmp_path)) as made:
        yield made


@pytest.fixture
def box(tmp_path: Path, home: Path) -> Iterator[Sandbox]:
    made = Sandbox.create(tmp_path / "box")
    yield made
    made.stop_all()


async def next_run(procedure: str, stack: str, lock: str, **more: str) -> Report:
    """The next run, once the killed one's lease has ended."""
    async with get_client() as client:
        await free(client, lock)
    return await run(procedure, stack, **more)


POINTS = ["before-begin", "after-begin", "restarted", "verifying"]
LATE = ["verified", "committed", "recorded"]


@pytest.mark.parametrize("point", [*POINTS[:2], "write:0", "write:1", *POINTS[2:], *LATE])
async def test_a_killed_restart_of_a_dead_container_is_taken_up_again(
    children: Children, container: Container, point: str
) -> None:
    container.start(8192, policy="unless-stopped")
    container.wait_serving(8192)
    first = container.doc()["Id"]
    await container.register()
    container.client.api.kill(container.name, signal="SIGKILL")
    container.wait_exited()
    children.kill(point, OUTAGE, container.stack)
    report = await next_run(OUTAGE, container.stack, container.lock)
    assert report.verdict == "passed", report.message
    assert container.model_len() == 8192
    assert container.doc()["Id"] == first, "a restart is enough"
    assert container.journal.entry() is None
    assert container.journal.degraded() is None
    container.alone("unless-stopped")


@pytest.mark.parametrize("point", ["write:1", "write:4", "verifying", "undoing", "undone"])
async def test_a_killed_recreation_is_undone(
    children: Children, container: Container, point: str
) -> None:
    """The restart does not help, so the container is made anew; that does not either."""
    container.start(8192, policy="no")
    container.wait_serving(8192)
    first = container.doc()["Id"]
    await container.register()
    container.fault(frozen=True)
    # The restart's own two writes and its undo come first.
    number = {"write:1": "write:4", "write:4": "write:7"}.get(point, point)
    children.kill(number, OUTAGE, container.stack)
    container.fault()
    report = await next_run(OUTAGE, container.stack, container.lock)
    assert report.verdict == "passed", report.message
    assert container.model_len() == 8192
    assert container.doc()["Id"] == first or report.attempts
    assert container.journal.entry() is None
    container.alone("no")


@pytest.mark.parametrize("point", [*POINTS, *LATE])
async def test_a_killed_restart_of_a_process_is_taken_up_again(
    children: Children, box: Sandbox, point: str
) -> None:
    scene = await Scene.build(box, until="serving")
    before = scene.config.read_bytes()
    os.kill(scene.pid or 0, signal.SIGTERM)
    box.wait_exited(SERVICE)
    children.kill(point, OUTAGE, scene.spec.name)
    report = await next_run(OUTAGE, scene.spec.name, scene.lock)
    assert report.verdict == "passed", report.message
    assert await scene.health() == "healthy"
    scene.as_before(before)


@pytest.mark.parametrize("point", [*POINTS[:2], "file-edited", *POINTS[2:], *LATE])
async def test_a_killed_alignment_is_undone_or_finished(
    children: Children, box: Sandbox, point: str
) -> None:
    scene = await Scene.build(box, until="serving")
    proxy = box.add_litellm(
        PROXY, {SERVICE: {"backend": SERVICE, "max_input_tokens": 14_000, "tpm": 120_000}}
    )
    box.start(PROXY, ready_s=10)
    document = scene.spec.model_dump(mode="json")
    document["services"][PROXY] = {**proxy.fragment(), "policy": QUICK}
    spec = StackSpec.model_validate(document)
    await register(spec)
    assert proxy.config
    before = proxy.config.read_bytes()
    children.kill(point, ALIGN, spec.name)
    half_way = proxy.config.read_bytes()
    assert half_way == before or b"max_input_tokens: 7000" in half_way
    report = await next_run(ALIGN, spec.name, lock_name(spec.name, PROXY))
    assert report.verdict == "passed", report.message
    after = proxy.config.read_text()
    assert "max_input_tokens: 7000" in after and "tpm: 120000" in after
    assert after.replace("max_input_tokens: 7000", "max_input_tokens: 14000") == before.decode()
    info = httpx.get(f"{proxy.url}/model/info", trust_env=False).json()
    assert info["data"][0]["model_info"]["max_input_tokens"] == 7000
