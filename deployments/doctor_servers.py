"""What `runbooks doctor` asks of the servers around: metrics, alerts, machines, TLS, Slack."""

from typing import Any

import httpx

from blocks.alertmanager_server import AlertmanagerSpec, firing
from blocks.certificate import read_certificate
from blocks.errors import RunbookError
from blocks.gpu_host import GpuHostSpec, read_host
from blocks.prometheus_server import PrometheusSpec, query
from blocks.secret_ref import is_reference, resolve
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from deployments.doctor_line import Line
from flows.decisions.finding import Status

PROBE_S = 8.0


def _line(area: str, subject: str, status: Status, message: str, fix: str = "") -> Line:
    return Line(area=area, subject=subject, status=status, message=message[:400], fix=fix[:400])


# ---- Prometheus, Alertmanager -------------------------------------------------------------------


async def prometheus_lines(spec: PrometheusSpec) -> list[Line]:
    """Whether it answers a query and scrapes anything."""
    limit = min(PROBE_S, spec.timeout_s)
    try:
        found = await query(spec.model_copy(update={"timeout_s": limit}), "count(up)")
    except RunbookError as e:
        return [_refused("prometheus", spec.url, str(e))]
    if not found:
        fix = f"look at {spec.url}/targets: nothing is scraped"
        return [_line("metrics", "prometheus", "warn", "answers, and scrapes nothing", fix)]
    return [_line("metrics", "prometheus", "ok", "answers queries")]


async def alertmanager_lines(spec: AlertmanagerSpec) -> list[Line]:
    """Whether it lists its alerts."""
    limit = min(PROBE_S, spec.timeout_s)
    try:
        await firing(spec.model_copy(update={"timeout_s": limit}))
    except RunbookError as e:
        return [_refused("alertmanager", spec.url, str(e))]
    return [_line("metrics", "alertmanager", "ok", "lists its alerts")]


def _refused(name: str, url: str, said: str) -> Line:
    fix = f"is it up, and {name}.url right? curl -i '{url}'"
    if "certificate" in said:
        fix = f"install its CA on this machine, or {name}.tls_verify: false"
    if "answered 401" in said or "answered 403" in said:
        fix = f"set or correct {name}.token"
    return _line("metrics", name, "fail", said.partition("; ")[0], fix)


# ---- machines -----------------------------------------------------------------------------------


async def host_lines(name: str, spec: GpuHostSpec, prometheus: PrometheusSpec | None) -> list[Line]:
    """Whether a machine can be read."""
    reading = await read_host(spec, prometheus)
    if reading.about():
        fix = f"correct hosts.{name}, or bring the machine up"
        return [_line("host", name, "fail", reading.about().removeprefix("host: "), fix)]
    if reading.problems:
        fix = f"mend it there, or leave it out under hosts.{name} (disks, gpus: false)"
        return [_line("host", name, "warn", p, fix) for p in reading.problems]
    return [_line("host", name, "ok", "can be read")]


# ---- certificates -------------------------------------------------------------------------------


async def certificate_lines(where: str) -> list[Line]:
    """Whether one certificate can be read, as the daily check reads it. Expiry is not asked."""
    one = await read_certificate(where, PROBE_S)
    if one.problem:
        fix = f"correct certificates: {where}, or the https url it is of, or bring it up"
        return [_line("certificate", where, "fail", one.problem, fix)]
    return [_line("certificate", where, "ok", "can be read")]


# ---- Slack, secrets -----------------------------------------------------------------------------


async def slack_lines(slack: SlackSpec) -> list[Line]:
    """Whether the token is accepted (auth.test). Nothing is posted."""
    token = (await resolve(slack.token)).get_secret_value()
    url = slack.api_url.rstrip("/") + "/auth.test"
    try:
        async with httpx.AsyncClient(timeout=min(PROBE_S, slack.timeout_s)) as client:
            answer = await client.post(url, json={}, headers={"Authorization": f"Bearer {token}"})
        body = answer.json()
    except (httpx.HTTPError, ValueError) as e:
        fix = f"is slack.api_url reachable from here? curl -i {url}"
        return [_line("slack", "token", "fail", f"no answer ({type(e).__name__})", fix)]
    if isinstance(body, dict) and body.get("ok") is True:
        return [_line("slack", "token", "ok", "the token is accepted")]
    why = str(body.get("error") if isinstance(body, dict) else "")[:60] or answer.status_code
    fix = f"put a bot token with chat:write into {slack.token}"
    return [_line("slack", "token", "fail", f"Slack refuses the token: {why}", fix)]


def secrets_of(spec: StackSpec) -> dict[str, str]:
    """Every reference to a secret -> the first key of the inventory that names it."""
    found: dict[str, str] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, (*path, str(key)))
        elif isinstance(value, list):
            for number, part in enumerate(value):
                walk(part, (*path, str(number)))
        elif isinstance(value, str) and is_reference(value):
            found.setdefault(value, ".".join(path))

    walk(spec.model_dump(mode="json"), ())
    return found


async def secret_lines(ref: str, key: str, with_server: bool) -> list[Line]:
    """Whether a reference leads to a value; the value is never shown."""
    if ref.startswith("secret:") and not with_server:
        said = f"{ref} of {key} cannot be looked at without a Prefect server"
        return [_line("secret", ref, "unknown", said, "runbooks up")]
    try:
        await resolve(ref)
    except RunbookError as e:
        message, _, fix = str(e).partition("; ")
        return [_line("secret", ref, "fail", f"{key}: {message}", fix or "see the message")]
    return [_line("secret", ref, "ok", f"{key} has a value")]
