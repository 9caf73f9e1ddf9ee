"""The daily check on stand-in servers: what it finds, what it remembers, and whom it tells."""

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from rich.console import Console

from blocks.check_memory import load_memory
from blocks.errors import Permanent, Transient
from blocks.slack_workspace import SlackSpec, post
from blocks.stack_blocks import registered
from deployments.console import show
from deployments.running import Request, _read_report, run_here
from flows import check_platform as module
from flows.check_platform import check_platform, findings_of
from flows.checks import limits
from flows.checks.platform_view import Platform
from flows.decisions.finding import Finding
from flows.platform_report import PlatformReport
from flows.report import EXIT_CODES, Options
from tasks.check_reads import Reader
from tasks.places import Places
from tests.conftest import PrefectServer
from tests.flows.conftest import Build
from tests.flows.support import SERVICE, Scene, Slack, artifacts


async def check(stack: str, **flags: object) -> PlatformReport:
    options = Options.model_validate({"actor": "ada", "source": "cli", **flags})
    state = await check_platform(stack, options, return_state=True)
    report = await state.result(raise_on_failure=False)
    assert isinstance(report, PlatformReport), state.message
    assert state.name == report.verdict.capitalize()
    assert (state.type.value == "COMPLETED") == (report.verdict == "passed")
    return report


def of(report: PlatformReport, check: str, subject: str = SERVICE) -> Finding:
    (found,) = [f for f in report.findings if (f.check, f.subject) == (check, subject)]
    return found


async def test_the_first_check_cannot_compare_and_the_second_passes(build: Build) -> None:
    scene = await build(until="serving")
    first = await check(scene.spec.name)
    assert first.verdict == "inconclusive" and EXIT_CODES[first.verdict] == 3
    assert [f.check for f in first.findings if f.status != "ok"] == ["drift"]
    second = await check(scene.spec.name)
    assert second.verdict == "passed", second.findings
    checks = {"decoding", "restarts", "error lines", "queue", "cache", "drift"}
    assert {f.check for f in second.findings} == checks
    found = await artifacts(second.run_id)
    page = found["check-platform-record"]
    assert "✓ Passed" in page and "| what |" not in page
    assert "healthy" in found["check-platform-findings"]
    async with get_client() as client:
        run = await client.read_flow_run(UUID(second.run_id))
        read = await _read_report(client, UUID(second.run_id))
    wanted = {f"stack:{scene.spec.name}", "procedure:check-platform", "actor:ada", "source:cli"}
    assert wanted <= set(run.tags)
    assert isinstance(read, PlatformReport) and read.findings == second.findings


async def test_a_frozen_engine_fails_with_its_procedure_on_page_slack_and_terminal(
    build: Build, slack: Slack
) -> None:
    scene = await build(until="serving", slack=slack.spec())
    scene.fault(frozen=True)
    report = await check(scene.spec.name)
    found = of(report, "decoding")
    assert (report.verdict, found.status) == ("failed", "fail") and report.findings[0] == found
    assert "no token within 1 s" in found.evidence
    command = f"runbooks run remediate-outage --stack {scene.spec.name} --service {SERVICE}"
    page = (await artifacts(report.run_id))["check-platform-record"]
    row = next(line for line in page.splitlines() if line.startswith("| ✗"))
    assert "decoding · **wintermute**" in row and f"`{command}`" in row
    (message,) = slack.messages
    blocks = message["blocks"]
    assert blocks[0]["type"] == "header" and "❌" in blocks[0]["text"]["text"]
    assert "Failed" in blocks[2]["text"]["text"] and command in blocks[2]["text"]["text"]
    console = Console(file=io.StringIO(), width=160)
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "decoding · wintermute" in text and command in text


async def test_when_nothing_is_wrong_slack_gets_one_line(build: Build, slack: Slack) -> None:
    scene = await build(until="serving", slack=slack.spec())
    await check(scene.spec.name, dry_run=True)
    assert slack.messages == [] and load_memory(scene.spec.name) is None
    await check(scene.spec.name)
    slack.messages.clear()
    assert (await check(scene.spec.name)).verdict == "passed"
    (message,) = slack.messages
    assert len(message["blocks"]) == 2 and "\n" not in message["blocks"][1]["text"]["text"]


async def test_a_long_message_stays_within_slacks_blocks_and_says_what_is_left_out(
    slack: Slack,
) -> None:
    spec = SlackSpec.model_validate(slack.spec())
    await post(spec, "title", "\n\n".join(f"part {n}" for n in range(60)))
    blocks = slack.messages[0]["blocks"]
    assert len(blocks) == 50 and blocks[-1]["text"]["text"] == "… and 12 more; see the record"
    assert blocks[-2]["text"]["text"] == "part 47"


async def test_a_restart_and_an_edit_by_hand_are_seen_at_the_next_check(build: Build) -> None:
    scene = await build(until="serving")
    await check(scene.spec.name)
    text = scene.config.read_text()
    scene.config.write_text(text.replace("8192", "4096"))
    await asyncio.to_thread(scene.box.restart, SERVICE, ready_s=10)
    report = await check(scene.spec.name)
    restarted, drifted = of(report, "restarts"), of(report, "drift")
    assert (restarted.status, restarted.value) == ("warn", "1")
    assert (drifted.status, drifted.value) == ("warn", "max_model_len 4096")
    assert (drifted.suggests, drifted.advice) == ("apply-serving", "-p max_model_len=8192")
    assert report.verdict == "passed" and "2 to look at" in report.message
    assert {f.status for f in (await check(scene.spec.name)).findings} == {"ok"}


async def test_drift_from_what_a_procedure_applied_stays_until_it_is_settled(build: Build) -> None:
    scene = await build(until="serving")
    assert (await scene.run("apply-serving", change={"max_model_len": 4096})).verdict == "passed"
    assert of(await check(scene.spec.name), "drift").status == "ok"
    scene.config.write_text(scene.config.read_text().replace("4096", "2048"))
    for _ in range(2):
        found = of(await check(scene.spec.name), "drift")
        assert (found.status, found.advice) == ("warn", "-p max_model_len=4096")


async def test_a_dead_service_is_diagnosed_from_its_log(build: Build) -> None:
    scene = await build()
    found = of(await check(scene.spec.name), "decoding")
    assert (found.status, found.suggests) == ("fail", "remediate-oom")
    assert "oom_kv_cache" in found.evidence


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        yield s.getsockname()[1]


def echo(**state: object) -> dict[str, Any]:
    """A runtime that says this of a service and has an empty log."""
    return {
        "kind": "command",
        "restart": ["true"],
        "stop": ["true"],
        "status": ["echo", json.dumps({"phase": "running", "pid": 7, **state})],
        "status_format": "json",
        "logs": ["true"],
    }


def inventory(scene: Scene, tmp_path: Path, services: dict[str, Any], **more: Any) -> str:
    """A stack file with these services beside the scene's own: not registered, which is slow."""
    document = scene.spec.model_dump(mode="json") | more
    document["services"] |= services
    path = tmp_path / f"{scene.spec.name}.yaml"
    path.write_text(json.dumps(document))
    return str(path)


async def test_a_dead_machine_is_unknown_and_delays_nobody(
    build: Build, silent: int, tmp_path: Path
) -> None:
    scene = await build(until="serving")
    hang = echo() | {"status": ["sleep", "600"], "logs": ["sleep", "600"]}
    gone = {
        f"gone-{n}": {"engine": "http", "url": f"http://127.0.0.2:{silent}/{n}", "runtime": hang}
        for n in range(4)
    }
    # Half of the places for one machine: its four services take two rounds of the deadline.
    quick = {"deadline_s": 3, "at_once": 4}
    report = await check(inventory(scene, tmp_path, gone, checks=quick))
    assert report.verdict == "inconclusive" and report.duration_s < 60
    assert of(report, "decoding").status == "ok"
    for name in gone:
        mine = [f for f in report.findings if f.subject == name]
        assert {f.status for f in mine} == {"unknown"}
        assert of(report, "answering", name).evidence == "not read within 3 s"
    page = (await artifacts(report.run_id))["check-platform-record"]
    assert page.count("| ? | answering") == 1, "four equal lines are one"


async def test_a_token_that_may_take_longer_than_the_check_is_not_called_missing(
    build: Build, tmp_path: Path
) -> None:
    scene = await build(until="serving")
    scene.fault(frozen=True)
    slow = scene.spec.services[SERVICE].model_dump(mode="json")
    slow["policy"]["decode_timeout_s"] = 120
    report = await check(inventory(scene, tmp_path, {SERVICE: slow}, checks={"deadline_s": 1.5}))
    found = of(report, "decoding")
    assert (report.verdict, found.status, found.suggests) == ("inconclusive", "unknown", "")
    words = "no token within 1.2 s; 120 s are allowed: raise checks.deadline_s to 150"
    assert found.evidence == words


async def test_a_container_that_commands_run_tells_image_restarts_and_log(
    build: Build, tmp_path: Path
) -> None:
    scene, now = await build(until="serving"), datetime.now(UTC)
    log = tmp_path / "vllm.log"
    log.write_text(f"{now - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ} INFO fine\n" * 3)

    def service(queue: str, hours: float, part: str = "", **more: Any) -> dict[str, Any]:
        state = {"Status": "running", "Pid": 7, "StartedAt": str(now - timedelta(hours=hours))}
        image = {"Image": "vllm/vllm-openai:latest", "Env": ["HF_TOKEN=hush"]}
        whole = {"Id": "c0", "State": state, "RestartCount": 2, "Config": image}
        said = json.dumps(whole[part] if part else whole)
        runtime = echo() | {"status": ["echo", said], "status_format": "docker-state"}
        runtime |= {"logs": ["cat", str(log)], **more}
        url = scene.spec.services[SERVICE].url
        return {"engine": "http", "url": url, "runtime": runtime, "work_queue": queue}

    told = {
        "old": service("q1", 72),
        "new": service("q2", 2.1),
        "tail": service("q3", 2.1, logs=["tail", "-n", "2", str(log)]),
        "part": service("q4", 2.1, part="State"),
    }
    report = await check(inventory(scene, tmp_path, told))
    status = {(f.check, f.subject): (f.status, f.value) for f in report.findings}
    at = f"{now - timedelta(hours=2):%H:%M}"
    latest = ("warn", "vllm/vllm-openai:latest")
    for name in ("old", "new", "tail"):
        assert status["image", name] == latest
    assert status["image", "part"] == ("unknown", "")
    assert "docker inspect --format '{{json .}}'" in of(report, "image", "part").evidence
    assert ("image", SERVICE) not in status, "no container"
    assert status["restarts", "old"] == ("ok", "0")
    assert status["restarts", "new"] == ("warn", "2")
    assert status["restarts", "part"] == ("unknown", "")
    assert status["error lines", "old"] == ("unknown", f"0 since {at}")
    assert status["error lines", "new"] == ("ok", "0")
    assert status["error lines", "tail"] == ("unknown", f"0 since {at}")
    assert "hush" not in report.model_dump_json()


async def test_a_reading_that_blocks_its_thread_is_left_behind(
    prefect_server: PrefectServer,
) -> None:
    reader, began = Reader(Places(8), deadline_s=0.3), time.monotonic()
    release = threading.Event()

    @flow
    async def read() -> dict[str, Any]:
        async def blocked() -> str:
            return await asyncio.to_thread(release.wait, 60) and "late"

        async def quick() -> str:
            return "quick"

        async def broken() -> str:
            raise Transient("no route to motoko")

        reads = {"blocked": blocked, "quick": quick, "broken": broken}
        found = await reader.read("things", reads)
        return found | {"took": time.monotonic() - began}

    try:
        found = await read()
    finally:
        release.set()  # or the loop would wait for the thread
    assert found["quick"] == "quick" and found["took"] < 30
    assert found["blocked"].reason == "not read within 0.3 s"
    assert found["broken"].reason == "no route to motoko"


async def test_dead_machines_hold_up_no_reading_of_a_living_one(
    prefect_server: PrefectServer,
) -> None:
    ended: list[str] = []

    def reads(name: str) -> Any:
        async def dead() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(name)

        async def living() -> None:
            await asyncio.sleep(0)
            ended.append(name)

        return living if name.startswith("living") else dead

    names = [f"{m} {n}" for m in ("dead-1", "dead-2", "living") for n in range(12)]

    @flow
    async def read() -> None:
        reader = Reader(Places(8), deadline_s=3)
        machines = {name: name.split()[0] for name in names}
        work = asyncio.ensure_future(
            reader.read("things", {name: reads(name) for name in names}, machines)
        )
        while len(ended) < 13 and not work.done():
            await asyncio.sleep(0.05)
        work.cancel()

    await read()
    assert sorted(ended[:12]) == sorted(names[24:]), "every one before the first was given up"


async def test_stacks_are_checked_at_the_same_time(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build(until="serving")
    url, paths = scene.spec.services[SERVICE].url, []
    for me, other in (("a", "b"), ("b", "a")):
        # Its state is told once the other stack's is asked for.
        meet = f"touch {tmp_path}/{me}; until [ -e {tmp_path}/{other} ]; do sleep 0.05; done; "
        status = ["sh", "-c", meet + 'echo \'{"phase": "running", "pid": 7}\'']
        service = {"engine": "http", "url": url, "runtime": echo() | {"status": status}}
        paths.append(tmp_path / f"{me}.yaml")
        document = {"name": f"t-{me}", "checks": {"deadline_s": 20}, "services": {"ui": service}}
        paths[-1].write_text(json.dumps(document))

    async def chosen() -> list[str]:
        return list(map(str, paths))

    monkeypatch.setattr(module, "registered", chosen)
    report = await run_here(Request("check-platform", "*", "", (), Options(actor="a")))
    assert isinstance(report, PlatformReport)
    answering = [f for f in report.findings if f.check == "answering"]
    assert [(f.subject, f.status) for f in answering] == [("t-a/ui", "ok"), ("t-b/ui", "ok")]


async def test_a_proxys_file_on_a_dead_mount_is_unknown_by_itself(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await build(until="serving")
    config = tmp_path / "litellm.yaml"
    config.write_text("model_list: []\n")
    proxy = {
        "engine": "litellm",
        "url": scene.spec.services[SERVICE].url,
        "runtime": echo(),
        "serving": {"kind": "litellm", "path": str(config)},
        "work_queue": "another",
    }
    monkeypatch.setattr(limits, "enforced", lambda _: time.sleep(6))
    path = inventory(scene, tmp_path, {"proxy": proxy}, checks={"deadline_s": 2})
    report = await check(path)
    found = of(report, "token limits", "proxy")
    assert (found.status, found.evidence) == ("unknown", "not read within 2 s")
    assert of(report, "decoding").status == "ok"


async def test_many_services_are_few_task_runs(build: Build, tmp_path: Path) -> None:
    scene = await build(until="serving")
    url = scene.spec.services[SERVICE].url
    # Each on a host of its own, which the queue stands for.
    many = {
        f"s{n}": {
            "engine": "http",
            "url": url,
            "runtime": echo(started_at="2026-01-01T00:00:00Z"),
            "work_queue": f"q{n}",
        }
        for n in range(60)
    }
    report = await check(inventory(scene, tmp_path, many))
    assert report.stack == scene.spec.name, "a file is known by the name in it"
    assert len([f for f in report.findings if f.check == "answering" and f.status == "ok"]) == 60
    await asyncio.sleep(1.5)  # task runs reach the server with their events
    async with get_client() as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(report.run_id)]))
        runs = await client.read_task_runs(flow_run_filter=chosen, limit=200)
    assert 4 <= len(runs) < 30


async def test_a_check_that_breaks_is_unknown_and_the_others_speak(build: Build) -> None:
    scene = await build(until="serving")

    async def broken(_: Platform) -> list[Finding]:
        raise ZeroDivisionError("oops")

    async def fine(_: Platform) -> list[Finding]:
        return [Finding(check="fine", subject="x", status="ok")]

    @flow
    async def both() -> list[Finding]:
        platform, _ = await module._platform(scene.spec, module.datetime.now(module.UTC))
        return await findings_of(platform, (("broken", broken), ("fine", fine)))

    first, second = await both()
    assert (first.status, second.status) == ("unknown", "ok") and "oops" in first.evidence


async def test_every_stack_gets_its_report_and_the_worst_decides(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, ill = await build(until="serving"), await build()
    assert {well.spec.name, ill.spec.name} <= set(await registered())
    names = [well.spec.name, ill.spec.name, "t-gone"]

    async def chosen() -> list[str]:
        return names[:2]

    monkeypatch.setattr(module, "registered", chosen)
    report = await run_here(Request("check-platform", "*", "", (), Options(actor="a")))
    assert isinstance(report, PlatformReport)
    assert (report.stack, report.verdict) == ("*", "failed")
    assert report.findings[0].subject == f"{ill.spec.name}/{SERVICE}"
    names[:2] = names[1:]
    report = await run_here(Request("check-platform", "*", "", (), Options(actor="a")))
    assert report.verdict == "error" and "t-gone" in report.message
    told = [note for note in report.notes if "nobody was told" in note]
    assert any("its inventory cannot be read" in note for note in told), report.notes


async def test_an_unknown_stack_is_an_error_with_the_remedy(build: Build) -> None:
    await build(until="serving")
    with pytest.raises(Permanent, match="runbooks apply"):
        await check_platform("t-not-there", Options())


async def test_a_damaged_memory_is_named_and_starts_anew(build: Build, home: Path) -> None:
    scene = await build(until="serving")
    path = home / "checks" / f"{scene.spec.name}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"at": ')
    report = await check(scene.spec.name)
    assert any("memory of the last check" in note for note in report.notes)
    assert (await check(scene.spec.name)).verdict == "passed"
