"""One vLLM server: its block and the thin client that asks "is it decoding?"."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.models import Serving
from blocks.secrets import resolve
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


@asynccontextmanager
async def _client(service: Service, timeout_s: float) -> AsyncIterator[httpx.AsyncClient]:
    headers = {}
    if service.api_key:
        headers["Authorization"] = f"Bearer {(await resolve(service.api_key)).get_secret_value()}"
    async with httpx.AsyncClient(
        base_url=service.url,
        headers=headers,
        timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
        verify=service.tls_verify,
        follow_redirects=False,
        trust_env=False,  # a proxy variable of the worker must not stand between it and the GPU
    ) as client:
        yield client


async def observe(service: Service, *, probe_timeout_s: float = 5.0) -> Serving:
    """Ask /health, /v1/models and for one token; never raises for a sick server.

    A frozen engine answers the first two with 200 and never decodes: the time-out of the
    completion (`policy.decode_timeout_s`) is what finds it. Source: vLLM 0.32 HTTP API.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with _client(service, probe_timeout_s) as client:
        try:
            health = await client.get("/health")
        except httpx.HTTPError as e:
            return Serving(reachable=False, problem=f"/health: {_name(e)}")
        if health.status_code != 200:
            return Serving(
                reachable=True,
                health_status=health.status_code,
                problem=f"/health answered {health.status_code}",
            )
        got: dict[str, Any] = {"reachable": True, "health_status": 200}
        try:
            models = await client.get("/v1/models")
            listed = models.json()["data"] if models.status_code == 200 else []
            if not listed:
                return Serving(**got, problem=f"/v1/models answered {models.status_code}, no model")
            wanted = service.served_model_name
            chosen = next((m for m in listed if m["id"] == wanted), listed[0])
            got["model_ids"] = tuple(str(m["id"]) for m in listed)
            got["model_id"] = str(chosen["id"])
            got["max_model_len"] = chosen.get("max_model_len")
        except httpx.HTTPError as e:
            return Serving(**got, problem=f"/v1/models: {_name(e)}")
        except (ValueError, KeyError, TypeError):
            return Serving(**got, problem="/v1/models answered something that is no model list")
        return await _decode_one(client, service, got)


async def _decode_one(client: httpx.AsyncClient, service: Service, got: dict[str, Any]) -> Serving:
    limit = service.policy.decode_timeout_s
    began = time.monotonic()
    try:
        answer = await client.post(
            "/v1/completions",
            json={"model": got["model_id"], "prompt": "ping", "max_tokens": 1, "temperature": 0},
            timeout=limit,
        )
    except httpx.TimeoutException:
        return Serving(**got, decoded=False, problem=f"no token within {limit:g} s")
    except httpx.HTTPError as e:
        return Serving(**got, decoded=False, problem=f"/v1/completions: {_name(e)}")
    took = time.monotonic() - began
    if answer.status_code == 429:
        # Throttled on purpose: says nothing about the engine.
        return Serving(**got, decoded=None, problem="/v1/completions answered 429")
    if answer.status_code in (401, 403):
        return Serving(
            **got,
            decoded=None,
            problem=f"/v1/completions answered {answer.status_code}: set api_key of this service",
        )
    try:
        body = answer.json()
        tokens = int(body["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        tokens = 0
    if answer.status_code != 200 or tokens < 1:
        return Serving(
            **got, decoded=False, problem=f"/v1/completions answered {answer.status_code}, no token"
        )
    return Serving(**got, decoded=True, decode_s=took)


def _name(e: httpx.HTTPError) -> str:
    return {
        "ConnectError": "connection refused",
        "ConnectTimeout": "connection timed out",
        "ReadTimeout": "no answer in time",
        "RemoteProtocolError": "connection cut",
    }.get(type(e).__name__, type(e).__name__)
