"""Start a procedure here or on the server, follow it, and show what came of it."""

import asyncio
import getpass
import importlib
import json
import logging
import socket
import time
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from rich.console import Console
from ruamel.yaml import YAML

from blocks.errors import Permanent, Transient
from blocks.stack import StackSpec, is_file, read_stack_file
from blocks.stack_blocks import load_stack
from deployments.console import ENGINE_TALK, quieten
from deployments.nudge import nudge
from deployments.parameters import place, require, scalar
from flows.decisions.diagnosis import Diagnosis
from flows.gpu_watch import GpuWatch
from flows.platform_report import PlatformReport, together
from flows.report import Options, Report

AnyReport = Report | PlatformReport | GpuWatch
"""Of one service, of a whole platform, or of one machine."""


def procedures() -> dict[str, str]:
    """Every procedure with a deployment: name -> module path of its flow."""
    from deployments.bootstrap import prefect_yaml

    declared = YAML(typ="safe").load(prefect_yaml().read_text(encoding="utf-8"))
    entries = [d["entrypoint"] for d in declared["deployments"]]
    return {e.rsplit(".", 1)[1].replace("_", "-"): e for e in entries}


def load_flow(procedure: str) -> Any:
    """The flow of a procedure.

    Raises:
        Permanent: no such procedure; the message lists the known ones.
    """
    known = procedures()
    if procedure not in known:
        raise Permanent(f"procedure {procedure!r} does not exist; known: {', '.join(known)}")
    module, name = known[procedure].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Request:
    """One wanted run."""

    procedure: str
    stack: str
    service: str
    words: tuple[str, ...]
    options: Options

    @classmethod
    def parse(
        cls,
        procedure: str,
        stack: str,
        service: str,
        words: list[str],
        dry_run: bool,
        approval: str,
    ) -> "Request":
        """Check what can be checked without Prefect.

        Raises:
            Permanent: unknown procedure, or a parameter that is no key=value.
        """
        known, procedure = procedures(), procedure.replace("_", "-")
        if procedure not in known:
            raise Permanent(f"procedure {procedure!r} does not exist; known: {', '.join(known)}")
        for word in words:
            if "=" not in word:
                raise Permanent(f"-p {word!r}: write key=value, e.g. -p max_model_len=8192")
        if not stack:
            raise Permanent("--stack is missing: a registered name or FILE.yaml")
        actor = f"{getpass.getuser()}@{socket.gethostname()}"
        options = Options(dry_run=dry_run, approval=approval, actor=actor, source="cli")
        return cls(procedure, stack, service, tuple(words), options)

    def waiting(self, wait: bool) -> "Request":
        """The same; whether the run waits for an approval, or is refused at once."""
        return replace(self, options=self.options.model_copy(update={"wait": wait}))

    def tags(self) -> list[str]:
        """What an operator finds the run by, from its very beginning."""
        own = {"procedure": self.procedure, "actor": self.options.actor, "source": "cli"}
        of = {"stack": self.stack, "service": self.service} if "*" not in self.stack else {}
        return [f"{k}:{v}" for k, v in {**own, **of}.items() if v and v != "*"]

    def parameters(self, flow: Any, spec: StackSpec | None) -> dict[str, Any]:
        """The flow's parameters; a key it does not have is looked for in its nested models.

        Raises:
            Permanent: an unknown key or an invalid value, named.
        """
        schema = {k: v for k, v in flow.fn.__annotations__.items() if k != "return"}
        values: dict[str, Any] = {"stack": spec.name if spec else self.stack}
        if self.service:
            values["service"] = self.service
            if spec and self.service != "*":
                spec.service(self.service)
        elif "service" in flow.parameters.required:
            known = ", ".join(spec.services) if spec else "none"
            raise Permanent(f"--service is missing for {self.procedure}; one of: {known}")
        for word in self.words:
            key, text = word.split("=", 1)
            place(values, schema, key, scalar(text))
        if spec:
            require(values, "host", list(spec.hosts))
            require(values, "proxy", [n for n, s in spec.services.items() if s.engine == "litellm"])
        values["options"] = {**self.options.model_dump(), **values.get("options", {})}
        logging.getLogger("prefect.flows").disabled = True  # its page of pydantic is not for people
        try:
            return dict(flow.validate_parameters(values))
        except Exception as e:
            words = str(e).partition("Parameters:")[0].strip()
            raise Permanent(f"{self.procedure}: {words}") from e


async def _inventory(request: Request) -> StackSpec | None:
    """The stack; one given as a file is registered, so that its locks and blocks exist."""
    if request.stack == "*":
        return None
    if not is_file(request.stack):
        return await load_stack(request.stack)
    from deployments.bootstrap import register

    spec = read_stack_file(request.stack)
    await register(spec)
    return spec


async def run_here(request: Request) -> AnyReport:
    """Run in this process; Ctrl-C undoes what was begun."""
    quieten()
    flow = load_flow(request.procedure)
    spec = await _inventory(request)
    parameters = request.parameters(flow, spec)
    state = await flow(**parameters, return_state=True)
    report = await state.result(raise_on_failure=False)
    if isinstance(report, AnyReport):
        return report
    raise Permanent(f"{request.procedure} did not get to a verdict: {state.message}")


async def run_there(request: Request, console: Console) -> AnyReport:
    """Submit to the server and follow until it ends; Ctrl-C leaves the run going."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    flow = load_flow(request.procedure)
    spec = await _inventory(request)
    parameters = request.parameters(flow, spec)
    service = spec.services.get(request.service) if spec else None
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name("/".join([request.procedure] * 2))
        except ObjectNotFound as e:
            raise Permanent(
                f"{request.procedure} is not deployed on this server; restart `runbooks up`"
            ) from e
        dumped = {
            k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in parameters.items()
        }
        run = await client.create_flow_run_from_deployment(
            deployment.id,
            parameters=dumped,
            idempotency_key=str(uuid4()),
            tags=request.tags(),
            # The queue of the worker on the host that can reach the service.
            work_queue_name=service.work_queue if service else None,
        )
        nudge()
        console.print(f"run {run.name} ({run.id})", highlight=False)
        state = await _follow(client, run.id, console)
        report = await _read_report(client, run.id)
    if report is None:
        raise Transient(f"the run ended {state.name} without a record: {state.message}")
    return report


async def _follow(client: Any, run_id: Any, console: Console) -> Any:
    """Print the run's log until it ends."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    seen, began, warned, quiet = 0, time.monotonic(), False, 0
    paused: Any = None
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    while True:
        run = await client.read_flow_run(run_id)
        logs = await client.read_logs(wanted, limit=200, offset=seen, sort=LogSort.TIMESTAMP_ASC)
        for line in logs:
            if not line.message.startswith(ENGINE_TALK):
                console.print(f"  {line.message}", style="dim", highlight=False, markup=False)
        seen += len(logs)
        # A run ships its log every two seconds: the last lines may come after its end.
        quiet = 0 if logs else quiet + 1
        if run.state and run.state.is_final() and quiet >= (8 if seen == 0 else 2):
            return run.state
        waiting = run.state is None or run.state.is_scheduled() or run.state.is_pending()
        if waiting and not warned and time.monotonic() - began > 20:
            warned = True
            console.print("still waiting for a worker: is `runbooks up` running?", style="yellow")
        if run.state and run.state.is_paused() and run.state.id != paused:
            paused = run.state.id
            words = f"it waits for an approval: runbooks approve {run.id} (or reject)"
            console.print(words, style="yellow", highlight=False)
        await asyncio.sleep(0.3)


async def _read_report(client: Any, run_id: Any) -> AnyReport | None:
    """The record of a run: several platforms of one run are one report again."""
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        ArtifactFilterType,
    )

    found = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]),
            type=ArtifactFilterType(any_=["result"]),
        )
    )
    ours = sorted((a for a in found if str(a.key or "").endswith("-data")), key=lambda a: a.created)
    data = [a.data for a in ours]
    # The server hands JSON data back as its text.
    values = [json.loads(d) if isinstance(d, str) else d for d in data]
    if not values:
        return None
    if values[0]["procedure"] == "check-platform":
        platforms = [PlatformReport.model_validate(v) for v in values]
        return together(sorted(platforms, key=lambda r: r.stack))
    if values[0]["procedure"] == "watch-gpus":
        return GpuWatch.model_validate(values[0])
    return Report.model_validate(values[-1])  # what an outage of a proxy ends with, its backend's


async def recent(limit: int) -> list[dict[str, Any]]:
    """The latest runs, newest first."""
    from prefect import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    async with get_client() as client:
        found = await client.read_flow_runs(limit=limit, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    rows = []
    for run in found:
        tags = dict(t.split(":", 1) for t in run.tags if ":" in t)
        rows.append(
            {
                "at": f"{run.expected_start_time:%Y-%m-%d %H:%M:%S}",
                "name": run.name,
                "id": str(run.id),
                "state": run.state.name if run.state else "?",
                "message": (run.state.message if run.state else "") or "",
                "took": f"{run.total_run_time.total_seconds():.1f} s",
                "actor": tags.get("actor", ""),
            }
        )
    return rows


async def diagnose_service(stack: str, service: str) -> Diagnosis:
    """Diagnose a service of the inventory from its log and state, changing nothing."""
    from blocks.target import load_target, runtime_of
    from flows.decisions.diagnosis import diagnose, without_cause

    runtime = runtime_of(await load_target(stack, service))
    state, log = await asyncio.gather(runtime.state(), runtime.read_log())
    ended = state.phase in ("exited", "restarting")
    found = await asyncio.to_thread(
        diagnose, log, state.exit_code if ended else None, state.oom_killed
    )
    return found if state.running else without_cause(found)
