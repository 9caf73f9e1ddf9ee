"""The config file of a stand-in LiteLLM proxy, as an operator would have written it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.sandbox.local_service import LocalService, SandboxError

PARAMS = ("rpm", "tpm", "max_parallel_requests", "weight")
INFO = ("max_input_tokens", "max_output_tokens", "id")
OTHERS = ("backend", "api_base", "model", "api_key")
Model = Mapping[str, Any]


def config_text(
    models: Mapping[str, Model | Sequence[Model]],
    services: Mapping[str, LocalService],
    *,
    master_key: str | None,
    allowed_fails: int,
    cooldown_time: float,
) -> str:
    """The file's text, with the comments that an edit must keep.

    Args:
        models: alias -> one deployment or several: limits (`PARAMS`, `INFO`) and either
            `backend`, the name of a service, or `api_base`; `model` and `api_key` where the
            backend's own do not do.
        services: what `backend` names.
        master_key: None: the proxy asks for no key.
        allowed_fails: failures within a minute that a deployment may have.
        cooldown_time: how long it then rests, seconds.

    Raises:
        SandboxError: an unknown backend or key.
    """
    lines = ["# LiteLLM proxy: which model name goes to which server, and how much of it", ""]
    lines += ["model_list:"]
    for alias, given in models.items():
        for one in [given] if isinstance(given, Mapping) else given:
            lines += _entry(alias, one, services)
    lines += [
        "",
        "router_settings:",
        "  routing_strategy: simple-shuffle",
        "  enable_pre_call_checks: true  # else rpm and max_input_tokens are not looked at",
        f"  allowed_fails: {allowed_fails}",
        f"  cooldown_time: {cooldown_time:g}  # seconds",
    ]
    if master_key:
        lines += ["", "general_settings:", f"  master_key: {json.dumps(master_key)}"]
    return "\n".join(lines) + "\n"


def _entry(alias: str, given: Model, services: Mapping[str, LocalService]) -> list[str]:
    unknown = sorted(set(given) - {*PARAMS, *INFO, *OTHERS})
    if unknown:
        raise SandboxError(f"model {alias}: unknown key {unknown[0]!r}")
    backend = services.get(str(given.get("backend")))
    if backend is None and "api_base" not in given:
        raise SandboxError(f"model {alias}: no service {given.get('backend')!r}; add it first")
    base = given.get("api_base") or f"{backend.url if backend else ''}/v1"
    model = given.get("model") or f"hosted_vllm/{backend.served if backend else alias}"
    lines = [
        f"  - model_name: {json.dumps(alias)}",
        "    litellm_params:",
        f"      model: {model}",
        f"      api_base: {base}",
        f"      api_key: {given.get('api_key', 'none')}",
        *(f"      {name}: {given[name]}" for name in PARAMS if given.get(name) is not None),
    ]
    info = [f"      {name}: {given[name]}" for name in INFO if given.get(name) is not None]
    if info:
        lines += ["    model_info:", *info]
    return lines
