"""Every scenario with steps is played on one real platform: `runbooks up`, as a user starts it."""

import asyncio

import pytest
from pydantic import ValidationError

from deployments.scenario_steps import Step
from deployments.scenarios import Played, Scenario, load_all, play
from tests.real.upped import Upped
from tests.real.whole import prefect_server  # noqa: F401 - a fixture

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]
SCENARIOS = {s.name: s for s in load_all() if s.steps}
AT_ONCE = 2
"""With more at once, Prefect's SQLite stands still for up to a minute (`database is locked`)."""


def disturbs(scenario: Scenario) -> bool:
    """Whether others that are played at the same time would notice."""
    return any(step.kill or step.hold for step in scenario.steps)


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest,
    prefect_server: Upped,  # noqa: F811
) -> dict[str, Played | BaseException]:
    """Every scenario that a test asks for, played beside each other: they mostly wait."""
    items = [i for i in request.session.items if i.path == request.path]
    asked = [getattr(i, "callspec", None) and i.callspec.params.get("name") for i in items]
    wanted = {name: SCENARIOS[name] for name in asked if name}
    places = asyncio.Semaphore(AT_ONCE)

    async def one(scenario: Scenario) -> Played:
        async with places:
            return await play(scenario)

    async def everything() -> dict[str, Played | BaseException]:
        beside = {n: s for n, s in wanted.items() if not disturbs(s)}
        done = await asyncio.gather(*map(one, beside.values()), return_exceptions=True)
        found = dict(zip(beside, done, strict=True))
        for name in wanted.keys() - beside.keys():
            found[name] = (await asyncio.gather(one(wanted[name]), return_exceptions=True))[0]
        return found

    return asyncio.run(everything())


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_scenario_plays_as_written(name: str, plays: dict[str, Played | BaseException]) -> None:
    played = plays[name]
    if isinstance(played, BaseException):
        raise played
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
