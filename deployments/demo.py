"""`make demo`: the main job on the embedded sandbox, narrated, with the UI beside it."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule

from blocks.errors import RunbookError
from blocks.journal import home
from deployments.sandbox.local import Sandbox

SCENARIO = "kv-cache-too-small"


def demo_home() -> Path:
    """The demo keeps to a folder of its own: it must never touch an operator's server."""
    return Path(os.environ.get("RUNBOOKS_DEMO_HOME") or home() / "demo")


async def tell(console: Console, *, leave: bool) -> int:
    """Play the demo; 0 when the verdict was `passed`. `leave` stops everything at the end."""
    began = time.monotonic()
    os.environ["RUNBOOKS_HOME"] = str(demo_home())
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.pop("PREFECT_API_URL", None)
    from deployments.up import Platform

    platform = Platform(say=lambda s: console.print(f"  {s}", markup=False, highlight=False))
    box = Sandbox.create(_fresh(demo_home() / "sandbox"))
    interrupted = _interruption()
    code = 1
    try:
        console.print(Rule("llm-runbooks: a vLLM server dies at 3 a.m."))
        with console.status("starting Prefect server and worker on loopback ..."):
            await platform.start()
        console.print(
            f"[bold]1[/] Prefect is up at [bold]{platform.ui}[/] "
            f"after {time.monotonic() - began:.0f} s",
            highlight=False,
        )
        code = await _incident(console, box, platform.ui)
        if not leave:
            console.print("Ctrl-C stops everything.", style="dim")
            await interrupted.wait()
    except RunbookError as e:
        console.print(f"[red]the demo could not be played:[/] {e}", highlight=False)
    finally:
        with console.status("stopping ..."):
            await asyncio.to_thread(box.stop_all)
            await platform.stop()
    return code


def _fresh(folder: Path) -> Path:
    """An empty sandbox folder; stand-ins of an earlier demo that was killed are stopped."""
    if folder.exists():
        old = Sandbox.create(folder)
        for service in folder.iterdir():
            if (service / "service.json").exists():
                old.add_vllm(service.name)
        old.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def _interruption() -> asyncio.Event:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if event.is_set() and task:
            task.cancel()
        event.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, on_signal)
    return event


async def _incident(console: Console, box: Sandbox, ui: str) -> int:
    """Stage the failure, run the procedure on the server, tell what happened."""
    from deployments.bootstrap import register
    from deployments.console import show
    from deployments.running import Request, run_there
    from deployments.scenarios import SERVICE, load_one, stage
    from flows.decisions.diagnosis import diagnose
    from flows.report import Options

    scenario = load_one(SCENARIO)
    spec = await stage(scenario, box)
    await register(spec)
    log = await asyncio.to_thread(box.logs, SERVICE)
    found = diagnose(log, exit_code=1)
    console.print(f"[bold]2[/] {scenario.story}", highlight=False)
    console.print(Panel(log.splitlines()[-1], title="the last line of its log", border_style="red"))
    console.print(
        f"  the root cause stands {_lines_above_end(log, found.evidence)} lines above it:",
        highlight=False,
    )
    for line in found.evidence[:1]:
        console.print(f"  {line}", style="yellow", markup=False, highlight=False)
    console.print(f"[bold]3[/] running [bold]remediate-oom[/] on {ui}", highlight=False)
    request = Request(
        scenario.procedure,
        spec.name,
        SERVICE,
        (),
        Options(actor="demo", source="cli"),
    )
    report = await run_there(request, console)
    show(report, console)
    passed = report.verdict == "passed"
    console.print(
        Panel(
            f"[bold]{ui}/runs[/]          the run; open it, then its artifacts: the record\n"
            f"[bold]{ui}/deployments[/]   Run > Custom run: the same from the UI, with a form\n"
            f"[bold]{ui}/blocks[/]        the inventory; edit the ladder there\n"
            "[bold]runbooks scenario list[/]       other failures to play",
            title="what to click next",
        )
        if passed
        else f"[red]the verdict was {report.verdict}[/], see {home() / 'logs'}"
    )
    return 0 if passed else 1


def _lines_above_end(log: str, evidence: tuple[str, ...]) -> int:
    lines, shown = log.splitlines(), evidence[0].strip("…")[:80] if evidence else "\0"
    return next((len(lines) - 1 - n for n, line in enumerate(lines) if shown in line), 0)
