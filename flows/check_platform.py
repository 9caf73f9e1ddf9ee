"""The daily check: one short report of what is wrong, how it is known, and what would fix it.

Handbooks: 001 "Morning Checks"; 000, 5 "Daily" and 2.1 (never latest); 002 and 003, "Maintenance:
Daily"; 004 "Token Limit Errors".
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.check_memory import CheckMemory, load_memory, save_memory
from blocks.deadline import LeaveBehind
from blocks.errors import Permanent, RunbookError
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack, registered
from flows.checks.platform_view import Platform
from flows.checks.registry import CHECKS, Check
from flows.dead_man import HOOKS
from flows.decisions.check_memory import remember
from flows.decisions.finding import Finding
from flows.platform_record import publish
from flows.platform_report import (
    PlatformReport,
    not_looked_at,
    ordered,
    summary,
    together,
    verdict_of,
)
from flows.procedure import state_of, tag
from flows.report import Options
from tasks.places import Places

PROCEDURE = "check-platform"
EVERY = "*"


@flow(name="check-platform", flow_run_name="check-platform {stack}", **HOOKS)
async def check_platform(
    stack: str = EVERY,
    options: Options = Options(),  # noqa: B008
) -> State[PlatformReport]:
    """Check a platform and report what is wrong, how it is known, and what would fix it.

    Services decoding, restarts, error lines, alerts, service levels, certificates, machines and
    GPUs, token limits, pinned images and drift, all at once; what does not answer within the
    deadline is unknown and delays nothing else. Several stacks are checked at the same time.
    Changes nothing.

    Args:
        stack: Registered stack, the path of its YAML file, or * for every registered one.
        options: Actor and source; a dry run tells nobody and remembers nothing.
    """
    if "auto-scheduled" in (flow_run.tags or ()):
        options = options.model_copy(update={"source": "schedule", "actor": "schedule"})
    names = list(await registered()) if stack == EVERY else [stack]
    if not names:
        raise Permanent("no stack is registered; run: runbooks apply STACK.yaml")
    stacks = {name: await _loaded(name, lenient=stack == EVERY) for name in names}
    named = [s.name if isinstance(s, StackSpec) else n for n, s in stacks.items()]
    await tag(PROCEDURE, options, *(f"stack:{name}" for name in named))
    # A blocking reading of what does not answer (a dead mount, a machine that is off) must neither
    # take a thread from the others nor hold up the end of this run.
    asyncio.get_running_loop().set_default_executor(LeaveBehind())
    loaded = [spec for spec in stacks.values() if isinstance(spec, StackSpec)]
    places = Places(max((spec.checks.at_once for spec in loaded), default=1))
    checks = (_check(name, spec, options, places) for name, spec in stacks.items())
    return state_of(together(await asyncio.gather(*checks)))


async def _loaded(name: str, *, lenient: bool) -> StackSpec | RunbookError:
    """The inventory; with `lenient`, an error is returned, so that the other stacks are checked.

    Raises:
        Permanent: unknown or faulty stack.
    """
    try:
        return await load_stack(name)
    except RunbookError as e:
        if not lenient:
            raise
        return e


async def _check(
    name: str, spec: StackSpec | RunbookError, options: Options, places: Places
) -> PlatformReport:
    """One platform: read, judge, remember, tell."""
    began, now = time.monotonic(), datetime.now(UTC)
    about: dict[str, Any] = {
        "procedure": PROCEDURE,
        "run_id": str(flow_run.id),
        "actor": options.actor or "unknown",
        "source": options.source,
        "started_at": now,
    }
    tell = not options.dry_run
    if isinstance(spec, RunbookError):
        error = {"stack": name, "verdict": "error", "message": str(spec), "duration_s": 0}
        return await publish(PlatformReport(**about, **error), None, tell=tell)
    platform, notes = await _platform(spec, now, places)
    if lacks := not_looked_at(spec):
        notes.append(lacks)
    findings = ordered(await findings_of(platform))
    report = PlatformReport(
        **about,
        stack=spec.name,
        verdict=verdict_of(findings),
        message=summary(findings, len(spec.services)),
        findings=findings,
        services=tuple(spec.services),
        notes=tuple(notes),
        duration_s=round(time.monotonic() - began, 3),
    )
    if tell:
        report = await _remember(platform, report)
    return await publish(report, spec.slack, tell=tell)


async def findings_of(
    platform: Platform, checks: tuple[tuple[str, Check], ...] = CHECKS
) -> list[Finding]:
    """Every finding of every check, all made at once; one that breaks is unknown by itself."""
    found = await asyncio.gather(*(_one(name, check, platform) for name, check in checks))
    return [finding for findings in found for finding in findings]


async def _one(name: str, check: Check, platform: Platform) -> list[Finding]:
    try:
        return await check(platform)
    except Exception as e:  # noqa: BLE001 - the other checks still tell what they see
        get_run_logger().exception("check %s broke", name)
        why = f"the check itself broke: {type(e).__name__}: {str(e)[:200]}"
        return [Finding(check=name, subject=platform.spec.name, status="unknown", evidence=why)]


async def _platform(
    spec: StackSpec, now: datetime, places: Places | None = None
) -> tuple[Platform, list[str]]:
    """The platform with the memory of the last check; a damaged memory is a note, not the end."""
    memory: CheckMemory | None = None
    notes = []
    try:
        memory = await asyncio.to_thread(load_memory, spec.name)
    except RunbookError as e:
        notes.append(str(e))
    return Platform(spec, now, memory, places), notes


async def _remember(platform: Platform, report: PlatformReport) -> PlatformReport:
    """Leave the next check what it compares with; a full disk does not change the verdict."""
    readings = (await platform.services()).values()
    memory = remember(platform.memory, readings, platform.now)
    try:
        await asyncio.to_thread(save_memory, platform.spec.name, memory)
    except RunbookError as e:
        return report.model_copy(update={"notes": (*report.notes, str(e))})
    return report
