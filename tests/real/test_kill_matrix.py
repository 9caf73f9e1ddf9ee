"""kill -9 of the flow at every step of the lifecycle: the next run reconciles, whatever runs it.

Never two instances at once, never none with the old one gone, no entry and no lock left.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from prefect import get_client

from deployments.sandbox.local import Sandbox
from tests.conftest import PrefectServer
from tests.flows.support import Scene
from tests.real.support import Children, Container, free, run

pytestmark = pytest.mark.real
SMALLER = {"change": {"max_model_len": 4096}}
POLICY = "unless-stopped"


@pytest.fixture(scope="module")
def children(prefect_server: PrefectServer) -> Children:
    return Children(prefect_server)


@pytest.fixture
def container(
    docker_client: docker.DockerClient, tmp_path: Path, home: Path
) -> Iterator[Container]:
    made = Container(docker_client, tmp_path)
    try:
        yield made
        assert made.most_running() <= 1, "two instances ran at once"
    finally:
        made.sweep()


@pytest.fixture
def box(tmp_path: Path, home: Path) -> Iterator[Sandbox]:
    made = Sandbox.create(tmp_path / "box")
    yield made
    made.stop_all()


async def next_run(stack: str, lock: str):
    """The next run, once the killed one's lease has ended (test_kill_platform waits for one)."""
    async with get_client() as client:
        await free(client, lock)
    return await run("remediate-oom", stack)


# The engine's writes of one recreation: create, policy "no", stop, rename, rename, policy, start.
WRITES = [f"write:{n}" for n in range(7)]
UNDOING = ["undoing", *[f"undo-write:{n}" for n in range(4)], "undone"]


@pytest.mark.parametrize(
    ("point", "length"),
    [
        ("before-begin", 8192),
        ("after-begin", 8192),
        *[(write, 8192) for write in WRITES],
        ("restarted", 8192),
        ("verifying", 8192),
        ("verified", 4096),
        ("removing", 4096),
        ("committed", 4096),
        ("recorded", 4096),
    ],
)
async def test_a_killed_change_of_a_container_is_undone_or_finished(
    children: Children, container: Container, point: str, length: int
) -> None:
    container.start(8192, policy=POLICY)
    container.wait_serving(8192)
    first = container.doc()["Id"]
    await container.register()
    children.kill(point, "apply-serving", container.stack, **SMALLER)
    assert len([d for d in container.all().values() if d["State"]["Running"]]) <= 1
    report = await next_run(container.stack, container.lock)
    assert report.verdict == "passed", report.message
    assert container.model_len() == length
    assert (container.doc()["Id"] == first) == (length == 8192)
    assert container.journal.entry() is None
    container.alone(POLICY)


@pytest.mark.parametrize("point", UNDOING)
async def test_a_killed_undo_of_a_container_is_completed(
    children: Children, container: Container, point: str
) -> None:
    container.start(8192, policy=POLICY)
    container.wait_serving(8192)
    first = container.doc()["Id"]
    await container.register()
    container.fault(served_max_model_len=1234)
    children.kill(point, "apply-serving", container.stack, **SMALLER)
    container.fault()
    report = await next_run(container.stack, container.lock)
    assert report.verdict == "passed", report.message
    assert container.model_len() == 8192
    assert container.doc()["Id"] == first
    assert container.journal.entry() is None
    container.alone(POLICY)


@pytest.mark.parametrize("point", ["write:0", "write:2", "write:4", "verifying", "committed"])
async def test_a_killed_remediation_of_a_dead_container_is_taken_up_again(
    children: Children, container: Container, point: str
) -> None:
    container.start(16384)
    container.wait_exited()
    await container.register()
    children.kill(point, "remediate-oom", container.stack)
    report = await next_run(container.stack, container.lock)
    assert report.verdict == "passed", report.message
    assert container.model_len() == 8192
    mark = container.journal.degraded()
    assert mark and mark.original.max_model_len == 16384
    assert container.journal.entry() is None
    container.alone("no")


@pytest.mark.parametrize(
    ("point", "length"),
    [
        ("before-begin", 8192),
        ("after-begin", 8192),
        ("file-edited", 8192),
        ("restarted", 8192),
        ("verifying", 8192),
        ("verified", 4096),
        ("committed", 4096),
        ("recorded", 4096),
        ("undoing", 8192),
        ("file-restored", 8192),
        ("undone", 8192),
    ],
)
async def test_a_killed_change_of_a_file_is_undone_or_finished(
    children: Children, box: Sandbox, point: str, length: int
) -> None:
    scene = await Scene.build(box, until="serving")
    before = scene.config.read_bytes()
    undone = point in ("undoing", "file-restored", "undone")
    if undone:
        scene.fault(served_max_model_len=1234)
    children.kill(point, "apply-serving", scene.spec.name, **SMALLER)
    if undone:
        scene.fault(served_max_model_len=None)
    report = await next_run(scene.spec.name, scene.lock)
    assert report.verdict == "passed", report.message
    assert scene.journal.entry() is None
    assert await scene.health() == "healthy"
    if length == 8192:
        assert scene.config.read_bytes() == before
    else:
        assert b"4096" in scene.config.read_bytes()


@pytest.mark.parametrize("point", ["verified", "committed", "recorded"])
async def test_the_operators_own_word_ends_the_degraded_state_also_when_killed(
    children: Children, box: Sandbox, point: str
) -> None:
    scene = await Scene.build(box)
    assert (await scene.run("remediate-oom")).verdict == "passed"
    children.kill(point, "apply-serving", scene.spec.name, **SMALLER)
    assert (await next_run(scene.spec.name, scene.lock)).verdict == "passed"
    assert scene.journal.degraded() is None


async def test_a_container_killed_during_the_verification_is_undone(
    children: Children, container: Container
) -> None:
    container.start(8192, policy="no")
    container.wait_serving(8192)
    first = container.doc()["Id"]
    await container.register(policy={"stabilisation_s": 20})
    child = children.start("never", "apply-serving", container.stack, **SMALLER)
    with contextlib.suppress(AssertionError):
        container.wait_serving(4096)
    container.client.api.kill(container.name, signal="SIGKILL")
    child.join(30)
    assert child.exitcode == 0
    assert container.doc()["Id"] == first
    container.wait_serving(8192)
    assert container.journal.entry() is None
    assert [a.verdict for a in container.journal.acts()] == ["failed"]
    container.alone("no")
