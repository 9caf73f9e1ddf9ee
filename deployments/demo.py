"""`make demo`: the main job on the embedded sandbox, narrated, with the UI beside it."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from blocks.errors import RunbookError
from blocks.journal import home
from blocks.ladder import Ladder
from deployments.sandbox.local import Sandbox

if TYPE_CHECKING:  # a report imports Prefect, which reads its settings when it is imported
    from flows.report import Report

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
        _step(
            console, 1, f"Prefect server and worker are up after {time.monotonic() - began:.0f} s"
        )
        console.print(f"    {platform.ui}", style="cyan", highlight=False)
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
    from deployments.scenarios import SERVICE, load_one
    from deployments.staging import stage
    from flows.decisions.diagnosis import diagnose
    from flows.report import Options, Report

    scenario = load_one(SCENARIO)
    spec = await stage(scenario, box)
    await register(spec)
    status = await asyncio.to_thread(box.status, SERVICE)
    log = await asyncio.to_thread(box.logs, SERVICE)
    found = diagnose(log, exit_code=status["exit_code"])
    _step(console, 2, f"vLLM server {SERVICE!r} dies at its start, exit code {status['exit_code']}")
    _say(console, scenario.story.split(". ")[0] + ". The last line of its log:")
    _say(console, log.splitlines()[-1], style="red", indent=6)
    cause = re.sub(r"^.*?(?=[A-Z]\w+Error: )", "", found.evidence[0]) if found.evidence else ""
    _say(console, f"The cause stands {_lines_above_end(log, found.evidence)} lines above it:")
    _say(console, cause, style="yellow", indent=6)

    _step(console, 3, f"{scenario.procedure} runs on the server, started as any run is")
    request = Request(
        scenario.procedure, spec.name, SERVICE, (), Options(actor="demo", source="cli")
    )
    quiet = Console(quiet=True)  # its log is in the UI; here it is told
    with console.status("diagnosing, deciding, acting, verifying ..."):
        report = await run_there(request, quiet)
    if not isinstance(report, Report) or report.verdict != "passed" or not report.attempts:
        show(report, console)
        console.print(f"[red]the verdict was {report.verdict}[/], see {home() / 'logs'}")
        return 1
    _tell_what_was_done(console, report, spec.services[SERVICE].ladder)
    await _tell_where_to_look(console, ui, report)
    return 0


def _tell_what_was_done(console: Console, report: "Report", ladder: Ladder) -> None:
    done = report.attempts[-1]
    checked = done.verification
    length = done.plan.changes.get("max_model_len")
    between = [n for n in ladder.max_model_len if length and length[0] > n > length[1]]
    skipped = "".join(f"; {n} skipped, it cannot fit" for n in between)
    facts = report.diagnosis.facts if report.diagnosis else {}
    rows = [
        (
            "found",
            f"{report.diagnosis.label if report.diagnosis else '?'}: one request needs "
            f"{facts.get('kv_needed_gib')} GiB of KV cache, {facts.get('kv_available_gib')} "
            f"are there, so {facts.get('estimated_max_model_len')} tokens would fit",
        ),
        ("decided", f"[bold]{done.plan.summary()}[/]{skipped}"),
        ("acted", f"{report.first_act_s:.1f} s after its start: config written, restarted once"),
        (
            "verified",
            f"[green]{checked.outcome}[/]: first token {checked.first_token_s:.1f} s after the "
            f"restart, watched for {checked.total_s:.1f} s",
        ),
        ("recorded", f"before and after, evidence and chart; {report.duration_s:.1f} s in all"),
        ("undo", "none needed; had it not decoded, the old config would be back"),
    ]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), width=min(console.width, 80))
    table.add_column(style="bold", min_width=12)
    table.add_column(overflow="fold")
    for what, text in rows:
        table.add_row(f"    {what}", text)
    console.print(table, highlight=False)


async def _tell_where_to_look(console: Console, ui: str, report: "Report") -> None:
    """Addresses of this very run: they stand alone on a line, to be clicked or copied."""
    base, record, form = await _addresses(ui, report)
    _step(console, 4, "What to click next")
    for what, url in (
        ("the record of this run", record),
        ("start it yourself, from a form (stack: sandbox, service: wintermute)", form),
        ("the inventory; edit the ladder there", f"{base}/blocks"),
    ):
        _say(console, what)
        console.print(url, style="cyan", soft_wrap=True, highlight=False)
    _say(console, "Other failures to play: runbooks scenario list")


async def _addresses(ui: str, report: "Report") -> tuple[str, str, str]:
    """Of the default UI (Prefect has two), of the run's record, of the procedure's form."""
    import httpx

    base, record, form = ui, f"{ui}/runs", f"{ui}/deployments"
    flow, wanted = report.procedure, f"{report.procedure}-record"
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, StopIteration):
        async with httpx.AsyncClient(base_url=ui, timeout=10, trust_env=False) as client:
            settings = (await client.get("/ui-settings")).raise_for_status().json()
            base = (ui + (settings[f"{settings['default_ui']}_base_url"] or "")).rstrip("/")
            record, form = f"{base}/runs/flow-run/{report.run_id}", f"{base}/deployments"
            got = await client.get(f"/api/deployments/name/{flow}/{flow}")
            form += f"/deployment/{got.raise_for_status().json()['id']}/run"
            body = {"artifacts": {"flow_run_id": {"any_": [report.run_id]}}}
            found = await client.post("/api/artifacts/filter", json=body)
            page = next(a for a in found.raise_for_status().json() if a["key"] == wanted)
            record = f"{base}/artifacts/artifact/{page['id']}"
    return base, record, form


def _step(console: Console, number: int, title: str) -> None:
    console.print(f"\n[bold]{number}[/]   [bold]{title}[/]", highlight=False)


def _say(console: Console, text: str, *, style: str = "", indent: int = 4) -> None:
    room = " " * indent
    lines = textwrap.fill(text, min(console.width, 80), initial_indent=room, subsequent_indent=room)
    console.print(lines, style=style, markup=False, highlight=False)


def _lines_above_end(log: str, evidence: tuple[str, ...]) -> int:
    lines, shown = log.splitlines(), evidence[0].strip("…")[:80] if evidence else "\0"
    return next((len(lines) - 1 - n for n, line in enumerate(lines) if shown in line), 0)
