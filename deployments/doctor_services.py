"""What `runbooks doctor` asks of every service: runtime, file, URL, key, model. Changes nothing."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from blocks.docker_host import DockerHostSpec, Engine
from blocks.docker_inspect import refusal, state_of
from blocks.docker_runtime import DockerRuntime
from blocks.errors import Permanent, RunbookError
from blocks.http_probe import Sick, ask, client_of
from blocks.service import ArgumentsSource, CommandRuntimeSpec, NoSource, Service
from blocks.serving_file import FileSource, backup_directory
from blocks.target import Target, runtime_of
from deployments.doctor_line import Line
from flows.decisions.finding import Status

PROBE_S = 5.0
_ENGINE_S = 10.0


def _line(target: Target, status: Status, message: str, fix: str = "") -> Line:
    return Line(
        area="service", subject=target.name, status=status, message=message[:400], fix=fix[:400]
    )


def _key(target: Target, field: str) -> str:
    return f"services.{target.name}.{field}"


# ---- runtime ------------------------------------------------------------------------------------


async def runtime_lines(target: Target) -> list[Line]:
    """Whether the way that starts and stops the service can be used, and its state."""
    if isinstance(target.service.runtime, CommandRuntimeSpec):
        return await _command(target, target.service.runtime)
    return await _docker(target)


async def _docker(target: Target) -> list[Line]:
    spec = target.service.runtime
    if isinstance(spec, CommandRuntimeSpec):
        raise Permanent(f"{target.label}: no docker runtime")
    # A hung engine must not hold the report longer than its own deadline.
    host = target.docker_host.model_copy(
        update={"timeout_s": min(_ENGINE_S, target.docker_host.timeout_s)}
    )
    try:
        doc = await asyncio.to_thread(_inspect, host, spec.container)
    except RunbookError as e:
        return [_line(target, "fail", *docker_problem(host, str(e), _key(target, "runtime")))]
    state = state_of(doc)
    lines = []
    recreate = isinstance(target.service.serving, ArgumentsSource)
    if why := refusal(doc, recreate):
        message, _, fix = str(why).partition(": ")
        lines.append(
            _line(
                target,
                "warn",
                f"{message}, so no procedure may change it",
                fix or "see the message",
            )
        )
    runtime = DockerRuntime(target.label, spec, target.service.serving, host)
    if left := await runtime.leftovers():
        lines.append(
            _line(
                target,
                "fail",
                f"left over from a change that was cut short: {', '.join(left)}",
                "the next run on it reconciles: runbooks run remediate-oom "
                f"--stack {target.stack} --service {target.name} --yes",
            )
        )
    name = spec.container
    if state.running:
        lines.append(_line(target, "ok", f"container {name} runs and may be looked at"))
    else:
        ended = f" ({state.exit_code})" if state.exit_code is not None else ""
        lines.append(
            _line(
                target,
                "fail",
                f"container {name} is {state.phase}{ended}",
                f"runbooks diagnose --stack {target.stack} --service {target.name}",
            )
        )
    return lines


def _inspect(host: DockerHostSpec, container: str) -> dict[str, Any]:
    with Engine(host) as engine:
        return engine.inspect(container)


def docker_problem(host: DockerHostSpec, said: str, key: str) -> tuple[str, str]:
    """What to tell an operator of an engine's refusal, and what to do; `key` of the inventory."""
    if "permission denied" in said:
        user = os.environ.get("USER") or str(os.getuid())
        return (
            f"Docker at {host.base_url}: permission denied for {user}",
            f"sudo usermod -aG docker {user}, then log in again; or run as root",
        )
    message, _, fix = said.partition("; ")
    return message, f"{fix or 'see the message'} ({key})"


async def _command(target: Target, spec: CommandRuntimeSpec) -> list[Line]:
    lines = []
    for field in ("restart", "stop", "status", "logs"):
        argv = getattr(spec, field)
        name = argv[0]
        path = os.path.join(spec.cwd, name) if spec.cwd and "/" in name else name
        if await asyncio.to_thread(shutil.which, path) is None:
            lines.append(
                _line(
                    target,
                    "fail",
                    f"the {field} command {name!r} is not found or not executable here",
                    f"install it, or correct {_key(target, f'runtime.{field}')}",
                )
            )
    if lines:
        return lines
    state = await runtime_of(target).state()
    if state.phase == "unknown":
        fix = f"run it by hand and correct {_key(target, 'runtime.status')}"
        return [_line(target, "fail", f"the status command tells nothing: {state.detail}", fix)]
    if state.running:
        return [_line(target, "ok", "its commands are there and it runs")]
    fix = f"runbooks diagnose --stack {target.stack} --service {target.name}"
    return [_line(target, "fail", f"it is {state.phase} {state.detail}".strip(), fix)]


# ---- the file with its numbers ------------------------------------------------------------------


async def file_lines(target: Target) -> list[Line]:
    """Whether its numbers can be read, and written where they live."""
    source = target.service.serving
    if isinstance(source, ArgumentsSource):
        config = await runtime_of(target).read_config()
        said = f"max_model_len {config.max_model_len or 'default'}"
        return [_line(target, "ok", f"its arguments can be read ({said})")]
    if isinstance(source, NoSource):
        return []
    await runtime_of(target).read_config()
    return await asyncio.to_thread(_writable, target, source)


def _writable(target: Target, source: FileSource) -> list[Line]:
    if isinstance(source, NoSource):
        return []
    path = Path(os.path.realpath(source.path))
    problems = []
    backups = backup_directory(source)
    for folder, why in (
        (path.parent, "the file is replaced there by rename"),
        (backups if backups.exists() else backups.parent, "backups are kept there"),
    ):
        if not os.access(folder, os.W_OK | os.X_OK):
            problems.append(
                _line(
                    target,
                    "fail",
                    f"{folder} is not writable for this user: {why}",
                    f"chown or chmod {folder} for the worker's user",
                )
            )
    if not os.access(path, os.W_OK):
        problems.append(
            _line(
                target,
                "warn",
                f"{path} is read-only for this user",
                f"chmod u+w {path}, unless nobody shall change it",
            )
        )
    return problems or [_line(target, "ok", f"{path} can be read and replaced")]


# ---- its API ------------------------------------------------------------------------------------


async def api_lines(target: Target) -> list[Line]:
    """Whether it answers, accepts the key and serves the model. Whether it decodes is not asked."""
    service = target.service
    path = {"vllm": "/health", "litellm": "/health/liveliness"}.get(
        service.engine, service.health_path
    )
    try:
        status = await _status(service, path)
    except Sick as e:
        fix = f"is it up, and {_key(target, 'url')} right? curl -i {service.url}{path}"
        if "certificate" in str(e):
            fix = f"install its CA on this machine, or {_key(target, 'tls_verify')}: false"
        return [_line(target, "fail", f"{service.url}{path}: {e}", fix)]
    if status != 200:
        fix = f"look at its log: runbooks diagnose --stack {target.stack} --service {target.name}"
        return [_line(target, "fail", f"{service.url}{path} answered {status}", fix)]
    if service.engine == "http":
        return [_line(target, "ok", f"{service.url}{path} answers 200")]
    return await (_proxy if service.engine == "litellm" else _models)(target)


async def _status(service: Service, path: str) -> int:
    keyless = service.model_copy(update={"api_key": None})
    needs = service.engine == "http" and service.api_key
    async with client_of(service if needs else keyless) as client:
        return (await ask(client, path, PROBE_S))[0]


async def _models(target: Target) -> list[Line]:
    status, body = await _with_key(target.service, "/v1/models")
    if refused := _refused(target, "/v1/models", status):
        return [refused]
    data = body.get("data") if isinstance(body, dict) else None
    names = [str(m.get("id")) for m in data or [] if isinstance(m, dict)]
    wanted = target.service.served_model_name
    if not names:
        said = f"/v1/models answered {status} and lists no model"
        return [_line(target, "fail", said, f"is {_key(target, 'url')} a vLLM server?")]
    if wanted and wanted not in names:
        said = f"serves {', '.join(names[:3])}, not {wanted}"
        return [_line(target, "fail", said, f"correct {_key(target, 'served_model_name')}")]
    return [_line(target, "ok", f"answers and serves {wanted or names[0]}")]


async def _proxy(target: Target) -> list[Line]:
    status, body = await _with_key(target.service, "/model/info")
    if refused := _refused(target, "/model/info", status):
        return [refused]
    data = body.get("data") if isinstance(body, dict) else None
    if status != 200 or not isinstance(data, list):
        said = f"/model/info answered {status} and no model list"
        return [_line(target, "fail", said, f"is {_key(target, 'url')} a LiteLLM proxy?")]
    return [_line(target, "ok", f"answers, takes the master key, {len(data)} deployments")]


async def _with_key(service: Service, path: str) -> tuple[int, Any]:
    try:
        async with client_of(service) as client:
            return await ask(client, path, PROBE_S)
    except Sick as e:
        raise Permanent(f"{service.url}{path}: {e}; it answered a moment ago, look again") from e


def _refused(target: Target, path: str, status: int) -> Line | None:
    if status not in (401, 403):
        return None
    ref = target.service.api_key
    said = f"{path} answered {status}: " + (f"{ref} is not accepted" if ref else "it wants a key")
    what = f"correct what {ref} holds" if ref else f"set {_key(target, 'api_key')}: ${{ENV_NAME}}"
    return _line(target, "fail", said, what)
