"""Aligning a proxy's limits with its servers: stand-ins of both, the real Prefect server."""

import difflib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from ruamel.yaml import YAML

from blocks.journal import Journal
from blocks.litellm_proxy import live_limits
from blocks.stack import StackSpec
from deployments.bootstrap import register
from deployments.running import load_flow
from deployments.sandbox.local import Sandbox
from flows.report import Options, Report
from tests.conftest import PrefectServer
from tests.flows.support import QUICK

KEY = "sk-proxy-not-to-be-seen"
ALIGN = "align-token-limits"


class Platform:
    """Two servers, 8192 and 4096 tokens, behind one proxy that was set up for 16384 and 4096."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        for name, length in (("wintermute", 8192), ("armitage", 4096)):
            serving = {"max_model_len": length}
            box.add_vllm(name, serving=serving, params={"startup_s": 0.05})
        box.add_litellm(
            "motoko",
            {
                "llama31": {"backend": "wintermute", "max_input_tokens": 14000, "tpm": 120000},
                "llama31-burst": {"backend": "wintermute", "max_input_tokens": 15000, "rpm": 900},
                "qwen": {"backend": "armitage", "max_input_tokens": 3500},
                "plain": {"backend": "armitage", "rpm": 900},
                "far": {"api_base": "http://127.0.0.1:9/v1", "max_input_tokens": 5},
            },
            master_key=KEY,
        )
        document = box.stack(f"t-{uuid4().hex[:8]}")
        for service in document["services"].values():
            service["policy"] = dict(QUICK)
        self.document = document
        self.file = Path(document["services"]["motoko"]["serving"]["path"])

    @property
    def spec(self) -> StackSpec:
        return StackSpec.model_validate(self.document)

    @property
    def journal(self) -> Journal:
        return Journal(self.document["name"], "motoko")

    async def state(self, *, dry_run: bool = False, **more: Any) -> Any:
        options = Options(actor="ada", source="cli", dry_run=dry_run)
        names = {"stack": self.document["name"], **more}
        return await load_flow(ALIGN)(**names, options=options, return_state=True)

    async def run(self, **more: Any) -> Report:
        state = await self.state(**more)
        report = await state.result(raise_on_failure=False)
        assert isinstance(report, Report), state.message
        return report

    async def live(self) -> dict[str, int]:
        found = await live_limits(self.spec.services["motoko"])
        assert isinstance(found, dict), found
        return {k: v for k, v in found.items() if k.endswith("max_input_tokens")}

    @property
    def pid(self) -> int:
        return self.box.status("motoko")["pid"]


@pytest.fixture
async def platform(
    tmp_path: Path, home: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Any:
    box = Sandbox.create(tmp_path / "box")
    try:
        one = Platform(box)
        for name, value in box.environ().items():
            monkeypatch.setenv(name, value)
        for name in box.services:
            box.start(name)
        for name in box.services:
            box.wait_serving(name, 20)
        await register(one.spec)
        yield one
    finally:
        box.stop_all()


async def test_limits_are_aligned_verified_live_and_then_left_alone(
    platform: Platform, tmp_path: Path
) -> None:
    text, pid = platform.file.read_text(), platform.pid
    observed = deepcopy(platform.document)
    observed["services"]["motoko"]["policy"] = {"autonomy_for": {ALIGN: "observe"}}
    YAML(typ="safe").dump(observed, tmp_path / "observed.yaml")
    for only in ({"dry_run": True}, {"stack": str(tmp_path / "observed.yaml")}):
        planned = await platform.run(**only)
        assert planned.verdict == "planned" and planned.plan, planned.headline
        assert planned.plan.after.limits["llama31.max_input_tokens"] == 7000
    assert (platform.file.read_text(), platform.pid) == (text, pid)
    report = await platform.run()
    assert report.verdict == "passed", report.headline
    assert (report.service, report.procedure) == ("motoko", ALIGN)
    assert report.message == (
        "llama31.max_input_tokens 14000 -> 7000, llama31-burst.max_input_tokens 15000 -> 7500, "
        "plain.max_input_tokens (default) -> 3500; decoding, and stable"
    )
    assert any("far" in note and "none of the stack's" in note for note in report.notes)
    assert await platform.live() == {
        "llama31.max_input_tokens": 7000,
        "llama31-burst.max_input_tokens": 7500,
        "qwen.max_input_tokens": 3500,
        "plain.max_input_tokens": 3500,
        "far.max_input_tokens": 5,
    }
    new = platform.file.read_text()
    lines = [x.strip() for x in difflib.ndiff(text.splitlines(), new.splitlines()) if x[0] in "+-"]
    assert lines == [
        "-       max_input_tokens: 14000",
        "+       max_input_tokens: 7000",
        "-       max_input_tokens: 15000",
        "+       max_input_tokens: 7500",
        "+     model_info:",
        "+       max_input_tokens: 3500",
    ]
    assert platform.pid != pid and platform.journal.entry() is None
    pid = platform.pid
    again = await platform.run()
    assert again.verdict == "passed" and "no action: aligned already" in again.message
    assert platform.pid == pid and platform.file.read_text() == new
    assert KEY not in again.model_dump_json() + report.model_dump_json()


async def test_only_the_chosen_service_and_only_healthy_ones_are_aligned(
    platform: Platform,
) -> None:
    only = await platform.run(service="armitage")
    assert only.verdict == "passed" and "llama31" not in only.message
    assert (await platform.live())["plain.max_input_tokens"] == 3500
    platform.box.stop("armitage")
    rest = await platform.run(proxy="motoko")
    assert rest.verdict == "passed" and "qwen" not in rest.message, rest.headline
    assert any("qwen" in n and "armitage is broken" in n for n in rest.notes)
    live = await platform.live()
    assert live["llama31.max_input_tokens"] == 7000 and live["qwen.max_input_tokens"] == 3500
    platform.box.stop("wintermute")
    text = platform.file.read_text().replace("input_tokens: 3500", "input_tokens: os.environ/Q", 1)
    platform.file.write_text(text)
    none = await platform.run()
    assert any("qwen left alone: max_input_tokens is an os.environ/NAME" in n for n in none.notes)
    assert none.verdict == "inconclusive" and "no server behind it told" in none.message
    assert platform.file.read_text() == text


async def test_a_proxy_that_does_not_come_back_is_put_back(platform: Platform) -> None:
    text = platform.file.read_text()
    # Whatever is asked of it from its next start on fails: the new limits prove nothing.
    platform.box.fault("motoko", status_5xx=True)
    report = await platform.run()
    assert report.verdict == "failed" and "undone" in report.message, report.headline
    assert platform.file.read_text() == text and platform.journal.entry() is None
    platform.box.fault("motoko", clear=True)
    assert (await platform.live())["llama31.max_input_tokens"] == 14000
    async with httpx.AsyncClient(trust_env=False) as client:
        health = await client.get(platform.box.services["motoko"].health_url)
    assert health.status_code == 200


@pytest.fixture
def cold(tmp_path: Path, home: Path, prefect_server: PrefectServer) -> Iterator[Platform]:
    """Nothing of it is started or registered: for what a dry run says before it looks."""
    box = Sandbox.create(tmp_path / "box")
    yield Platform(box)
    box.stop_all()


async def test_what_cannot_be_aligned_is_said(cold: Platform, tmp_path: Path) -> None:
    inventory = tmp_path / "stack.yaml"

    async def said(**more: Any) -> tuple[str, str]:
        YAML(typ="safe").dump(cold.document, inventory)
        state = await cold.state(stack=str(inventory), dry_run=True, **more)
        assert state.is_failed()
        report = await state.result(raise_on_failure=False)
        return state.message, report.next_step if isinstance(report, Report) else ""

    services = cold.document["services"]
    serving = services["motoko"]["serving"]
    services["motoko"]["serving"] = {"kind": "none"}
    message, advice = await said()
    assert "no config file in the inventory" in message and "PATCH /model/{id}/update" in advice
    services["motoko"]["serving"] = serving
    message, advice = await said(service="motoko")
    assert "no model of the proxy is routed to motoko" in message and "routes" in advice
    cold.file.write_text("model_list: []\n")
    message, advice = await said()
    assert "lists no model" in message and "PATCH" in advice
    services["second"] = {
        "engine": "litellm",
        "url": "http://127.0.0.1:9",
        "runtime": {"kind": "docker", "container": "second"},
    }
    assert "has 2 proxies; name one: proxy=motoko" in (await said())[0]
    for name in ("motoko", "second"):
        del services[name]
    assert "has no LiteLLM proxy" in (await said())[0]
    assert "has no LiteLLM proxy" in (await said(service="wintermute"))[0]


async def test_a_restart_that_restarts_nothing_is_found_and_undone(
    platform: Platform, tmp_path: Path
) -> None:
    text, pid = platform.file.read_text(), platform.pid
    platform.document["services"]["motoko"]["runtime"]["restart"] = ["true"]
    YAML(typ="safe").dump(platform.document, tmp_path / "stack.yaml")
    report = await platform.run(stack=str(tmp_path / "stack.yaml"))
    assert report.verdict == "failed", report.headline
    assert "it serves llama31.max_input_tokens 14000, its file says 7000" in report.message
    assert platform.file.read_text() == text and platform.pid == pid
