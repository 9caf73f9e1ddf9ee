"""Every scenario is played, for real, against the sandbox and a real Prefect server."""

from pathlib import Path

import pytest

from deployments.scenarios import FOLDER, load_all, load_one, play
from tests.conftest import PrefectServer

# Those with steps need a whole platform: test_gateway_scenarios.py.
NAMES = sorted(p.stem for p in FOLDER.glob("*.yaml") if not load_one(p.stem).steps)


@pytest.mark.parametrize("name", NAMES)
async def test_scenario_plays_as_written(
    name: str, home: Path, prefect_server: PrefectServer
) -> None:
    played = await play(load_one(name))
    assert played.problems == ()


def test_every_scenario_teaches_something() -> None:
    for scenario in load_all():
        assert len(scenario.story) > 80, scenario.name
        assert not scenario.title.endswith("."), scenario.name
