"""`runbooks doctor`: every connection and permission a stack needs, one line each with its fix.

Prefect is imported by the functions that need it, after the server was chosen.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from blocks.errors import RunbookError
from deployments import connection
from deployments.doctor_line import DEADLINE_S, Check, Line, run_checks, worst_first

if TYPE_CHECKING:
    from blocks.stack import StackSpec

__all__ = ["Line", "doctor_command", "examine", "exit_code", "render"]


async def examine(stack_ref: str, *, deadline_s: float = DEADLINE_S) -> tuple[Line, ...]:
    """Test everything a stack needs, all at once; worst first. Changes nothing that lasts.

    Works without a running server too: then one line says so, and the connections are tested
    all the same, provided that the inventory is given as a file.

    Args:
        stack_ref: registered name, or FILE.yaml.
        deadline_s: of each check, seconds; one that takes longer is `unknown`.
    """
    from deployments.doctor_machine import home_lines

    url = await asyncio.to_thread(_server)
    lines: list[Line] = [] if url else [_no_server()]
    checks: list[tuple[str, str, Check]] = [("machine", "home", home_lines)]
    if url:
        checks += _of_server(url)
    loading = asyncio.ensure_future(_load(stack_ref, bool(url), deadline_s))
    found, (spec, said) = await asyncio.gather(run_checks(checks, deadline_s), loading)
    lines += found + said
    if spec:
        lines += await run_checks(_of_stack(spec, stack_ref, bool(url)), deadline_s)
    return worst_first(lines)


def _server() -> str:
    """The API url of the Prefect server that answers; empty when none does."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value() or connection.find_server() or ""
    return url if url and connection.answers(url) else ""


def _no_server() -> Line:
    asked = os.environ.get("PREFECT_API_URL")
    return Line(
        area="prefect",
        subject="server",
        status="fail",
        message=f"no Prefect server answers{f' at {asked}' if asked else ''}",
        fix="runbooks up" + (", or correct PREFECT_API_URL" if asked else ""),
    )


async def _load(
    ref: str, with_server: bool, deadline_s: float
) -> "tuple[StackSpec | None, list[Line]]":
    from blocks.stack import is_file
    from blocks.stack_blocks import load_stack

    line = partial(Line, area="inventory", subject=ref)
    if not is_file(ref) and not with_server:
        said = "a registered name cannot be read without a Prefect server"
        fix = "runbooks up, or --stack FILE.yaml"
        return None, [line(status="unknown", message=said, fix=fix)]
    try:
        async with asyncio.timeout(deadline_s):
            spec = await load_stack(ref)
    except TimeoutError:
        said = f"could not be read within {deadline_s:g} s"
        fix = "is the Prefect server well?"
        return None, [line(status="unknown", message=said, fix=fix)]
    except RunbookError as e:
        fix = f"edit it, then: runbooks apply {ref} --check" if is_file(ref) else "runbooks apply"
        faults = str(e)[:4000].splitlines()
        return None, [line(status="fail", message=fault, fix=fix) for fault in faults]
    services = f"{len(spec.services)} service{'' if len(spec.services) == 1 else 's'}"
    return spec, [line(status="ok", message=f"stack {spec.name} is valid, {services}")]


def _of_server(url: str) -> Iterator[tuple[str, str, Check]]:
    from deployments import doctor_prefect as its
    from deployments.doctor_audit import audit_lines

    yield "prefect", "server", partial(its.server_lines, url)
    yield "prefect", "runs", its.run_lines
    yield "prefect", "heartbeat automation", its.automation_lines
    yield "prefect", "audit", audit_lines


def _of_stack(spec: "StackSpec", ref: str, with_server: bool) -> Iterator[tuple[str, str, Check]]:
    from blocks.certificate import endpoints_of
    from blocks.stack import is_file
    from blocks.target import target_of
    from deployments import doctor_prefect, doctor_servers, doctor_services
    from deployments.doctor_gateway import gateway_lines
    from deployments.doctor_machine import journal_lines

    for name in spec.services:
        target = target_of(spec, name)
        yield "service", name, partial(doctor_services.runtime_lines, target)
        yield "service", name, partial(doctor_services.file_lines, target)
        yield "service", name, partial(doctor_services.api_lines, target)
    for secret, key in doctor_servers.secrets_of(spec).items():
        yield "secret", secret, partial(doctor_servers.secret_lines, secret, key, with_server)
    if spec.prometheus:
        check: Check = partial(doctor_servers.prometheus_lines, spec.prometheus)
        yield "metrics", "prometheus", check
    if spec.alertmanager:
        check = partial(doctor_servers.alertmanager_lines, spec.alertmanager)
        yield "metrics", "alertmanager", check
    for name, host in spec.hosts.items():
        yield "host", name, partial(doctor_servers.host_lines, name, host, spec.prometheus)
    for endpoint in endpoints_of(spec):
        yield "certificate", endpoint, partial(doctor_servers.certificate_lines, endpoint)
    if spec.slack:
        yield "slack", "token", partial(doctor_servers.slack_lines, spec.slack)
    yield "machine", "journal", partial(journal_lines, spec.name)
    yield "gateway", "alerts and Slack", partial(gateway_lines, spec)
    if with_server:
        yield "prefect", "work pool", partial(doctor_prefect.pool_lines, spec)
        yield "prefect", "deployments", partial(doctor_prefect.deployment_lines, spec)
        yield "prefect", "locks", partial(doctor_prefect.lock_lines, spec)
        if is_file(ref):
            yield "prefect", "inventory", partial(doctor_prefect.registered_lines, spec)


# ---- the command --------------------------------------------------------------------------------

_WORDS = {"ok": "ok     ", "warn": "warn   ", "fail": "FAIL   ", "unknown": "unknown"}


def render(lines: Sequence[Line], *, verbose: bool = False) -> str:
    """One line each, worst first; the ok ones only as a count unless `verbose`."""
    shown = [x for x in lines if verbose or x.status != "ok"]
    texts = [
        f"{_WORDS[x.status]} {x.area} {x.subject}: {x.message}" + (f" -> {x.fix}" if x.fix else "")
        for x in shown
    ]
    count = sum(x.status == "ok" for x in lines)
    if count and not verbose:
        texts.append(f"{_WORDS['ok']} {count} checks passed; --verbose shows them")
    return "\n".join(texts)


def exit_code(lines: Sequence[Line]) -> int:
    """0 all ok or warn, 1 any fail, 3 any unknown and no fail."""
    found = {x.status for x in lines}
    return 1 if "fail" in found else 3 if "unknown" in found else 0


def doctor_command(stack: str, as_json: bool = False, verbose: bool = False) -> int:
    """Examine and print; the exit code.

    What it prints is out before a blocking call that was left behind can delay the exit.
    """
    if url := connection.find_server():
        connection.use_server(url)

    async def told() -> int:
        lines = await examine(stack)
        if as_json:
            text = json.dumps([x.model_dump() for x in lines], indent=2)
        else:
            text = render(lines, verbose=verbose)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return exit_code(lines)

    return asyncio.run(told())
