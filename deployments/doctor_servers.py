"""What `runbooks doctor` asks of the servers around: metrics, alerts, machines, TLS, Slack."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx

from blocks.alertmanager_server import AlertmanagerSpec
from blocks.errors import RunbookError
from blocks.gpu_host import GpuHostSpec, read_host
from blocks.prometheus_server import PrometheusSpec
from blocks.secret_ref import resolve
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
    status, body, problem = await _get(spec, "/api/v1/query?query=count(up)", spec.token)
    if bad := _bad(spec, "prometheus", "/api/v1/query", status, problem):
        return [bad]
    found = body.get("data", {}).get("result") if isinstance(body, dict) else None
    if not isinstance(found, list):
        fix = "is prometheus.url a Prometheus, with its route prefix?"
        return [_line("metrics", "prometheus", "fail", "answered no query result", fix)]
    if not found:
        fix = f"look at {spec.url}/targets: nothing is scraped"
        return [_line("metrics", "prometheus", "warn", "answers, and scrapes nothing", fix)]
    return [_line("metrics", "prometheus", "ok", "answers queries")]


async def alertmanager_lines(spec: AlertmanagerSpec) -> list[Line]:
    """Whether it is ready and lists alerts."""
    status, _, problem = await _get(spec, "/-/ready", spec.token)
    if bad := _bad(spec, "alertmanager", "/-/ready", status, problem):
        return [bad]
    status, body, problem = await _get(spec, "/api/v2/alerts?active=true", spec.token)
    if bad := _bad(spec, "alertmanager", "/api/v2/alerts", status, problem):
        return [bad]
    if not isinstance(body, list):
        fix = "is alertmanager.url an Alertmanager, with its route prefix?"
        return [_line("metrics", "alertmanager", "fail", "answered no list of alerts", fix)]
    return [_line("metrics", "alertmanager", "ok", "is ready and lists alerts")]


async def _get(
    spec: PrometheusSpec | AlertmanagerSpec, path: str, token: str | None
) -> tuple[int, Any, str]:
    """Status, JSON or None, and what went wrong before there was a status."""
    headers = {"Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {(await resolve(token)).get_secret_value()}"
    verify = spec.tls_verify and spec.url.startswith("https:")
    limit = min(PROBE_S, spec.timeout_s)
    try:
        async with (
            asyncio.timeout(limit),
            httpx.AsyncClient(verify=verify, trust_env=False, timeout=limit) as client,
        ):
            answer = await client.get(spec.url + path, headers=headers)
    except TimeoutError:
        return 0, None, f"no answer within {limit:g} s"
    except httpx.HTTPError as e:
        if "CERTIFICATE_VERIFY_FAILED" in str(e):
            why = str(e).rsplit("certificate verify failed: ", 1)[-1].split(" (_ssl")[0]
            return 0, None, f"its certificate is not accepted ({why[:100]})"
        return 0, None, f"does not answer ({type(e).__name__})"
    body = None
    with contextlib.suppress(ValueError, RecursionError):
        body = answer.json()
    return answer.status_code, body, ""


def _bad(
    spec: PrometheusSpec | AlertmanagerSpec, name: str, path: str, status: int, problem: str
) -> Line | None:
    if status == 200:
        return None
    fix = f"is it up, and {name}.url right? curl -i '{spec.url}{path}'"
    if "certificate" in problem:
        fix = f"install its CA on this machine, or {name}.tls_verify: false"
    if status in (401, 403):
        fix = f"set or correct {name}.token"
    return _line("metrics", name, "fail", problem or f"{path} answered {status}", fix)


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


async def certificate_lines(endpoint: str) -> list[Line]:
    """Whether a further endpoint can be reached, or a PEM file be read. Expiry is not asked."""
    host, colon, port = endpoint.rpartition(":")
    if not (colon and port.isdigit()) or "/" in endpoint:
        return await asyncio.to_thread(_pem, endpoint)
    fix = f"correct certificates: {endpoint}, or bring it up"
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        said = f"no connection within {PROBE_S:g} s"
        return [_line("certificate", endpoint, "fail", said, fix)]
    except OSError as e:
        said = f"cannot be reached: {e.strerror or type(e).__name__}"
        return [_line("certificate", endpoint, "fail", said, fix)]
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return [_line("certificate", endpoint, "ok", "can be reached")]


def _pem(path: str) -> list[Line]:
    fix = f"correct certificates: {path}; it is a PEM file on this machine, or HOST:PORT"
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        return [_line("certificate", path, "fail", f"cannot be read: {e.strerror}", fix)]
    if b"-----BEGIN CERTIFICATE-----" not in data:
        return [_line("certificate", path, "fail", "holds no certificate", fix)]
    return [_line("certificate", path, "ok", "can be read")]


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
    for name, service in spec.services.items():
        if service.api_key:
            found.setdefault(service.api_key, f"services.{name}.api_key")
    for section in ("prometheus", "alertmanager", "slack"):
        part = getattr(spec, section)
        if part and part.token:
            found.setdefault(part.token, f"{section}.token")
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
