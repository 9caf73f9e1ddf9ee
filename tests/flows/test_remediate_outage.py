"""remediate-outage and remediate-crash on the sandbox: what is restarted, and what never is."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prefect.logging import disable_run_logger

from blocks.journal import Applied, Journal
from blocks.models import ServiceState, Serving, ServingConfig
from blocks.stack import parse_stack
from blocks.target import target_of
from deployments.scenarios import SERVICE
from flows.remediate_outage import _known_good
from flows.verify import Verifier
from tasks.acts import Glimpse
from tests.flows.conftest import Build
from tests.flows.support import Scene, artifacts

OUTAGE = "remediate-outage"


def freeze(scene: Scene) -> None:
    """The engine stops; a restart mends it."""
    url = scene.spec.services[SERVICE].url
    httpx.post(f"{url}/sandbox/faults", json={"frozen": True}, trust_env=False).raise_for_status()


async def test_a_frozen_engine_is_restarted(build: Build) -> None:
    scene = await build(until="serving")
    before, pid = scene.config.read_bytes(), scene.pid
    freeze(scene)
    report = await scene.run(OUTAGE)
    assert report.verdict == "passed", report.message
    assert report.message.startswith("restarted; healthy")
    assert scene.pid != pid
    scene.as_before(before)
    assert scene.journal.degraded() is None, "a restart lowers nothing"
    assert [act.procedure for act in scene.journal.acts()] == [OUTAGE]
    page = (await artifacts(report.run_id))["remediate-outage-record"]
    assert "**Restart**, with the numbers it has." in page


async def test_a_dead_process_is_started(build: Build) -> None:
    scene = await build(until="serving")
    os.kill(scene.pid or 0, signal.SIGTERM)
    scene.box.wait_exited(SERVICE)
    report = await scene.run(OUTAGE)
    assert report.verdict == "passed", report.message
    assert await scene.health() == "healthy"


async def test_a_healthy_service_is_left_alone(build: Build) -> None:
    scene = await build(until="serving")
    was = scene.snapshot()
    report = await scene.run(OUTAGE)
    assert (report.verdict, report.attempts) == ("passed", ())
    assert scene.snapshot() == was


async def test_a_cause_with_its_own_remedy_acts_under_that_remedys_autonomy(build: Build) -> None:
    scene = await build(policy={"autonomy": "approve", "autonomy_for": {"remediate-oom": "auto"}})
    report = await scene.run(OUTAGE)
    assert report.verdict == "passed", report.message
    assert "max_model_len 16384 -> 8192" in report.message
    mark = scene.journal.degraded()
    assert mark and mark.procedure == "remediate-oom"


async def test_a_restart_needs_approval_where_the_stack_says_so(build: Build) -> None:
    scene = await build(until="serving", policy={"autonomy": "approve"})
    freeze(scene)
    was = scene.snapshot()
    report = await scene.run(OUTAGE)
    assert report.blocked_by == "not-approved"
    assert scene.snapshot() == was
    assert report.plan is not None
    report = await scene.run(OUTAGE, flags={"approval": report.plan.digest})
    assert report.verdict == "passed", report.message


async def test_a_dry_run_says_what_it_would_try(build: Build) -> None:
    scene = await build(until="serving")
    freeze(scene)
    was = scene.snapshot()
    report = await scene.run(OUTAGE, flags={"dry_run": True})
    assert report.verdict == "planned" and report.message.startswith("would restart")
    assert scene.snapshot() == was


async def test_a_missing_model_is_named_and_never_restarted(build: Build) -> None:
    scene = await build(params={"model_missing": True})
    was = scene.snapshot()
    report = await scene.run(OUTAGE)
    assert (report.verdict, report.attempts) == ("failed", ())
    assert report.diagnosis and report.diagnosis.label == "model_not_found"
    assert scene.snapshot() == was


async def test_a_dangling_model_link_is_named_and_never_restarted(
    build: Build, tmp_path: Path
) -> None:
    link = tmp_path / "current_model"
    link.symlink_to(tmp_path / "gone")
    scene = await build(until="serving")
    await scene.edit(service={"model": {"name": "x", "link": str(link)}})
    freeze(scene)
    was = scene.snapshot()
    report = await scene.run(OUTAGE)
    assert report.verdict == "failed" and "which does not exist" in report.message
    assert scene.snapshot() == was


async def test_when_a_restart_does_not_help_the_last_change_goes_back(build: Build) -> None:
    scene = await build(until="serving", serving={"max_num_seqs": 8})
    kept = await scene.run("apply-serving", change={"max_num_seqs": 4})
    assert kept.verdict == "passed", kept.message
    # Somebody added a flag that this version does not have.
    text = scene.config.read_text()
    scene.config.write_text(text.replace("max-num-seqs: 4", "max-num-seqs: 4\nkv-cache-dtype: fp9"))
    scene.box.restart(SERVICE)
    scene.box.wait_exited(SERVICE)
    report = await scene.run(OUTAGE)
    assert report.verdict == "passed", report.message
    assert report.message.startswith("the last change went back")
    assert "max-num-seqs: 4" in scene.config.read_text(), "what the last change had proved"
    assert "fp9" not in scene.config.read_text()
    assert scene.journal.degraded() is None, "the config that failed is no goal to come back to"
    assert scene.journal.acts()[-1].procedure == "rollback-serving"


async def test_nothing_helps_and_everything_is_as_before(build: Build) -> None:
    scene = await build(until="serving")
    scene.fault(frozen=True)
    before = scene.config.read_bytes()
    report = await scene.run(OUTAGE)
    assert report.verdict == "failed" and "a person must look" in report.next_step
    scene.as_before(before)
    assert [act.verdict for act in scene.journal.acts()] == ["failed"]


async def test_the_journal_knows_what_was_applied(build: Build) -> None:
    scene = await build(until="serving", serving={"max_num_seqs": 8})
    await scene.run("apply-serving", change={"max_num_seqs": 4})
    applied = Journal(scene.spec.name, SERVICE).applied()
    assert applied and applied.config.max_num_seqs == 4
    assert isinstance(applied.config, ServingConfig)


async def test_one_crash_is_no_reason_to_change_the_configuration(build: Build) -> None:
    scene = await build(
        until="serving",
        serving={"kv_cache_dtype": "fp8"},
        params={"fp8_unstable_after": 1},
    )
    url = scene.spec.services[SERVICE].url
    with pytest.raises(httpx.HTTPError):
        for _ in range(5):
            body = {"model": SERVICE, "prompt": "hi", "max_tokens": 2}
            httpx.post(f"{url}/v1/completions", json=body, timeout=3, trust_env=False)
    scene.box.wait_exited(SERVICE)
    before = scene.config.read_bytes()
    report = await scene.run("remediate-crash")
    assert report.verdict == "failed" and "crashed once" in report.message
    scene.as_before(before)


def test_a_container_that_restarted_before_it_loads_is_waited_for() -> None:
    """Its restarts were counted before anything was done: they are no new ones."""
    target = target_of(
        parse_stack(
            "name: s\nservices:\n  a: {url: 'http://h:1', runtime: {kind: docker, container: c}}\n"
        ),
        "a",
    )
    loading = Serving(reachable=False, problem="/health: connection refused")
    state = ServiceState(phase="running", restarts=1, instance="x")
    look = Glimpse(at_s=0.0, state=state, serving=loading, log_mark="1")
    with disable_run_logger():
        assert not Verifier(target, ServingConfig(), 0, restarts=1).saw_enough(look)
        assert Verifier(target, ServingConfig(), 0).saw_enough(look), "after a change it has none"


def known_good(home: Path, config: ServingConfig) -> ServingConfig | None:
    journal = Journal("s", "a")
    return _known_good(SimpleNamespace(journal=journal), config)  # type: ignore[arg-type]


def test_what_is_gone_back_to_is_known_to_have_worked(home: Path) -> None:
    journal = Journal("s", "a")
    long, short, edited = (ServingConfig(max_model_len=n) for n in (16384, 8192, 9999))
    now = datetime.now(UTC)
    assert known_good(home, long) is None, "nothing is on record"
    journal.save_backup("run-1", "apply-serving", long)
    journal.save_applied(Applied(config=short, at=now, procedure="apply-serving", run_id="run-1"))
    assert known_good(home, edited) == short, "the edit since the last change goes"
    assert known_good(home, short) == long, "the last change goes"
    journal.save_backup("run-2", "apply-serving", short)
    assert known_good(home, short) is None, "the newest backup is of a change that was not kept"
    journal.save_backup("run-3", "remediate-oom", long)
    journal.save_applied(Applied(config=short, at=now, procedure="remediate-oom", run_id="run-3"))
    assert known_good(home, short) is None, "what ran out of memory is nothing to go back to"
