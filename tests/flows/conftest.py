"""Platforms for the flows: built on a stand-in, registered on the real Prefect server."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from deployments.sandbox.local import Sandbox
from tests.conftest import PrefectServer
from tests.flows.support import Scene, Slack

Build = Callable[..., Awaitable[Scene]]


@pytest.fixture
def build(tmp_path: Path, home: Path, prefect_server: PrefectServer) -> Iterator[Build]:
    """Build scenes; every stand-in is stopped at the end."""
    boxes: list[Sandbox] = []

    async def make(**wanted: object) -> Scene:
        boxes.append(Sandbox.create(tmp_path / f"box{len(boxes)}"))
        return await Scene.build(boxes[-1], **wanted)

    yield make
    for box in boxes:
        box.stop_all()


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    """A Slack that receives."""
    monkeypatch.setenv("TEST_SLACK_TOKEN", "xoxb-not-to-be-seen-anywhere")
    stand_in = Slack()
    yield stand_in
    stand_in.close()
