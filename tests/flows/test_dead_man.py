"""Scheduled procedures ping: at their start, and at their end only when it is green."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect import Flow, flow, get_client, tags
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks.errors import Permanent
from blocks.stack import StackSpec
from deployments.bootstrap import prefect_yaml, register
from deployments.running import load_flow
from deployments.scheduled import declared, refused
from flows.dead_man import EVERY, HOOKS, SCHEDULED, checks_of
from tests.blocks.test_dead_man import Checks
from tests.conftest import PrefectServer

PROCEDURE = "sweep-runs"
TRUE = ["true"]
WEB: dict[str, Any] = {
    "engine": "http",
    "url": "http://127.0.0.1:9",
    "serving": {"kind": "none"},
    "runtime": {
        "kind": "command",
        **{verb: TRUE for verb in ("restart", "stop", "status", "logs")},
        "status_format": "exit-code",
    },
}
"""Nobody asks it here."""


@pytest.fixture
def service() -> Iterator[Checks]:
    there = Checks(200)
    yield there
    there.close()


@pytest.fixture
async def stack(prefect_server: PrefectServer, home: Path, service: Checks) -> str:
    """A registered stack that names the procedure."""
    return await registered_with(service, PROCEDURE, "ours")


async def registered_with(service: Checks, procedure: str, mark: str) -> str:
    name = f"t-{uuid4().hex[:8]}"
    at = service.url.rsplit("/", 1)[0]
    spec = StackSpec.model_validate(
        {
            "name": name,
            "services": {"web": WEB},
            "dead_man": {procedure: {"start": f"{at}/{mark}/start", "success": f"{at}/{mark}"}},
        }
    )
    await register(spec)
    return name


def heard(service: Checks, mark: str = "ours") -> list[str]:
    """The pings of one check, in order."""
    return [p.split(f"/{mark}", 1)[1] or "/" for _, p in service.asked if f"/ping/{mark}" in p]


@flow(name=PROCEDURE, **HOOKS)
async def probe(stack: str = EVERY, ends: str = "passed") -> State[None]:
    """Ends as it is told, as the procedures do (`flows.procedure.state_of`)."""
    if ends == "raises":
        raise Permanent("as asked")
    if ends in ("passed", "planned"):
        return Completed(name=ends.capitalize())
    return Failed(name=ends.capitalize())


async def scheduled(*words: str, **parameters: Any) -> None:
    with tags(*words):
        await probe(**parameters, return_state=True)


@pytest.mark.parametrize("ends", ["passed", "planned"])
async def test_green_end_pings_start_then_success(stack: str, service: Checks, ends: str) -> None:
    await scheduled(SCHEDULED, stack=stack, ends=ends)
    assert heard(service) == ["/start", "/"]


@pytest.mark.parametrize("ends", ["failed", "blocked", "error", "inconclusive", "raises"])
async def test_any_other_end_leaves_silence(stack: str, service: Checks, ends: str) -> None:
    await scheduled(SCHEDULED, stack=stack, ends=ends)
    assert heard(service) == ["/start"]


async def test_run_by_hand_proves_nothing_about_the_schedule(stack: str, service: Checks) -> None:
    await scheduled("daily", stack=stack)
    assert heard(service) == []


async def test_run_of_every_stack_pings_for_each(stack: str, service: Checks) -> None:
    await registered_with(service, PROCEDURE, "theirs")
    await scheduled(SCHEDULED)
    assert heard(service) == heard(service, "theirs") == ["/start", "/"]


async def test_run_of_one_stack_pings_for_that_one_alone(stack: str, service: Checks) -> None:
    other = await registered_with(service, PROCEDURE, "theirs")
    await scheduled(SCHEDULED, stack=other)
    assert (heard(service), heard(service, "theirs")) == ([], ["/start", "/"])


async def test_other_procedures_check_is_left_alone(stack: str, service: Checks) -> None:
    other = await registered_with(service, "check-platform", "theirs")
    await scheduled(SCHEDULED, stack=other)
    assert heard(service, "theirs") == []


async def test_service_that_is_away_changes_nothing(
    stack: str, service: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.dead_man.PAUSE_S", 0)
    service.answers = [500]
    with tags(SCHEDULED):
        state = await probe(stack=stack, return_state=True)
    assert state.name == "Passed"
    assert heard(service) == ["/start", "/start", "/", "/"]


async def test_file_s_own_check(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    check = {PROCEDURE: {"success": "https://hc-ping.com/x"}}
    document = {"name": "x", "services": {"web": WEB}, "dead_man": check}
    file.write_text(yaml.safe_dump(document))
    found = await checks_of(PROCEDURE, str(file))
    assert found["x"].success == "https://hc-ping.com/x"
    assert await checks_of("check-platform", str(file)) == {}


# ---- which procedures ---------------------------------------------------------------------------


def test_every_scheduled_procedure_pings() -> None:
    """A schedule without the hooks would look watched and be not."""
    known = declared(prefect_yaml().read_text())
    scheduled = [name for name, has in known.items() if has]
    assert {"sweep-runs", "check-platform", "restore-context"} <= set(scheduled)
    for name in scheduled:
        made = load_flow(name)
        assert isinstance(made, Flow)
        for hook, ours in HOOKS.items():
            of = {"on_running": made.on_running_hooks, "on_completion": made.on_completion_hooks}
            assert set(ours) <= set(of[hook]), f"{name}: @flow(..., **HOOKS) is missing"


def test_pings_of_what_never_runs_by_itself_are_refused() -> None:
    known = {"sweep-runs": True, "watch-gpus": False}
    assert refused({"sweep-runs": 1}, known) == {}
    found = refused({"watch-gpus": 1, "sweep-run": 1}, known)
    assert "has no schedule" in found["watch-gpus"] and "Prefect UI" in found["watch-gpus"]
    assert found["sweep-run"] == "is no procedure; scheduled are: sweep-runs"


async def test_register_refuses_them(
    prefect_server: PrefectServer, home: Path, service: Checks
) -> None:
    with pytest.raises(Permanent, match=r"dead_man\.remediate-oom has no schedule"):
        await registered_with(service, "remediate-oom", "ours")


async def test_operators_own_schedule_counts(
    prefect_server: PrefectServer, home: Path, service: Checks
) -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    async with get_client() as client:
        made: UUID = await client.create_deployment(
            await client.create_flow_from_name("watch-gpus"),
            "watch-gpus",
            schedules=[
                DeploymentScheduleCreate(schedule=CronSchedule(cron="0 1 * * *"), active=True)
            ],
        )
        try:
            await registered_with(service, "watch-gpus", "ours")
        finally:
            await client.delete_deployment(made)
