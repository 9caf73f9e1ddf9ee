"""kill -9 of the Prefect server and of the worker in the middle of a change; and a cancellation."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    temporary_settings,
)
from prefect.states import Cancelling

from deployments.bootstrap import prepare_server
from deployments.connection import POOL
from deployments.sandbox.local import Sandbox
from deployments.scenarios import SERVICE
from tests.conftest import PrefectServer, _drain
from tests.flows.support import Scene, until
from tests.real.support import Children, run

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
]
SMALLER = {"change": {"max_model_len": 4096}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server of this module's own, to be killed."""
    made = PrefectServer(tmp_path_factory.mktemp("killed"))
    made.start()
    settings = {
        PREFECT_API_URL: made.url,
        PREFECT_HOME: made.folder,
        PREFECT_CLIENT_MAX_RETRIES: 8,
    }
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        patch.setenv("RUNBOOKS_HOME", str(made.folder / "runbooks"))
        patch.setenv("PREFECT_API_URL", made.url)  # for `prefect deploy`, a process of its own
        patch.setenv("PREFECT_HOME", str(made.folder))
        yield made
        _drain()
    made.stop()


@pytest.fixture
def box(tmp_path: Path, server: PrefectServer) -> Iterator[Sandbox]:
    made = Sandbox.create(tmp_path / "box")
    yield made
    made.stop_all()


@pytest.fixture(scope="module")
def children(server: PrefectServer) -> Children:
    return Children(server)


class Worker:
    """`prefect worker start`, as `runbooks up` starts it."""

    def __init__(self, server: PrefectServer, log: Path) -> None:
        argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        env = {**server.env, "RUNBOOKS_HOME": os.environ["RUNBOOKS_HOME"]}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*argv, "--type", "process"],
                env=env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


async def submitted(scene: Scene, **more: Any) -> UUID:
    """A run of apply-serving for whatever worker is there."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("apply-serving/apply-serving")
        parameters = {"stack": scene.spec.name, "service": SERVICE, **more}
        made = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return made.id


async def final_state(run_id: UUID, timeout_s: float = 120) -> Any:
    for _ in range(int(timeout_s / 0.5)):
        async with get_client() as client:
            found = await client.read_flow_run(run_id)
        if found.state and found.state.is_final():
            return found.state
        await asyncio.sleep(0.5)
    raise AssertionError(f"not final: {found.state}")


async def changed(scene: Scene, before: bytes) -> None:
    """Until the new config is in place and its verification has begun."""
    await until(lambda: scene.config.read_bytes() != before, 120)
    await until(lambda: scene.pid)
    await asyncio.sleep(0.5)


async def ended(child: Any, timeout_s: float) -> None:
    await until(lambda: child.exitcode is not None, timeout_s)


@pytest.mark.parametrize("helps", [True, False], ids=["kept", "undone"])
async def test_a_server_that_comes_back_finds_the_verdict(
    server: PrefectServer, box: Sandbox, children: Children, helps: bool
) -> None:
    scene = await Scene.build(box, until="serving", policy={"stabilisation_s": 8})
    before = scene.config.read_bytes()
    child = children.start("never", "apply-serving", scene.spec.name, **SMALLER)
    await changed(scene, before)
    server.kill()
    await asyncio.sleep(3)
    if not helps:
        scene.fault(frozen=True)
    await asyncio.to_thread(server.start)
    await ended(child, 90)
    assert child.exitcode == 0
    assert (b"4096" in scene.config.read_bytes()) == helps
    assert scene.journal.entry() is None
    (act,) = scene.journal.acts()
    assert act.verdict == ("passed" if helps else "failed")
    state = await final_state(UUID(act.run_id))
    assert state.name == ("Passed" if helps else "Failed")


@pytest.mark.parametrize("helps", [True, False], ids=["kept", "undone"])
async def test_without_a_server_the_change_is_brought_to_its_end(
    server: PrefectServer, box: Sandbox, children: Children, helps: bool
) -> None:
    scene = await Scene.build(box, until="serving", policy={"stabilisation_s": 3})
    before = scene.config.read_bytes()
    # Prefect's eight retries take three minutes at every call; one shows the same.
    child = children.start("never", "apply-serving", scene.spec.name, retries=1, **SMALLER)
    await changed(scene, before)
    server.kill()
    try:
        if not helps:
            scene.fault(frozen=True)
        # The act is written down before its entry is taken away.
        await until(lambda: scene.journal.acts() and scene.journal.entry() is None)
        assert scene.journal.acts()[0].verdict == ("passed" if helps else "failed")
        assert (b"4096" in scene.config.read_bytes()) == helps
        scene.fault(frozen=None)
        assert scene.pid
    finally:
        child.kill()
        await asyncio.to_thread(server.start)


@pytest.mark.slow
async def test_the_lock_of_a_killed_run_ends_by_itself_across_a_kill_of_the_server(
    server: PrefectServer, box: Sandbox, children: Children
) -> None:
    scene = await Scene.build(box, until="serving")
    before = scene.config.read_bytes()
    children.kill("verifying", "apply-serving", scene.spec.name, **SMALLER)
    began = time.monotonic()
    leases = [p for p in (server.folder / "concurrency_leases").glob("*.json")]
    ends = [json.loads(p.read_text()).get("expiration") for p in leases]
    left = [(datetime.fromisoformat(e) - datetime.now(UTC)).total_seconds() for e in ends if e]
    assert left and max(left) <= 60
    server.kill()
    await asyncio.to_thread(server.start)
    report = await run("remediate-oom", scene.spec.name)
    assert report.blocked_by == "locked"
    while report.blocked_by == "locked" and time.monotonic() - began < 120:
        await asyncio.sleep(3)
        report = await run("remediate-oom", scene.spec.name)
    took = time.monotonic() - began
    assert report.verdict == "passed", report.message
    assert any("interrupted" in note for note in report.notes)
    scene.as_before(before)
    assert took < 110, took


@pytest.fixture(scope="module")
def deployed(server: PrefectServer) -> None:
    asyncio.run(prepare_server())


async def test_a_flow_whose_worker_was_killed_brings_its_change_to_an_end(
    server: PrefectServer, box: Sandbox, deployed: None, tmp_path: Path
) -> None:
    scene = await Scene.build(box, until="serving", policy={"stabilisation_s": 4})
    before = scene.config.read_bytes()
    worker = Worker(server, tmp_path / "worker.log")
    run_id = await submitted(scene, **SMALLER)
    await changed(scene, before)
    worker.process.kill()
    worker.process.wait()
    state = await final_state(run_id)
    # Prefect 3.8 may end the run of a worker that is gone: then the change is undone.
    assert state.name in ("Passed", "Crashed"), state.message
    assert scene.journal.entry() is None
    assert (b"4096" in scene.config.read_bytes()) == (state.name == "Passed")
    assert await scene.health() == "healthy"


async def test_a_cancelled_run_undoes_its_change_and_a_killed_one_is_reconciled(
    server: PrefectServer, box: Sandbox, deployed: None, tmp_path: Path
) -> None:
    scene = await Scene.build(box, until="serving", policy={"stabilisation_s": 60})
    before = scene.config.read_bytes()
    worker = Worker(server, tmp_path / "worker.log")
    try:
        run_id = await submitted(scene, **SMALLER)
        await changed(scene, before)
        async with get_client() as client:
            await client.set_flow_run_state(run_id, Cancelling())
        assert (await final_state(run_id)).name == "Cancelled"
        await until(lambda: scene.journal.entry() is None)
        scene.as_before(before)
        assert await scene.health() == "healthy"

        run_id = await submitted(scene, **SMALLER)
        await changed(scene, before)
        for pid in flow_processes(run_id):
            os.kill(pid, signal.SIGKILL)
        assert (await final_state(run_id)).name == "Crashed"
        assert scene.journal.entry() is not None
    finally:
        worker.stop()


def flow_processes(run_id: UUID) -> list[int]:
    """The processes that carry out a run, by their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(run_id).encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    assert found
    return found
