"""What Slack is shown of the platform: records of runs, the last check, a look now."""

import asyncio
import contextvars
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from pydantic import ValidationError

from blocks.deadline import LeaveBehind, begin
from blocks.errors import Permanent, RunbookError, Transient
from blocks.stack import StackSpec
from blocks.target import runtime_of, target_of
from deployments.gateway.dispatch import prefect_errors
from deployments.gateway.slack_words import Told, quoted
from flows.decisions.diagnosis_text import redact
from flows.decisions.finding import WORST_FIRST, Status
from flows.decisions.health import Health, judge
from flows.platform_report import PlatformReport
from flows.verify import expectation
from tasks.reads import look

DEADLINE_S = 10.0
PAGE, PAGES = 200, 10
"""Runs that are looked through for the beginning of an id."""
LOG_LINES, LOG_BYTES = 40, 64 * 1024
MOST_READINGS = 4
"""At once: each has a thread, and a hung one keeps it."""
T = TypeVar("T")


@dataclass(frozen=True)
class LastCheck:
    """What the newest check of a platform found."""

    report: PlatformReport
    services: dict[str, Status | None]
    """Service -> the worst that was found; None: nothing was."""


def run_url(run_id: str) -> str:
    """The page of a run in the Prefect UI; empty when its address is not known."""
    base = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value() or "").removesuffix("/api")
    return f"{base.rstrip('/')}/runs/flow-run/{run_id}" if base else ""


async def find_run(stack: str, text: str) -> FlowRun:
    """The run of this stack whose id begins so.

    Raises:
        Permanent: none, or several, or no id. Transient: the Prefect server does not answer.
    """
    prefix = text.strip().strip("`").lower()
    if not re.fullmatch(r"[0-9a-f][0-9a-f-]{5,35}", prefix):
        raise Told(f"{quoted(text, 60)} is no run: give its id, or the first 8 digits of it.")
    tags = FlowRunFilterTags(all_=[f"stack:{stack}"])
    found: list[FlowRun] = []
    async with prefect_errors("runs"), get_client() as client:
        if len(prefix) == 36:
            one = FlowRunFilter(id=FlowRunFilterId(any_=[_uuid(prefix)]), tags=tags)
            found = await client.read_flow_runs(flow_run_filter=one, limit=1)
        for page in range(PAGES if len(prefix) < 36 else 0):
            runs = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(tags=tags),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=PAGE,
                offset=page * PAGE,
            )
            found += [r for r in runs if str(r.id).startswith(prefix)]
            if len(runs) < PAGE:
                break
    distinct = {r.id: r for r in found}
    if len(distinct) > 1:
        raise Told(f"{quoted(text, 60)} begins several runs; give more of the id.")
    if not distinct:
        raise Told(f"There is no run {quoted(text, 60)} of {quoted(stack)}.")
    return next(iter(distinct.values()))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Told(f"{quoted(text, 60)} is no run's id.") from None


def tags_of(run: FlowRun) -> dict[str, str]:
    """`procedure`, `service`, `actor`, ... of a run."""
    return dict(tag.split(":", 1) for tag in run.tags if ":" in tag)


async def read_record(run: FlowRun, stack: str) -> dict[str, Any] | None:
    """What a run recorded of this stack; None while there is nothing.

    Raises:
        Transient: the Prefect server does not answer.
    """
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), type=ArtifactFilterType(any_=["result"])
    )
    return next(iter(await _records(wanted, None, stack)), None)


async def _records(
    wanted: ArtifactFilter, runs: FlowRunFilter | None, stack: str
) -> list[dict[str, Any]]:
    """Records as data, the newest first."""
    async with prefect_errors("records"), get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=wanted, flow_run_filter=runs, sort=ArtifactSort.CREATED_DESC, limit=20
        )
    records = []
    for artifact in found:
        try:  # the server hands JSON data back as its text
            data = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
        except ValueError:
            continue
        if isinstance(data, dict) and str(artifact.key or "").endswith("-data"):
            records.append(data)
    return [r for r in records if r.get("stack") == stack]


async def last_check(spec: StackSpec) -> LastCheck | None:
    """The newest record of check-platform of this stack; None when it was never checked.

    Raises:
        Transient: the Prefect server does not answer.
    """
    wanted = ArtifactFilter(
        key=ArtifactFilterKey(any_=["check-platform-data"]),
        type=ArtifactFilterType(any_=["result"]),
    )
    runs = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"stack:{spec.name}"]))
    for record in await _records(wanted, runs, spec.name):
        try:
            report = PlatformReport.model_validate(record)
        except ValidationError:  # of an older version
            continue
        return LastCheck(report, {name: _worst(report, name) for name in spec.services})
    return None


def _worst(report: PlatformReport, service: str) -> Status | None:
    found = [f.status for f in report.findings if f.subject == service]
    return min(found, key=WORST_FIRST.index, default=None)


async def look_now(spec: StackSpec, names: list[str]) -> dict[str, Health]:
    """How services are now; what cannot be read from here, or in 10 s, is unknown.

    Raises:
        Transient: others look already, as many as may at once.
    """
    near = [n for n in names if not _elsewhere(spec, n)]
    found = {
        n: Health(status="unknown", reason=_elsewhere(spec, n)) for n in names if n not in near
    }

    async def every() -> list[Health]:
        return list(await asyncio.gather(*(_look(spec, name) for name in near)))

    try:
        found |= zip(near, await _apart(every), strict=True)
    except TimeoutError:
        late = Health(status="unknown", reason=f"no answer within {DEADLINE_S:.0f} s")
        found |= dict.fromkeys(near, late)
    return {name: found[name] for name in names}


async def _look(spec: StackSpec, name: str) -> Health:
    try:
        async with asyncio.timeout(DEADLINE_S - 1):
            target = target_of(spec, name)
            config, seen = await asyncio.gather(runtime_of(target).read_config(), look(target))
            return judge(*seen, expectation(target, config))
    except RunbookError as e:
        return Health(status="unknown", reason=redact(str(e)))
    except TimeoutError:
        return Health(status="unknown", reason=f"no answer within {DEADLINE_S - 1:.0f} s")


async def read_tail(spec: StackSpec, name: str) -> str:
    """The last lines of a service's log, without secrets.

    Raises:
        Permanent, Transient: it cannot be read, or not from here, or not in time.
    """
    if why := _elsewhere(spec, name):
        raise Permanent(why)

    async def read() -> bytes:
        return await runtime_of(target_of(spec, name)).read_log(max_bytes=LOG_BYTES)

    try:
        raw = await _apart(read)
    except TimeoutError:
        raise Transient(f"the log of {name} did not come within {DEADLINE_S:.0f} s") from None
    text = _ANSI.sub("", raw.decode("utf-8", "replace"))
    clean = "".join(c for c in text if c.isprintable() or c in "\n\t")
    # A cut may leave the value of a key without its name: the first line is not whole.
    lines = clean.splitlines()[1 if len(raw) >= LOG_BYTES else 0 :]
    return "\n".join(line[:300] for line in redact("\n".join(lines[-LOG_LINES:])).splitlines())


def _elsewhere(spec: StackSpec, name: str) -> str:
    """Why a service is not read from here: there, its container's name means another one."""
    queue = spec.service(name).work_queue
    if queue == "default":
        return ""
    return f"only the host of work queue {queue!r} can read it: run check-platform"


_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_apart_now: set[object] = set()


async def _apart(read: Callable[[], Awaitable[T]]) -> T:
    """A reading in a thread and a loop of its own: one that hangs takes nothing from the alerts.

    Raises:
        Transient: too many at once. TimeoutError: it took too long and was left behind.
    """
    if len(_apart_now) >= MOST_READINGS:
        raise Transient("others are looking already; try again in a moment")

    async def inside() -> T:
        asyncio.get_running_loop().set_default_executor(LeaveBehind())
        async with asyncio.timeout(DEADLINE_S):
            return await read()

    context = contextvars.copy_context()  # Prefect's settings travel in it
    mark = object()
    _apart_now.add(mark)
    future = begin(lambda: context.run(lambda: asyncio.run(inside())))
    # Its place is free when it has ended, not when nobody waits for it any more.
    future.add_done_callback(lambda _: _apart_now.discard(mark))
    async with asyncio.timeout(DEADLINE_S + 1):
        return await asyncio.wrap_future(future)
