"""Scenarios: a failure, what triggers it, and what must come of it; played on the sandbox."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from blocks.errors import GuardReason, Permanent
from blocks.journal import Verdict
from blocks.ladder import Ladder
from blocks.models import Frozen, ServingConfig
from blocks.stack import StackSpec
from blocks.target import load_target
from deployments.sandbox.local import Sandbox
from deployments.scenario_steps import Came, Step
from flows.decisions.health import judge
from flows.report import Options, Report
from flows.verify import expectation
from tasks.reads import look

FOLDER = Path(__file__).with_name("sandbox") / "scenarios"
SERVICE = "wintermute"


class Proxy(Frozen):
    """A LiteLLM proxy in front of the server."""

    limits: dict[str, int] = Field(
        default={}, description="max_input_tokens, tpm, rpm, ... of the one model it serves"
    )
    params: dict[str, Any] = Field(default={}, description="fields of ProxySettings")
    allowed_fails: int = Field(default=0, description="failures before its backend rests")
    cooldown_s: float = Field(default=30, description="how long a backend rests, seconds")


class Platform(Frozen):
    """The stand-in: hardware preset, where its numbers live, what it is started with."""

    preset: str = "wintermute"
    style: Literal["yaml", "env-file"] = "yaml"
    serving: dict[str, Any] = {}
    params: dict[str, Any] = Field(default={}, description="fields of vllm_settings.Settings")
    restart: str = "no"
    ladder: Ladder = Ladder()
    policy: dict[str, Any] = {}
    slo: dict[str, float] = Field(default={}, description="objectives, as in the inventory")
    proxy: Proxy | None = Field(default=None, description="a LiteLLM proxy, named motoko")
    model_link: bool = Field(default=False, description="the model is named by a symlink")


class Trigger(Frozen):
    """What makes it fail, and what the procedure then finds."""

    requests: int = Field(default=0, ge=0, le=1000, description="completions sent to it")
    faults: dict[str, Any] = Field(default={}, description="injected after it failed")
    passing_faults: dict[str, Any] = Field(default={}, description="the same; a restart ends them")
    break_link: bool = Field(default=False, description="the model's symlink loses its target")
    stop: bool = Field(default=False, description="its process is killed")
    proxy_requests: int = Field(default=0, ge=0, le=1000, description="sent through the proxy")
    traffic: int = Field(default=0, ge=0, le=64, description="clients while the procedure runs")
    until: Literal["exited", "loading", "serving"] = "exited"


class Expectation(Frozen):
    """What must come of it."""

    diagnosis: str | None = None
    changes: dict[str, tuple[Any, Any]] = {}
    """Field -> (before, after) of what is in place at the end; empty: nothing changed."""
    acts: int = 0
    verdict: Verdict | None = Field(default=None, description="of the report; none without a run")
    blocked_by: GuardReason | None = None
    message: str = Field(default="", description="words that the outcome must contain")
    decoding: bool = Field(description="whether the service decodes at the end")
    came: Came = Field(default=Came(), description="[of the steps](#came)")


class Scenario(Frozen):
    """One way a platform fails that the product claims to handle."""

    name: str
    title: str
    story: str
    platform: Platform = Platform()
    trigger: Trigger = Trigger()
    procedure: str = "remediate-oom"
    service: str = Field(default=SERVICE, description="which service it is run on")
    parameters: dict[str, Any] = Field(default={}, description="further ones of the procedure")
    stack: dict[str, Any] = Field(default={}, description="further sections of the inventory")
    steps: tuple[Step, ...] = Field(
        default=(), description="[what happens](#steps), instead of the procedure's run"
    )
    expect: Expectation

    @model_validator(mode="after")
    def _has_a_verdict(self) -> Self:
        if self.expect.verdict is None and (not self.steps or self.expect.came.runs):
            raise ValueError("expect.verdict is missing, and a run has one")
        return self


class Played(Frozen):
    """How one play went."""

    scenario: str
    ok: bool
    problems: tuple[str, ...]
    report: Report | None
    """Of the last run; None where nothing was to run."""
    stack_file: str

    @property
    def headline(self) -> str:
        """Its one line."""
        return self.report.headline if self.report else "nothing was run"


def load_one(name: str) -> Scenario:
    """One scenario by name.

    Raises:
        Permanent: unknown, or its file has a fault.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise Permanent(f"scenario {name!r} does not exist; known: {known}")
    try:
        return Scenario(name=name, **YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (ValidationError, TypeError) as e:
        raise Permanent(f"{path.name}: {e}") from e


def load_all() -> list[Scenario]:
    """Every scenario, by name."""
    return [load_one(p.stem) for p in sorted(FOLDER.glob("*.yaml"))]


async def play(scenario: Scenario, *, keep: bool = False) -> Played:
    """Play one scenario and compare the outcome with the expectation.

    The procedure runs in this process; the runs of one with steps do on the `runbooks up` that
    serves this home (deployments.plays).
    """
    from deployments.bootstrap import register
    from deployments.plays import play_steps
    from deployments.running import load_flow
    from deployments.staging import stage, traffic

    if scenario.steps:
        return await play_steps(scenario, keep=keep)
    box = Sandbox.create(tempfile.mkdtemp(prefix=f"runbooks-{scenario.name}-"))
    try:
        spec = await stage(scenario, box)
        spec = spec.model_copy(update={"name": f"sandbox-{uuid4().hex[:8]}"})
        await register(spec)
        flow = load_flow(scenario.procedure)
        options = Options(actor="scenario", source="cli")
        more = {"service": scenario.service, **scenario.parameters, "options": options}
        async with traffic(scenario, box):
            state = await flow(stack=spec.name, **more, return_state=True)
        report = await state.result(raise_on_failure=False)
        if not isinstance(report, Report):
            raise Permanent(f"{scenario.name}: no verdict, {state.message}")
        problems = await compare(scenario.expect, report, spec)
    finally:
        if not keep:
            await asyncio.to_thread(box.stop_all)
            await asyncio.to_thread(shutil.rmtree, box.dir, ignore_errors=True)
    return Played(
        scenario=scenario.name,
        ok=not problems,
        problems=tuple(problems),
        report=report,
        stack_file=str(box.dir / "stack.yaml") if keep else "",
    )


async def compare(expect: Expectation, report: Report, spec: StackSpec) -> list[str]:
    """Everything that came out otherwise than expected, a line each."""
    found = report.diagnosis.label if report.diagnosis else None
    kept = [a for a in report.attempts if a.kept]
    changes = kept[-1].plan.changes if kept else {}
    decoding = await decodes(spec, report)
    pairs = [
        ("diagnosis", expect.diagnosis, found),
        ("verdict", expect.verdict, report.verdict),
        ("blocked by", expect.blocked_by, report.blocked_by),
        ("acts", expect.acts, len(report.attempts)),
        ("changes", expect.changes, changes),
        ("decoding at the end", expect.decoding, decoding),
    ]
    problems = [f"{what}: expected {want}, got {got}" for what, want, got in pairs if want != got]
    if expect.message and expect.message not in report.message:
        problems.append(f"message: expected {expect.message!r} in {report.message!r}")
    return problems


async def decodes(spec: StackSpec, report: Report | None) -> bool:
    """Whether the service answers with what the last kept plan says."""
    target = await load_target(spec.name, SERVICE)
    state, serving = await look(target)
    return judge(state, serving, expectation(target, _last_config(report))).status == "healthy"


def _last_config(report: Report | None) -> ServingConfig:
    kept = [a for a in report.attempts if a.kept] if report else []
    return kept[-1].plan.after if kept else ServingConfig()
