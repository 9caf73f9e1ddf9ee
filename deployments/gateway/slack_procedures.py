"""Procedures as Slack starts them: their forms, their parameters, and one run for each wish."""

import asyncio
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from blocks.errors import RunbookError
from blocks.incidents import open_incidents
from blocks.slack_blocks import escape, link
from blocks.stack import StackSpec
from deployments.gateway.dispatch import prefect_errors, start_run
from deployments.gateway.metrics import bounded
from deployments.gateway.slack_call import Call, log
from deployments.gateway.slack_modals import DRY_RUN, Field, fields_of, nested
from deployments.gateway.slack_reading import run_url
from deployments.gateway.slack_words import Told, quoted
from deployments.running import load_flow, procedures
from flows.report import Options


@cache
def names() -> tuple[str, ...]:
    """Every procedure that has a deployment."""
    return tuple(procedures())


@cache
def _loaded(procedure: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameter schema of a procedure and the types of its parameters, by name."""
    flow = load_flow(procedure)
    return flow.parameters.model_dump(), get_type_hints(flow.fn, include_extras=True)


async def warm() -> None:
    """Import every procedure, so that the first form is there within Slack's 3 s; never raises."""
    for name in names():
        try:
            await asyncio.to_thread(_loaded, name)
        except Exception as e:  # noqa: BLE001 - one broken procedure must not take the others
            log.error("procedure %s cannot be loaded: %s", name, type(e).__name__)


def ready() -> bool:
    """Whether every procedure was imported once."""
    return _loaded.cache_info().currsize >= len(names())


def inputs(procedure: str, spec: StackSpec) -> tuple[Field, ...]:
    """The form of a procedure, with the names of this stack to choose from.

    Raises:
        Permanent: no such procedure.
    """
    if procedure not in names():
        raise Told(f"There is no procedure {quoted(procedure, 60)}.")
    return fields_of(_loaded(procedure)[0], _choices(spec))


def _choices(spec: StackSpec) -> dict[str, list[str]]:
    proxies = [n for n, s in spec.services.items() if s.engine == "litellm"]
    return {"service": list(spec.services), "host": list(spec.hosts), "proxy": proxies}


def parameters(
    procedure: str, spec: StackSpec, values: Mapping[str, Any], actor: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters of a run, and what is wrong with them, by input.

    The stack and the options are ours: nobody runs on another stack, in another's name, or with
    an approval that they typed.

    Args:
        procedure: its name.
        spec: the stack.
        values: what was given, by input (`change.max_model_len`).
        actor: who starts it.
    """
    schema, hints = _loaded(procedure)
    takes = schema["properties"]
    given = nested({k: v for k, v in values.items() if k != DRY_RUN})
    errors: dict[str, str] = {}
    for name in ("service", "host", "proxy"):
        known, value = _choices(spec)[name], given.get(name)
        free = ("*", "") if (takes.get(name) or {}).get("default") in ("*", "") else ()
        if value is not None and value not in known and value not in free:
            errors[name] = f"{str(value)[:60]!r}: there is {', '.join(known)[:300] or 'none'}"
    for name, value in given.items():
        if name not in takes or name in ("stack", "options"):
            errors[name] = "no such parameter"
        elif name not in errors:
            errors |= _faults(name, hints[name], value)
    options = Options(dry_run=bool(values.get(DRY_RUN)), actor=actor, source="slack")
    return {"stack": spec.name, **given, "options": options.model_dump()}, errors


def _faults(name: str, kind: Any, value: Any) -> dict[str, str]:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as e:
        return {".".join(map(str, (name, *f["loc"]))): str(f["msg"])[:200] for f in e.errors()}
    return {}


def missing(procedure: str, given: Mapping[str, Any]) -> list[str]:
    """Required parameters that were not given."""
    needed = _loaded(procedure)[0].get("required", ())
    return [n for n in needed if n not in ("stack", "options", *given)]


def key_of(*parts: str) -> str:
    """The idempotency key of a wish."""
    return "slack:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


async def start(call: Call, procedure: str, wanted: dict[str, Any], key: str) -> str:
    """Start it once for this key; what to tell who asked.

    Raises:
        Permanent: it is refused. Transient: the Prefect server does not answer.
    """
    spec, service = call.spec, str(wanted.get("service") or "")
    options = dict(wanted["options"])
    tags = [f"procedure:{procedure}", f"stack:{spec.name}", "source:slack", f"actor:{call.name}"]
    queue = None
    if service in spec.services:
        tags.append(f"service:{service}")
        queue = spec.services[service].work_queue
        if incident := await _incident(spec.name, service):
            options["incident"] = incident
            tags.append(f"incident:{incident}")
    run_id, created = await start_run(
        procedure, {**wanted, "options": options}, key=key, queue=queue, tags=tags
    )
    if created:
        call.gateway.metrics.runs.labels(bounded(procedure, names()), "slack").inc()
    of = f" of {quoted(service, 60)}" if service else ""
    said = "Started" if created else "That was started already:"
    where = link(run_url(run_id), f"run {run_id[:8]}")
    plan = " (plan only)" if options["dry_run"] else ""
    return f"{said} *{escape(procedure)}*{of} on {quoted(spec.name)}{plan}: {where}"


async def _incident(stack: str, service: str) -> str:
    """The one open incident of a service, so that the run is shown in its message; else empty."""
    try:
        async with prefect_errors("incidents"):
            found = await open_incidents(stack, service)
    except RunbookError as e:  # the run matters more than where it is shown
        log.warning("%s", e)
        return ""
    return found[0].opened.id if len(found) == 1 else ""
