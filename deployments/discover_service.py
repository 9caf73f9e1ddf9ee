"""The lines of one service in the inventory that `runbooks init` writes. Pure."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from deployments.discover_found import TITLES, Compose, Found, Inventory
from deployments.discover_yaml import comment, flow_list, flow_map, scalar

HEALTH = {"qdrant": "/readyz", "open-webui": "/health"}
_VLLM_UTILIZATION = 0.92
"""vLLM's default (0.32)."""


def service_lines(
    found: Found,
    names: Mapping[str, str],
    inventory: Inventory,
    engine: str,
    machine: str,
    files: set[str],
    keys: set[str],
) -> list[str]:
    """One entry under `services`.

    Args:
        found: a container with an address.
        names: container -> service, of all.
        inventory: all that was found.
        engine: its name under `docker_hosts`.
        machine: its name under `hosts`; empty when that has no entry.
        files: config files that other services have; this one's is added.
        keys: variables that other services' keys have; this one's is added.
    """
    state = "" if found.running else f"; it is down just now ({found.state})"
    known = f"{TITLES[found.kind]}, recognised by: {found.how}{state}"
    lines = [comment(f"{known}. Image {found.image}", 2), f"  {scalar(names[found.container])}:"]
    add = lines.append
    if found.kind != "vllm":
        add(f"    engine: {'litellm' if found.kind == 'litellm' else 'http'}")
    if found.answered is False:
        add(comment("This address did not answer within 2 s; correct it if it is another.", 4))
    if found.address and found.address.note:
        add(comment(found.address.note, 4))
    add(f"    url: {scalar(found.url)}")
    if found.url.startswith("https:"):
        add(comment("Its certificate is not checked; with a CA known here, remove this line.", 4))
        add("    tls_verify: false")
    if found.wants_key:
        name = "LITELLM_MASTER_KEY" if found.kind == "litellm" else "VLLM_API_KEY"
        if name in keys:
            name += "_" + names[found.container].upper().replace("-", "_")
        keys.add(name)
        add(comment(f"It wants a key ({found.key_why}): export this for the worker.", 4))
        add(f'    api_key: "${{{name}}}"')
    if found.kind == "vllm":
        lines += _vllm(found, inventory, engine, machine, files)
    elif found.kind == "litellm":
        lines += _litellm(found, names, inventory, engine, files)
        if machine:
            add(f"    host: {scalar(machine)}")
    else:
        add(f"    health_path: {HEALTH[found.kind]}")
        lines += [f"    runtime: {_docker(found, engine)}"]
        if machine:
            add(f"    host: {scalar(machine)}")
        add(comment("observe: plan only; approve: a person approves; auto: act", 4))
        add("    policy: {autonomy: approve}")
    return lines


def rungs(length: int) -> list[int]:
    """A ladder from a context length, tokens: itself, 3/4 and 1/2 of it, in whole 1024s."""
    below = [length * 3 // 4 // 1024 * 1024, length // 2 // 1024 * 1024]
    return [length, *dict.fromkeys(n for n in below if 0 < n < length)]


def shares(now: float) -> list[float]:
    """A ladder from a share of the GPU's memory: the handbook's rungs, or two smaller steps."""
    below = [s for s in (0.85, 0.80) if s < now]
    return [now, *(below or [s for n in (1, 2) if (s := round(now - 0.05 * n, 2)) > 0])]


def _vllm(
    found: Found, inventory: Inventory, engine: str, machine: str, files: set[str]
) -> list[str]:
    config, lines = found.config, [f"    runtime: {_docker(found, engine)}"]
    in_file = bool(found.file and config.max_model_len is None and inventory.local)
    in_file = in_file and found.file not in files
    if in_file and found.file:
        files.add(found.file)
        lines += [comment("Its numbers are in the file that --config names.", 4)]
        lines += ["    serving:", "      kind: yaml", f"      path: {scalar(found.file)}"]
    else:
        lines += [comment("Its numbers are its container's arguments.", 4)]
        source = {"kind": "arguments"} | ({"env": found.env} if found.env else {})
        lines += [f"    serving: {flow_map(source)}"]
        if found.file or found.file_note:
            note = found.file_note or f"It also has --config {found.file}"
            lines += [comment(f"{note}: numbers that are only there are not seen.", 4)]
    if found.config_note:
        lines += [comment(found.config_note, 4)]
    if found.labels:
        lines += [comment("Its labels in Prometheus:", 4), f"    metrics: {flow_map(found.labels)}"]
    elif inventory.of("prometheus"):
        lines += [
            comment("The Prometheus found here does not scrape it; when it does, its labels:", 4),
            "    # metrics: {instance: 'HOST:8000'}",
        ]
    if found.served:
        lines += [f"    served_model_name: {scalar(found.served)}"]
    if config.model:
        model = {"name": config.model} | (
            {"quantisation": config.quantization} if config.quantization else {}
        )
        lines += [f"    model: {flow_map(model)}"]
    lines += _gpu(found, inventory)
    if machine:
        lines += [f"    host: {scalar(machine)}"]
    lines += _ladder(found)
    return lines + _policy(found, in_file)


def _gpu(found: Found, inventory: Inventory) -> list[str]:
    kinds = {(g.name, g.vram_gib) for g in inventory.gpus}
    count = found.config.tensor_parallel_size or 1
    if len(kinds) == 1 and count <= len(inventory.gpus):
        name, vram = kinds.pop()
        values = {"name": name, "vram_gib": vram} | ({"count": count} if count > 1 else {})
        return [f"    gpu: {flow_map(values)}"]
    why = "several kinds of GPU are here" if kinds else "Docker does not tell the GPU's memory"
    return [
        comment(f"The size check needs it, but {why}; see nvidia-smi, then:", 4),
        "    # gpu: {name: GeForce RTX 4090, vram_gib: 24}",
    ]


def _ladder(found: Found) -> list[str]:
    config = found.config
    length = config.max_model_len or found.length
    share = config.gpu_memory_utilization or _VLLM_UTILIZATION
    lines = [
        comment("What it may be stepped down to, highest first: a proposal, take your own.", 4),
        "    ladder:",
    ]
    if length:
        lines += [f"      max_model_len: {flow_list(rungs(length))}"]
    else:
        lines += ["      # its length is not known yet, e.g. max_model_len: [16384, 12288, 8192]"]
    lines += [f"      gpu_memory_utilization: {flow_list(shares(share))}"]
    return lines


def _policy(found: Found, in_file: bool) -> list[str]:
    compose = found.compose
    if compose and not in_file:
        return [
            comment(
                f"Docker Compose made this container (project {compose.project}) and would put its "
                "own version back: a change of its arguments is refused, so plans only.",
                4,
            ),
            comment("To let procedures change it, write its numbers as ${VARIABLE} in the", 4),
            comment("compose file, their values in .env, and instead of runtime and serving:", 4),
            *(f"    # {line}" for line in compose_runtime(found.container, compose)),
            "    policy: {autonomy: observe}",
        ]
    if found.refusal and not in_file:
        return [
            comment(f"Plans only: {found.refusal}", 4),
            "    policy: {autonomy: observe}",
        ]
    return [
        comment("observe: plan only; approve: a person approves each plan; auto: act", 4),
        "    policy:",
        "      autonomy: approve",
        "      start_timeout_s: 600   # measure one cold start and double it",
        "      stabilisation_s: 60    # it must decode this long before a change counts",
    ]


def compose_runtime(container: str, compose: Compose) -> list[str]:
    """`runtime` and `serving` of a container that Compose recreates from its .env file."""
    folder = compose.directory or "/path/of/the/project"
    base = ["docker", "compose", "-p", compose.project]
    base += [word for file in compose.files for word in ("-f", file)]
    inspect = ["docker", "inspect", "--format", "{{json .}}", container]
    variables = {f: f.upper() for f in ("max_model_len", "gpu_memory_utilization", "max_num_seqs")}
    return [
        "runtime:",
        "  kind: command",
        f"  restart: {flow_list([*base, 'up', '-d', '--force-recreate', compose.service])}",
        f"  stop: {flow_list([*base, 'stop', compose.service])}",
        f"  status: {flow_list(inspect)}",
        "  status_format: docker-state",
        f"  logs: {flow_list(['docker', 'logs', '--tail', '20000', container])}",
        f"  cwd: {scalar(folder)}",
        "  timeout_s: 180",
        "serving:",
        "  kind: env-file",
        f"  path: {scalar(folder.rstrip('/') + '/.env')}",
        f"  key_map: {flow_map(variables)}",
    ]


def _litellm(
    found: Found, names: Mapping[str, str], inventory: Inventory, engine: str, files: set[str]
) -> list[str]:
    docker = ["docker"] if engine == "local" else ["docker", "-H", inventory.engine]
    inspect = [*docker, "inspect", "--format", "{{json .}}", found.container]
    lines = [
        "    runtime:",
        "      kind: command",
        f"      restart: {flow_list([*docker, 'restart', found.container])}",
        f"      stop: {flow_list([*docker, 'stop', found.container])}",
        f"      status: {flow_list(inspect)}",
        "      status_format: docker-state",
        f"      logs: {flow_list([*docker, 'logs', '--tail', '20000', found.container])}",
    ]
    if found.file and inventory.local and found.file not in files:
        files.add(found.file)
        if found.file_note:
            lines += [comment(f"This file {found.file_note}.", 4)]
        lines += ["    serving:", "      kind: litellm", f"      path: {scalar(found.file)}"]
    else:
        why = found.file_note or "its config file was not found"
        if found.file:
            why = "its config file is on another machine, or another service's too"
        lines += [
            comment(f"Its limits cannot be changed: {why}. With a file of this host:", 4),
            "    # serving: {kind: litellm, path: /path/of/litellm.config.yaml}",
            "    serving: {kind: none}",
        ]
    if found.labels:
        lines += [comment("Its labels in Prometheus:", 4), f"    metrics: {flow_map(found.labels)}"]
    if routes := routes_to(found, names, inventory):
        lines += [comment("Models whose api_base names the service by another address:", 4)]
        lines += [f"    routes: {flow_map(routes)}"]
    lines += [comment("observe: plan only; approve: a person approves; auto: act", 4)]
    return [*lines, "    policy: {autonomy: approve}"]


def routes_to(found: Found, names: Mapping[str, str], inventory: Inventory) -> dict[str, str]:
    """Model of a proxy -> service, where api_base is an address of it other than its url."""
    routes: dict[str, str] = {}
    for model, base in found.backends.items():
        place = _place(base)
        for service in inventory.services:
            if service.kind == "vllm" and place and place != _place(service.url):
                if place in service.names:
                    routes.setdefault(model, names[service.container])
    return routes


def _place(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return ""
    return f"{parts.hostname}:{port}" if parts.hostname else ""


def _docker(found: Found, engine: str) -> str:
    values: dict[str, Any] = {"kind": "docker"}
    values |= {} if engine == "local" else {"host": engine}
    return flow_map(values | {"container": found.container})
