"""Stepping back up, applying on purpose and going back, on a stand-in server."""

from datetime import UTC, datetime, timedelta

import pytest

from blocks.errors import Permanent
from blocks.journal import Backup
from blocks.models import ServingConfig
from flows.rollback_serving import choose
from tests.flows.conftest import Build

ROOM = {"vram_gib": 24}


async def stepped_down(build: Build, **wanted: object):
    """A server that a remediation stepped down from 16384 to 8192."""
    scene = await build(**wanted)
    original = scene.config.read_bytes()
    assert (await scene.run("remediate-oom")).verdict == "passed"
    mark = scene.journal.degraded()
    assert mark and mark.original.max_model_len == 16384
    return scene, original


async def test_with_room_again_the_original_config_comes_back(build: Build) -> None:
    scene, original = await stepped_down(build)
    scene.fault(**ROOM)
    report = await scene.run("restore-context")
    assert (report.verdict, len(report.attempts)) == ("passed", 1)
    assert scene.config.read_bytes() == original
    assert scene.journal.degraded() is None
    assert await scene.health() == "healthy"


async def test_without_room_the_step_up_is_undone_and_the_mark_stays(build: Build) -> None:
    scene, original = await stepped_down(build)
    lowered = scene.config.read_bytes()
    report = await scene.run("restore-context")
    assert report.verdict == "failed"
    assert "oom_kv_cache" in str(report.attempts[0].diagnosis_after)
    scene.as_before(lowered)
    assert scene.journal.degraded() is not None
    assert await scene.health() == "healthy"


async def test_a_service_that_is_not_degraded_is_left_alone(build: Build) -> None:
    scene = await build(until="serving")
    before = scene.snapshot()
    report = await scene.run("restore-context")
    assert (report.verdict, report.message) == (
        "passed",
        "no action: the service is not degraded",
    )
    assert scene.snapshot() == before


async def test_outside_the_maintenance_window_nothing_is_stepped_up(build: Build) -> None:
    begin = datetime.now(UTC) + timedelta(days=1)
    ahead = {"from": begin.isoformat(), "until": (begin + timedelta(hours=4)).isoformat()}
    scene, _ = await stepped_down(build, maintenance=[ahead])
    scene.fault(**ROOM)
    before = scene.snapshot()
    report = await scene.run("restore-context")
    assert (report.verdict, report.blocked_by) == ("blocked", "would-exceed-window")
    assert scene.snapshot() == before
    now = datetime.now(UTC)
    open_ = {
        "from": (now - timedelta(hours=1)).isoformat(),
        "until": (now + timedelta(hours=1)).isoformat(),
    }
    await scene.edit(maintenance=[open_])
    assert (await scene.run("restore-context")).verdict == "passed"


async def test_a_star_takes_every_degraded_service(build: Build) -> None:
    first, original = await stepped_down(build)
    second, _ = await stepped_down(build)
    lowered = second.config.read_bytes()
    first.fault(**ROOM)
    report = await first.run("restore-context", stack="*", service="*")
    assert report.verdict == "failed"  # the worst of the two
    assert first.config.read_bytes() == original
    assert second.config.read_bytes() == lowered
    assert first.journal.degraded() is None and second.journal.degraded() is not None


async def test_the_operators_own_word_ends_the_degraded_state(build: Build) -> None:
    scene, _ = await stepped_down(build)
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert report.verdict == "passed"
    assert scene.journal.degraded() is None


async def test_a_change_without_a_field_names_the_remedy(build: Build) -> None:
    scene = await build(until="serving")
    before = scene.snapshot()
    report = await scene.run("apply-serving", change={})
    assert report.verdict == "error"
    assert "-p max_model_len=8192" in report.message
    assert scene.snapshot() == before


async def test_what_cannot_fit_is_said_before_it_is_tried(build: Build) -> None:
    scene = await build(until="serving")
    gpu = {"name": "RTX 3060", "vram_gib": 12}
    await scene.edit(service={"gpu": gpu, "model": {"name": "meta-llama/Llama-3.1-70B-Instruct"}})
    planned = await scene.run(
        "apply-serving", change={"max_model_len": 16384}, flags={"dry_run": True}
    )
    assert planned.verdict == "planned" and "warning: " in planned.message
    before = scene.config.read_bytes()
    report = await scene.run("apply-serving", change={"max_model_len": 16384})
    assert report.verdict == "failed"
    assert report.plan and report.plan.warning
    assert "oom_kv_cache" in report.message
    scene.as_before(before)
    assert await scene.health() == "healthy"


def test_previous_skips_a_backup_of_what_is_in_place() -> None:
    def kept(name: str, length: int) -> Backup:
        config = ServingConfig(max_model_len=length)
        return Backup(name=name, at=datetime.now(UTC), run_id="r", procedure="p", config=config)

    newest_first = [kept("c", 8192), kept("b", 16384), kept("a", 4096)]
    assert choose(newest_first, "previous", ServingConfig(max_model_len=8192)).name == "b"
    with pytest.raises(Permanent, match="fits none"):
        choose(newest_first, "z", ServingConfig())


async def test_going_back_lists_chooses_and_verifies(build: Build) -> None:
    scene = await build(until="serving")
    original = scene.config.read_bytes()
    none = await scene.run("rollback-serving")
    assert (none.verdict, none.message) == (
        "planned",
        "there is no backup yet; each change makes one",
    )
    for length in (6144, 4096):
        assert (
            await scene.run("apply-serving", change={"max_model_len": length})
        ).verdict == "passed"
    before = scene.snapshot()
    listed = await scene.run("rollback-serving")
    assert listed.verdict == "planned" and len(listed.notes) == 2
    newest, oldest = (note.split(":")[0] for note in listed.notes)
    assert "max_model_len=6144" in listed.notes[0] and "max_model_len=8192" in listed.notes[1]
    for name, problem in (("2", "fits 2"), ("nothing-like-it", "fits none")):
        report = await scene.run("rollback-serving", backup=name)
        assert report.verdict == "error"
        assert problem in report.message and newest in report.message
    assert scene.snapshot() == before
    assert (await scene.run("rollback-serving", backup="previous")).verdict == "passed"
    assert b"6144" in scene.config.read_bytes()
    assert (await scene.run("rollback-serving", backup=oldest)).verdict == "passed"
    assert scene.config.read_bytes() == original
    assert await scene.health() == "healthy"
