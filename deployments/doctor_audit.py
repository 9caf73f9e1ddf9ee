"""What `runbooks doctor` says of the audit trail, and of what Prefect may forget."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from blocks.audit_export import lost, read_exported
from blocks.audit_log import AuditLog
from blocks.errors import Transient
from blocks.prefect_health import prefect_client
from blocks.prefect_runs import TAG, last_end
from deployments.doctor_line import Line
from flows.decisions.finding import Status
from flows.decisions.vacuum import VacuumFacts, how_to_switch_on, judge_events, judge_vacuum
from flows.export_audit import NAME

_SPAN = TypeAdapter(timedelta)


async def audit_lines() -> list[Line]:
    """Whether the trail can be appended to, its last verified export, and the server's vacuum.

    The vacuum is never switched on here: that is an operator's decision, after an export.
    """
    now, facts, exported = datetime.now(UTC), await _facts(), await _exported()
    vacuum, events = judge_vacuum(facts, exported, now), judge_events(facts, exported, now)
    lines = [_line("vacuum", *vacuum), _line("audit export", *events)]
    if vacuum[0] == "ok" and events[0] == "ok" and not facts.flow_runs:
        said = f"{vacuum[1]}; it may be switched on: {how_to_switch_on(facts)}"
        lines[0] = _line("vacuum", "ok", said, "")
    return lines + await asyncio.to_thread(_trail)


async def _facts() -> VacuumFacts:
    """Source: `/admin/settings` of the server (Prefect 3.8, `server.services.db_vacuum`)."""
    async with prefect_client() as client:
        answer = await client._client.get("/admin/settings")
        answer.raise_for_status()
    return facts_of(answer.json())


def facts_of(settings: dict[str, Any]) -> VacuumFacts:
    """What a server's settings mean.

    Raises:
        Transient: they are not as those of Prefect 3.8.
    """
    said = settings.get("server", {})
    vacuum = said.get("services", {}).get("db_vacuum", {})
    on = vacuum.get("enabled")
    try:
        return VacuumFacts(
            flow_runs=on is True or (isinstance(on, list) and "flow_runs" in on),
            keeps_runs=_SPAN.validate_python(vacuum["retention_period"]),
            keeps_events=_SPAN.validate_python(said["events"]["retention_period"]),
        )
    except (KeyError, ValidationError):
        raise Transient(
            "the server does not say what it forgets; is it the version that llm-runbooks asks for?"
        ) from None


async def _exported() -> datetime | None:
    """Of this machine, or, where another one exports, as the server remembers it."""
    own = await asyncio.to_thread(read_exported)
    there = await last_end(f"{TAG}{NAME}", "Passed")
    return max((t for t in (own.at if own else None, there) if t), default=None)


def _trail() -> list[Line]:
    """The end of the trail; the whole of it is proved by every export."""
    log = AuditLog()
    if not log.folder.is_dir():
        return []
    fault = log.fault() or lost(log)
    fix = "runbooks audit verify"
    if fault:
        return [_line("audit trail", "fail", fault, fix)]
    return [_line("audit trail", "ok", f"{log.folder} can be continued", "")]


def _line(subject: str, status: Status, message: str, fix: str) -> Line:
    return Line(
        area="prefect", subject=subject, status=status, message=message[:400], fix=fix[:400]
    )
