"""A run that waits for an approval, killed or cut off from its server: nothing half done."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.approvals import Waiting, answer, waiting
from deployments.sandbox.local import Sandbox
from tests.conftest import PrefectServer
from tests.flows.support import Scene
from tests.real.support import Children

pytestmark = pytest.mark.real
OOM = "remediate-oom"


@pytest.fixture
def box(tmp_path: Path, home: Path) -> Iterator[Sandbox]:
    made = Sandbox.create(tmp_path / "box")
    yield made
    made.stop_all()


async def begin(server: PrefectServer, box: Sandbox) -> tuple[Scene, Any, Waiting]:
    scene = await Scene.build(box, policy={"autonomy": "approve"})
    child = Children(server).start("never", OOM, scene.spec.name)
    for _ in range(600):
        if found := await waiting(scene.spec.name):
            return scene, child, found[0]
        await asyncio.sleep(0.1)
    raise AssertionError("it does not wait")


async def test_killed_while_it_waits(prefect_server: PrefectServer, box: Sandbox) -> None:
    scene, child, waits = await begin(prefect_server, box)
    before = scene.snapshot()
    child.kill()
    child.join()
    # Nobody can know that yet: the server takes the answer, and nothing acts on it.
    assert (await answer(waits.run_id, "approve", actor="eve", source="cli")).status == "resumed"
    await asyncio.sleep(1.5)  # longer than a waiting run looks away
    assert scene.snapshot() == before
    report = await scene.run(OOM, flags={"approval": "yes"})
    assert report.verdict == "passed", report


async def test_the_server_is_killed_while_it_waits(
    prefect_server: PrefectServer, box: Sandbox
) -> None:
    scene, child, waits = await begin(prefect_server, box)
    prefect_server.kill()
    prefect_server.start()
    given = await answer(waits.run_id, "approve", actor="eve", source="cli")
    assert given.status == "resumed", given
    await asyncio.to_thread(child.join, 90)
    assert child.exitcode == 0
    assert await scene.health() == "healthy"
    assert scene.journal.entry() is None and len(scene.journal.acts()) == 1
