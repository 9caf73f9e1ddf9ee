"""The record of a run: Slack, the page, the data, tags and states, and no secret in any of them."""

import base64
import logging
import re
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from tests.conftest import PrefectServer
from tests.flows.conftest import Build
from tests.flows.support import Scene, Slack, artifacts

TOKEN = "xoxb-not-to-be-seen-anywhere"


async def test_people_are_told_the_verdict_the_cause_and_the_change(
    build: Build, slack: Slack
) -> None:
    scene = await build(slack=slack.spec())
    report = await scene.run("remediate-oom")
    assert report.verdict == "passed"
    assert any("told #llm" in note for note in report.notes)
    first, *_, last = slack.messages  # one message: posted when it acts, then updated
    said = str(last)
    assert first["channel"] == "#llm" and set(slack.tokens) == {f"Bearer {TOKEN}"}
    assert "ts" not in first and last["ts"] == "1.0"
    assert "PASSED" in said and "oom_kv_cache" in said and "16384" in said and "8192" in said


async def test_a_refusal_goes_to_the_services_own_channel(build: Build, slack: Slack) -> None:
    scene = await build(
        slack=slack.spec(), service={"escalate_to": "#on-call"}, policy={"autonomy": "approve"}
    )
    report = await scene.run("remediate-oom")
    assert report.blocked_by == "not-approved"
    assert [m["channel"] for m in slack.messages] == ["#llm", "#on-call"]
    assert report.plan and all(report.plan.digest in str(m) for m in slack.messages)


@pytest.mark.parametrize("how", ["down", "429", "invalid_auth", "no-token"])
async def test_when_slack_fails_the_verdict_stands_and_the_page_says_nobody_was_told(
    build: Build, slack: Slack, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build(until="serving", slack=slack.spec())
    if how == "down":
        slack.close()
    elif how == "no-token":
        monkeypatch.delenv("TEST_SLACK_TOKEN")
    else:
        slack.status = 429 if how == "429" else 200
        slack.answer = {"ok": False, "error": "ratelimited" if how == "429" else how}
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert report.verdict == "passed"
    assert any("Slack could not be published" in note for note in report.notes)
    assert not any("told #" in note for note in report.notes)
    page = (await artifacts(report.run_id))["apply-serving-record"]
    assert "Slack could not be published" in page
    assert await scene.health() == "healthy"


@pytest.mark.parametrize("answer", ["ok", "invalid_auth"])
async def test_the_token_is_seen_nowhere(
    build: Build,
    slack: Slack,
    answer: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    prefect_server: PrefectServer,
) -> None:
    caplog.set_level(logging.DEBUG)
    scene = await build(until="serving", slack=slack.spec())
    slack.answer = {"ok": answer == "ok", "ts": "1.0", "error": answer}
    report = await scene.run("apply-serving", change={"max_model_len": 4096})
    assert slack.tokens[0] == f"Bearer {TOKEN}"
    assert TOKEN not in caplog.text
    assert TOKEN not in report.model_dump_json()
    assert TOKEN not in str(await artifacts(report.run_id))
    async with get_client() as client:
        run = await client.read_flow_run(UUID(report.run_id))
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(report.run_id)]))
        lines = await client.read_logs(wanted, limit=200)
    assert TOKEN not in run.model_dump_json()
    assert TOKEN not in str([line.message for line in lines])
    for folder in (tmp_path, prefect_server.folder):
        for path in folder.rglob("*"):
            assert not (path.is_file() and TOKEN.encode() in path.read_bytes()), path


async def test_the_page_shows_before_after_evidence_and_a_chart(build: Build) -> None:
    scene = await build()
    report = await scene.run("remediate-oom")
    found = await artifacts(report.run_id)
    page = found["remediate-oom-record"]
    assert re.search(r"\| `max_model_len` \| 16384 \| \*\*8192\*\* \|", page)
    assert report.diagnosis and "10752" in page and "oom_kv_cache" in page
    chart = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert chart and base64.b64decode(chart[1], validate=True).startswith(b"\x89PNG\r\n\x1a\n")
    assert type(report).model_validate_json(found["remediate-oom-data"]).verdict == "passed"
    async with get_client() as client:
        run = await client.read_flow_run(UUID(report.run_id))
    wanted = {"procedure:remediate-oom", "actor:ada", "source:cli", "service:wintermute"}
    assert wanted | {f"stack:{scene.spec.name}"} <= set(run.tags)


async def states_of(scene: Scene) -> list[tuple[str, str]]:
    """Name and type of the final state: planned, blocked, passed, failed, error."""
    smaller = {"max_model_len": 4096}
    plan = await scene.state("apply-serving", change=smaller, flags={"dry_run": True})
    with scene.journal.held():
        blocked = await scene.state("apply-serving", change=smaller)
    passed = await scene.state("apply-serving", change=smaller)
    scene.fault(model_missing=True)
    failed = await scene.state("apply-serving", change={"max_model_len": 2048})
    error = await scene.state("apply-serving", change={})
    return [(s.name, s.type.value) for s in (plan, blocked, passed, failed, error)]


async def test_only_passed_and_planned_are_green(build: Build) -> None:
    scene = await build(until="serving")
    assert await states_of(scene) == [
        ("Planned", "COMPLETED"),
        ("Blocked", "FAILED"),
        ("Passed", "COMPLETED"),
        ("Failed", "FAILED"),
        ("Error", "FAILED"),
    ]


async def test_what_could_not_be_measured_is_never_green(build: Build) -> None:
    scene = await build(until="serving")
    service = scene.spec.model_dump(mode="json")["services"]["wintermute"]
    runtime = service["runtime"] | {"status": ["sh", "-c", "exit 9"]}
    await scene.edit(service={"runtime": runtime})
    state = await scene.state("remediate-oom")
    assert (state.name, state.type.value) == ("Inconclusive", "FAILED")
