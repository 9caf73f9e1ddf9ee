"""Watch a machine's GPUs for a while: every sample to CSV, the page with table and chart.

Handbooks: 001 "GPU monitoring" (nvidia-smi dmon, --query-gpu), 003 "nvidia-smi -l 1".
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from blocks.errors import Permanent
from blocks.gpu_host import GpuHostSpec
from blocks.gpu_window import GpuWindow
from blocks.journal import home
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack
from flows.dead_man import HOOKS
from flows.gpu_charts import gpu_png
from flows.gpu_watch import GpuWatch, judged, next_step, page, slack_text
from flows.procedure import state_of, tag
from flows.report import Options
from tasks.host_reads import read_host_task, sample_gpus
from tasks.records import attempted, publish_artifact, publish_event, publish_slack

PROCEDURE = "watch-gpus"
Seconds = Annotated[float, Field(ge=1, le=3600)]
Interval = Annotated[float, Field(ge=0.2, le=60)]


@flow(name="watch-gpus", flow_run_name="watch-gpus {stack} {host}", **HOOKS)
async def watch_gpus(
    stack: str,
    host: str,
    window_s: Seconds = 60,
    interval_s: Interval = 1,
    options: Options = Options(),  # noqa: B008
) -> State[GpuWatch]:
    """Sample one machine's GPUs for a window, and say whether anything was exceeded.

    Utilization, memory, temperature, power, uncorrected ECC errors and Xids; least, mean and most
    of each, a chart, and every sample in a CSV file that a kill leaves whole. No driver is
    inconclusive. Changes nothing. Handbook: GPU monitoring.

    Args:
        stack: Registered stack, or the path of its YAML file.
        host: Machine of that stack, by its name under hosts.
        window_s: How long, 1 to 3600 seconds.
        interval_s: From one sample to the next, 0.2 to 60 seconds.
        options: Actor and source; a dry run reads once, and keeps and tells nothing.
    """
    began, now = time.monotonic(), datetime.now(UTC)
    if "auto-scheduled" in (flow_run.tags or ()):
        options = options.model_copy(update={"source": "schedule", "actor": "schedule"})
    spec = await load_stack(stack)
    machine = _machine(spec, host)
    if not machine.gpus:
        raise Permanent(f"host {host!r} has gpus: false in the inventory: nothing to watch")
    await tag(PROCEDURE, options, f"stack:{spec.name}", f"host:{host}")
    about = {"stack": spec.name, "host": host, "run_id": str(flow_run.id), "started_at": now}
    about |= {"actor": options.actor or "unknown", "source": options.source}
    if options.dry_run:
        found = await _planned(spec, host, window_s, interval_s)
        return state_of(GpuWatch(**about, **found, duration_s=time.monotonic() - began))
    file = home() / "gpus" / spec.name / f"{host}-{now:%Y%m%dT%H%M%S%fZ}.csv"
    window = await sample_gpus(host, machine, spec.prometheus, str(file), window_s, interval_s)
    report = _report(spec, host, window, {**about, "duration_s": time.monotonic() - began})
    level = get_run_logger().info if report.verdict == "passed" else get_run_logger().warning
    level(report.headline)
    return state_of(await _publish(report, spec, window))


def _machine(spec: StackSpec, host: str) -> GpuHostSpec:
    if host not in spec.hosts:
        known = ", ".join(spec.hosts) or "none; add a section hosts to the stack"
        raise Permanent(f"host {host!r} is not in stack {spec.name!r}; known: {known}")
    return spec.hosts[host]


async def _planned(
    spec: StackSpec, host: str, window_s: float, interval_s: float
) -> dict[str, Any]:
    """What a dry run says: whether there would be anything to watch."""
    reading = await read_host_task(host, spec.hosts[host], spec.prometheus)
    if not reading.gpus:
        why = reading.about("gpus") or "the driver lists no GPU"
        return {"verdict": "inconclusive", "message": f"there is nothing to watch: {why}"[:500]}
    return {
        "verdict": "planned",
        "message": f"would sample {len(reading.gpus)} GPUs every {interval_s:g} s for "
        f"{window_s:g} s",
        "notes": reading.problems[:4],
    }


def _report(spec: StackSpec, host: str, window: GpuWindow, about: dict[str, Any]) -> GpuWatch:
    verdict, message, findings = judged(host, window, spec.checks)
    bare = [g.model_copy(update={"curves": {}, "times_s": ()}) for g in window.gpus]
    return GpuWatch(
        **about,
        verdict=verdict,
        message=message,
        findings=findings,
        window=window.model_copy(update={"gpus": tuple(bare)}),
        next_step=next_step(verdict, findings, window),
    )


async def _publish(report: GpuWatch, spec: StackSpec, window: GpuWindow) -> GpuWatch:
    """The record; whatever cannot be published becomes a note, and changes no verdict."""
    notes = []
    if report.verdict != "passed" and spec.slack:
        slack, title = spec.slack, f"⚠️ {PROCEDURE} {report.host}"
        problem = await attempted(
            "Slack", lambda: publish_slack(slack, title, slack_text(report), None)
        )
        notes.append(problem or f"told {slack.channel} on Slack")
    report = report.model_copy(update={"notes": (*report.notes, *notes)})
    data, said = report.model_dump(mode="json"), report.headline
    payload = {"run_id": report.run_id, "message": report.message, "actor": report.actor}
    tried = [
        await attempted(
            "event",
            lambda: publish_event(
                f"runbooks.{PROCEDURE}.{report.verdict}",
                f"runbooks.host.{report.stack}.{report.host}",
                payload,
            ),
        ),
        await attempted("data", lambda: publish_artifact(f"{PROCEDURE}-data", data, said)),
        await attempted("record", lambda: _publish_page(report, spec, window)),
    ]
    return report.model_copy(update={"notes": (*report.notes, *(p for p in tried if p))})


async def _publish_page(report: GpuWatch, spec: StackSpec, window: GpuWindow) -> None:
    chart = await asyncio.to_thread(gpu_png, window, spec.checks)
    await publish_artifact(f"{PROCEDURE}-record", page(report, chart), report.headline)
