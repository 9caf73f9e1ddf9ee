"""Every scenario with steps is played on one real platform: `runbooks up`, as a user starts it.

One after the other: with several at once Prefect's SQLite stands still for up to a minute
(`database is locked`), and what was saved is lost again.
"""

import pytest
from pydantic import ValidationError

from deployments.scenario_steps import Step
from deployments.scenarios import Scenario, load_all, play
from tests.real.upped import Upped
from tests.real.whole import prefect_server  # noqa: F401 - a fixture

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]
SCENARIOS = {s.name: s for s in load_all() if s.steps}


@pytest.mark.parametrize("name", sorted(SCENARIOS))
async def test_scenario_plays_as_written(
    name: str,
    prefect_server: Upped,  # noqa: F811
) -> None:
    played = await play(SCENARIOS[name])
    assert played.problems == ()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({}, "this one is nothing"),
        ({"wait": "ended", "kill": "gateway"}, "this one is kill, wait"),
        ({"kill": "worker"}, "'gateway' or 'server'"),
    ],
)
def test_a_step_is_one_thing(step: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Step.model_validate(step)


def test_a_run_needs_a_verdict() -> None:
    texts = {"name": "x", "title": "x", "story": "x", "expect": {"decoding": True}}
    with pytest.raises(ValidationError, match="verdict is missing"):
        Scenario.model_validate(texts)
