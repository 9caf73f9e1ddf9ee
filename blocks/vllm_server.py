"""One vLLM server: its block and the thin client that asks "is it decoding?"."""

import time
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.http_probe import NOT_MEASURED, Sick, answered, ask, client_of, has_token
from blocks.models import Serving
from blocks.service import Service


class VllmServer(Service, Block):
    """A vLLM server of a platform: where it is, how it runs, how far it may be stepped down."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "vLLM server"
    _block_type_slug = "vllm-server"
    _description = (
        "A vLLM server: url, runtime, serving config, step-down ladder and change policy. "
        "Written by `runbooks apply`; edits made here hold from the next run on."
    )


async def observe(service: Service, *, probe_timeout_s: float = 5.0) -> Serving:
    """Ask /health, /v1/models and for one token; never raises for a sick server.

    A frozen engine answers the first two with 200 and never decodes: the time-out of the
    completion (`policy.decode_timeout_s`) is what finds it. `decoded` is None where nothing was
    measured (no key, throttled), False where it was and is bad. Source: vLLM 0.32 HTTP API.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with client_of(service) as client:
        try:
            status, _ = await ask(client, "/health", probe_timeout_s)
        except Sick as e:
            return Serving(reachable=False, problem=f"/health: {e}")
        if status != 200:
            return Serving(reachable=True, health_status=status, problem=answered("health", status))
        got: dict[str, Any] = {"reachable": True, "health_status": 200}
        try:
            status, body = await ask(client, "/v1/models", probe_timeout_s)
        except Sick as e:
            return Serving(**got, decoded=False, problem=f"/v1/models: {e}")
        if status in NOT_MEASURED:
            return Serving(**got, problem=answered("v1/models", status))
        listed = _models(body) if status == 200 else []
        if not listed:
            return Serving(
                **got, decoded=False, problem=f"/v1/models answered {status}, no model list"
            )
        ids = tuple(name for name, _ in listed)
        wanted = service.served_model_name
        got["model_ids"] = ids
        got["model_id"], got["max_model_len"] = listed[ids.index(wanted) if wanted in ids else 0]
        return await _decode_one(client, service, got)


def _models(body: Any) -> list[tuple[str, int | None]]:
    """Id and max_model_len of every model; empty when the answer is no model list."""
    data = body.get("data") if isinstance(body, dict) else None
    found = []
    for model in data[:100] if isinstance(data, list) else []:
        name = model.get("id") if isinstance(model, dict) else None
        if isinstance(name, str) and name:
            length = model.get("max_model_len")
            found.append((name[:500], length if type(length) is int else None))
    return found


async def _decode_one(client: httpx.AsyncClient, service: Service, got: dict[str, Any]) -> Serving:
    limit = service.policy.decode_timeout_s
    began = time.monotonic()
    ping = {"model": got["model_id"], "prompt": "ping", "max_tokens": 1, "temperature": 0}
    try:
        status, body = await ask(client, "/v1/completions", limit, ping)
    except Sick as e:
        if e.timed_out:
            return Serving(**got, decoded=False, problem=f"no token within {limit:g} s")
        return Serving(**got, decoded=False, problem=f"/v1/completions: {e}")
    took = time.monotonic() - began
    if status in NOT_MEASURED:
        return Serving(**got, problem=answered("v1/completions", status))
    if status != 200 or not has_token(body):
        return Serving(**got, decoded=False, problem=f"/v1/completions answered {status}, no token")
    return Serving(**got, decoded=True, decode_s=took)
