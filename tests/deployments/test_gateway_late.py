"""Silence is noticed: late runs and dead workers are told once, and so is their end."""

import math
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Scheduled

from blocks.stack import StackSpec
from deployments.gateway.late import LateWatch
from deployments.gateway.state import Gateway
from flows.decisions.late import LatePolicy, Sight, Waiting, WorkerSeen, online, trouble, word
from tests.conftest import PrefectServer, free_port
from tests.flows.support import Slack

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
POLICY = LatePolicy()
TRUE = ["true"]


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def run(stack: str = "a", late_s: float = 300, queue: str = "default") -> Waiting:
    return Waiting(run_id="1", name=f"check {stack}", stack=stack, queue=queue, due=ago(late_s))


def worker(beat_s: float = 5, alive: bool = True) -> WorkerSeen:
    return WorkerSeen(name="local", online=alive, beat=ago(beat_s))


def wrong(sight: Sight, stack: str = "a") -> str:
    return trouble(sight, stack, {"a", "b"}, NOW, POLICY)


# ---- the rules ----------------------------------------------------------------------------------


def test_all_well_says_nothing() -> None:
    assert wrong(Sight()) == ""
    assert wrong(Sight(workers=(worker(),))) == ""
    assert wrong(Sight(workers=(worker(),), runs=(run(late_s=60),))) == "", "not yet too late"


def test_late_run_names_its_cause() -> None:
    runs = (run(),)
    assert "no worker is online" in wrong(Sight(runs=runs))
    assert "no worker is online" in wrong(Sight(runs=runs, workers=(worker(alive=False),)))
    assert "5 min late" in wrong(Sight(runs=runs))
    queued = Sight(runs=(run(queue="gpu-2"),), workers=(worker(),))
    assert "is there one for work queue gpu-2?" in wrong(queued)
    paused = Sight(runs=runs, workers=(worker(),), paused=("work pool runbooks",))
    assert "work pool runbooks is paused; resume it" in wrong(paused)


def test_dead_worker_is_told_before_a_run_is_late() -> None:
    assert "nothing would run" in wrong(Sight(workers=(worker(beat_s=600),)))
    assert "nothing would run" in wrong(Sight(workers=(worker(alive=False),)))


def test_silent_server_is_told() -> None:
    assert "Prefect server does not answer" in wrong(Sight(asked=False))


def test_run_concerns_its_stack_or_all() -> None:
    for stack in ("*", "", "somebody/stack.yaml"):
        assert wrong(Sight(runs=(run(stack),), workers=(worker(),)))
    other = Sight(runs=(run("b"),), workers=(worker(),))
    assert wrong(other) == "" and wrong(other, "b")


@given(st.lists(st.booleans(), max_size=30))
def test_each_episode_is_told_once_at_both_ends(looks: list[bool]) -> None:
    told, said = False, []
    for bad in looks:
        if (spoken := word(told, bad)) != "none":
            said.append(spoken)
            told = not told
        assert told == bad
    assert said == ["begins", "over"] * (len(said) // 2) + ["begins"] * (len(said) % 2)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000)), max_size=5))
def test_worker_counts_only_with_a_fresh_beat(seen: list[tuple[bool, float]]) -> None:
    workers = [worker(beat, alive) for alive, beat in seen]
    fresh = sum(alive and beat <= 150 for alive, beat in seen)
    assert abs(online(workers, NOW, POLICY) - fresh) <= sum(149 < b < 151 for _, b in seen)
    assert online([WorkerSeen(name="x", online=True)], NOW, POLICY) == 0


# ---- on a real server ---------------------------------------------------------------------------


class Place:
    """A gateway whose stacks are given, and a pool of its own without any worker."""

    def __init__(self, gateway: Gateway, pool: str, slack: Slack) -> None:
        self.gateway, self.pool, self.slack = gateway, pool, slack
        self.watch = LateWatch(gateway, pool, LatePolicy(late_s=120, silent_s=1))

    def metric(self, name: str) -> float:
        value = self.gateway.metrics.registry.get_sample_value(name)
        assert value is not None, name
        return value

    def told(self) -> list[str]:
        return [m["blocks"][1]["text"]["text"] for m in self.slack.messages]

    async def late_run(self, stack: str, minutes: float = 10) -> Any:
        async with get_client() as client:
            flow = await client.create_flow_from_name("check-platform")
            deployment = await client.create_deployment(
                flow, f"d-{uuid4().hex[:6]}", work_pool_name=self.pool
            )
            due = datetime.now(UTC) - timedelta(minutes=minutes)
            made = await client.create_flow_run_from_deployment(
                deployment, parameters={"stack": stack}, state=Scheduled(scheduled_time=due)
            )
        return made.id


def spec(name: str, slack: dict[str, Any] | None) -> StackSpec:
    verbs = {verb: TRUE for verb in ("restart", "stop", "status", "logs")}
    web = {"engine": "http", "url": "http://127.0.0.1:9", "serving": {"kind": "none"}}
    web["runtime"] = {"kind": "command", **verbs, "status_format": "exit-code"}
    return StackSpec.model_validate({"name": name, "services": {"web": web}, "slack": slack})


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    monkeypatch.setenv("TEST_SLACK_TOKEN", "xoxb-not-to-be-seen-anywhere")
    stand_in = Slack()
    yield stand_in
    stand_in.close()


@pytest.fixture
async def place(
    prefect_server: PrefectServer, home: Path, tmp_path: Path, slack: Slack
) -> AsyncIterator[Place]:
    gateway = Gateway(tmp_path / "inbox.db")
    gateway._stacks = {"a": spec("a", slack.spec()), "b": spec("b", None)}
    pool = f"late-{uuid4().hex[:6]}"
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    yield Place(gateway, pool, slack)
    await gateway.inbox.close()


async def test_late_run_is_told_once_and_its_end_once(place: Place) -> None:
    await place.watch.look()
    assert (place.told(), place.metric("runbooks_late_runs")) == ([], 0)
    late = await place.late_run("a")
    await place.watch.look()
    await place.watch.look()
    assert place.metric("runbooks_late_runs") == 1
    assert place.metric("runbooks_workers_online") == 0
    assert len(place.told()) == 1
    assert "should have begun" in place.told()[0] and "no worker is online" in place.told()[0]
    async with get_client() as client:
        await client.set_flow_run_state(late, Cancelled(), force=True)
    await place.watch.look()
    await place.watch.look()
    assert place.told()[1:] == ["runs begin again"]


async def test_run_that_is_not_due_and_one_of_another_stack_are_no_alarm(place: Place) -> None:
    await place.late_run("a", minutes=1)
    await place.late_run("b")
    await place.watch.look()
    assert place.told() == []
    assert place.metric("runbooks_late_runs") == 1


async def test_paused_pool_is_named(place: Place) -> None:
    await place.late_run("*")
    async with get_client() as client:
        await client.update_work_pool(place.pool, WorkPoolUpdate(is_paused=True))
    await place.watch.look()
    assert f"work pool {place.pool} is paused" in place.told()[0]


async def test_beating_worker_is_counted(place: Place) -> None:
    async with get_client() as client:
        await client.send_worker_heartbeat(place.pool, "gpu-1", 30)
    await place.watch.look()
    assert place.metric("runbooks_workers_online") == 1
    assert place.told() == []


async def test_message_that_slack_refused_is_tried_again(place: Place) -> None:
    await place.late_run("a")
    place.slack.status = 503
    await place.watch.look()
    place.slack.status = 200
    await place.watch.look()
    await place.watch.look()
    assert len(place.told()) == 2, "refused, told, and then no more"


async def test_server_that_is_away_is_unknown_and_then_told(place: Place) -> None:
    await place.watch.look()
    gone = {
        PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with temporary_settings(gone):
        place.watch._policy = LatePolicy(silent_s=3600)
        await place.watch.look()
        assert math.isnan(place.metric("runbooks_late_runs"))
        assert math.isnan(place.metric("runbooks_workers_online"))
        assert place.told() == [], "it may just be starting anew"
        place.watch._policy = LatePolicy(silent_s=1)
        place.watch._answered -= 10
        await place.watch.look()
        await place.watch.look()
    assert len(place.told()) == 1
    assert "the Prefect server does not answer" in place.told()[0]
    await place.watch.look()
    assert place.told()[1:] == ["runs begin again"]


async def test_pool_that_is_not_there_yet_is_no_alarm(place: Place) -> None:
    place.watch._pool = "no-such-pool"
    await place.watch.look()
    assert place.told() == []
