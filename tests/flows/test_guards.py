"""The guards of the lifecycle on a real run: who is refused, why, and what is left untouched."""

from datetime import UTC, datetime, timedelta

import pytest

from blocks.command_runtime import CommandRuntime
from blocks.models import Receipt
from tests.flows.conftest import Build

SMALLER = {"max_model_len": 4096}


def around_now() -> list[dict]:
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(hours=1)
    return [{"from": begin.isoformat(), "until": end.isoformat(), "reason": "quarter end"}]


async def test_observe_plans_and_touches_nothing_not_even_the_lock(build: Build) -> None:
    scene = await build(policy={"autonomy": "observe"})
    before = scene.snapshot()
    with scene.journal.held():
        report = await scene.run("remediate-oom", flags={"approval": "yes"})
    assert report.verdict == "planned"
    assert report.plan and report.plan.changes == {"max_model_len": (16384, 8192)}
    assert scene.snapshot() == before


@pytest.mark.parametrize("autonomy", ["auto", "approve"])
async def test_a_dry_run_touches_nothing(build: Build, autonomy: str) -> None:
    scene = await build(until="serving", policy={"autonomy": autonomy})
    before = scene.snapshot()
    report = await scene.run(
        "apply-serving", change=SMALLER, flags={"dry_run": True, "approval": "yes"}
    )
    assert report.verdict == "planned"
    assert "max_model_len 8192 -> 4096" in report.message
    assert scene.snapshot() == before
    assert scene.journal.acts() == []


async def test_the_approved_plan_is_carried_out_and_no_other(build: Build) -> None:
    scene = await build(until="serving", policy={"autonomy": "approve"})
    before = scene.snapshot()
    asked = await scene.run("apply-serving", change=SMALLER)
    assert (asked.verdict, asked.blocked_by) == ("blocked", "not-approved")
    assert asked.plan and asked.plan.digest in asked.next_step
    other = await scene.run(
        "apply-serving", change={"max_model_len": 2048}, flags={"approval": asked.plan.digest}
    )
    assert (other.verdict, other.blocked_by) == ("blocked", "approval-expired")
    assert scene.snapshot() == before
    flags = {"approval": asked.plan.digest}
    assert (await scene.run("apply-serving", change=SMALLER, flags=flags)).verdict == "passed"
    assert b"4096" in scene.config.read_bytes()
    again = await scene.run("apply-serving", change={"max_model_len": 8192}, flags=flags)
    assert again.blocked_by == "approval-expired"


async def test_a_freeze_window_stops_even_an_approved_change(build: Build) -> None:
    scene = await build(freeze=around_now())
    before = scene.snapshot()
    report = await scene.run("remediate-oom", flags={"approval": "yes"})
    assert (report.verdict, report.blocked_by) == ("blocked", "frozen")
    assert "quarter end" in report.message
    assert scene.snapshot() == before


async def test_after_the_allowed_number_of_acts_a_person_has_to_look(build: Build) -> None:
    scene = await build(until="serving", policy={"attempts": 2})
    for length in (7168, 6144):
        report = await scene.run("apply-serving", change={"max_model_len": length})
        assert report.verdict == "passed"
    before = scene.snapshot()
    third = await scene.run("apply-serving", change=SMALLER)
    assert (third.verdict, third.blocked_by) == ("blocked", "attempts-exhausted")
    assert scene.snapshot() == before


async def test_a_second_run_waits_for_the_rest_after_the_first(build: Build) -> None:
    scene = await build(policy={"cooldown_s": 300})
    assert (await scene.run("remediate-oom")).verdict == "passed"
    before = scene.snapshot()
    second = await scene.run("apply-serving", change=SMALLER)
    assert (second.verdict, second.blocked_by) == ("blocked", "cooling-down")
    assert scene.snapshot() == before


async def test_an_edit_that_beats_the_act_is_neither_overwritten_nor_undone(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build(until="serving")
    pid, prepare = scene.pid, CommandRuntime.prepare

    async def prepare_then_somebody_edits(self: CommandRuntime, *args: object) -> Receipt:
        receipt = await prepare(self, *args)  # type: ignore[arg-type]
        scene.config.write_bytes(scene.config.read_bytes() + b"# mine\n")
        return receipt

    monkeypatch.setattr(CommandRuntime, "prepare", prepare_then_somebody_edits)
    report = await scene.run("apply-serving", change=SMALLER)
    assert (report.verdict, report.blocked_by) == ("blocked", "drifted")
    assert scene.config.read_bytes().endswith(b"# mine\n")
    assert b"4096" not in scene.config.read_bytes()
    assert scene.pid == pid
    assert scene.journal.entry() is None
