"""One vLLM server: its block and the thin client that asks "is it decoding?"."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.models import Serving
from blocks.secret_ref import resolve
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


MAX_BODY_BYTES = 1 << 20
"""Of one answer: a model list or one token needs a thousandth of it."""
NOT_MEASURED = (401, 403, 429)
"""Statuses that say nothing about the engine: no key, or throttled on purpose."""


class _Sick(Exception):
    """A request that got no whole answer, in an operator's words."""


@asynccontextmanager
async def _client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    # Not compressed: the bound on a body is then one on memory too.
    headers = {"Accept-Encoding": "identity"}
    if service.api_key:
        headers["Authorization"] = f"Bearer {(await resolve(service.api_key)).get_secret_value()}"
    async with httpx.AsyncClient(
        base_url=service.url,
        headers=headers,
        # Loading the CA bundle costs 20 ms of CPU, which a look over plain HTTP can spare.
        verify=service.tls_verify and service.url.startswith("https:"),
        follow_redirects=False,
        trust_env=False,  # a proxy variable of the worker must not stand between it and the GPU
    ) as client:
        yield client


async def _ask(
    client: httpx.AsyncClient, path: str, timeout_s: float, send: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Status and JSON (None for a body that is none) of one request, bounded in time and size.

    `timeout_s` holds for the whole answer: httpx's own begins anew with every byte.
    """
    timeout = httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))
    body = bytearray()
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("POST" if send else "GET", path, json=send, timeout=timeout) as answer,
        ):
            async for chunk in answer.aiter_raw(64 * 1024):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return answer.status_code, None
    except (TimeoutError, httpx.TimeoutException) as e:
        words = "connection timed out" if isinstance(e, httpx.ConnectTimeout) else ""
        raise _Sick(words or f"no answer within {timeout_s:g} s") from e
    except httpx.HTTPError as e:
        raise _Sick(_name(e)) from e
    try:
        return answer.status_code, json.loads(bytes(body))
    except (ValueError, RecursionError):
        return answer.status_code, None


async def observe(service: Service, *, probe_timeout_s: float = 5.0) -> Serving:
    """Ask /health, /v1/models and for one token; never raises for a sick server.

    A frozen engine answers the first two with 200 and never decodes: the time-out of the
    completion (`policy.decode_timeout_s`) is what finds it. `decoded` is None where nothing was
    measured (no key, throttled), False where it was and is bad. Source: vLLM 0.32 HTTP API.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with _client(service) as client:
        try:
            status, _ = await _ask(client, "/health", probe_timeout_s)
        except _Sick as e:
            return Serving(reachable=False, problem=f"/health: {e}")
        if status != 200:
            return Serving(
                reachable=True, health_status=status, problem=_answered("health", status)
            )
        got: dict[str, Any] = {"reachable": True, "health_status": 200}
        try:
            status, body = await _ask(client, "/v1/models", probe_timeout_s)
        except _Sick as e:
            return Serving(**got, decoded=False, problem=f"/v1/models: {e}")
        if status in NOT_MEASURED:
            return Serving(**got, problem=_answered("v1/models", status))
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
        status, body = await _ask(client, "/v1/completions", limit, ping)
    except _Sick as e:
        if isinstance(e.__cause__, httpx.TimeoutException | TimeoutError):
            return Serving(**got, decoded=False, problem=f"no token within {limit:g} s")
        return Serving(**got, decoded=False, problem=f"/v1/completions: {e}")
    took = time.monotonic() - began
    if status in NOT_MEASURED:
        return Serving(**got, problem=_answered("v1/completions", status))
    if status != 200 or not _has_token(body):
        return Serving(**got, decoded=False, problem=f"/v1/completions answered {status}, no token")
    return Serving(**got, decoded=True, decode_s=took)


def _has_token(body: Any) -> bool:
    usage = body.get("usage") if isinstance(body, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return type(count) is int and count >= 1


def _answered(path: str, status: int) -> str:
    remedy = ": set api_key of this service" if status in (401, 403) else ""
    return f"/{path} answered {status}{remedy}"


def _name(e: httpx.HTTPError) -> str:
    text = str(e)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.rsplit("certificate verify failed: ", 1)[-1].split(" (_ssl")[0]
        return (
            f"its certificate is not accepted ({why[:100]}); install its CA, or tls_verify: false"
        )
    if "[SSL" in text:
        return "no TLS there; is the url http:// ?"
    if "Name or service not known" in text or "nodename nor servname" in text:
        return "its host name is not known here"
    return {
        "ConnectError": "connection refused",
        "RemoteProtocolError": "connection cut",
        "ReadError": "connection cut",
    }.get(type(e).__name__, type(e).__name__)
