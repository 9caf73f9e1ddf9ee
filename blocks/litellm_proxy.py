"""One LiteLLM proxy: its block, and the thin client that asks whether it serves its models."""

import asyncio
import time
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.errors import Permanent, RunbookError
from blocks.http_probe import NOT_MEASURED, Sick, answered, ask, client_of, has_token
from blocks.litellm_text import live_limits as limits_in
from blocks.models import Frozen, Serving
from blocks.service import LitellmSource, Service
from blocks.serving_file import read_file


class LitellmProxy(Service, Block):
    """A LiteLLM proxy of a platform: where it is, how it runs, where its limits are written."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "LiteLLM proxy"
    _block_type_slug = "litellm-proxy"
    _description = "A LiteLLM proxy. Written by `runbooks apply`; the key is a reference."


MOST_MODELS = 3
"""Models that are asked for a token before the proxy counts as not answering."""
_NO_DEPLOYMENTS = "No deployments available"


async def observe(service: Service, *, probe_timeout_s: float = 5.0) -> Serving:
    """Ask whether it lives, is ready, serves what its file says, and for one token of a model.

    Never raises for a sick proxy. `health_status` is that of /health/liveliness unless it is 200,
    then that of /health/readiness. `decoded` is True as soon as one of at most three chat models
    answers a token; False when every one of them measurably fails (5xx, no answer), or when it
    serves other limits than its file has, so that it was not restarted; None where nothing was
    measured: no key, throttled, or its 429 "No deployments available", which a dead backend in
    cool-down and a rate limit share. Each look costs a token, and counts against the rpm of that
    model. `max_model_len` is always None. Source: LiteLLM 1.106 (docs/proxy/health).

    Args:
        service: the proxy.
        probe_timeout_s: of one answer but the token's, which has `policy.decode_timeout_s`.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with client_of(service) as client:
        got, problem = await _ready(client, probe_timeout_s)
        if problem:
            return Serving(**got, problem=problem)
        try:
            status, body = await ask(client, "/v1/models", probe_timeout_s)
        except Sick as e:
            return Serving(**got, decoded=False, problem=f"/v1/models: {e}")
        if status in NOT_MEASURED:
            return Serving(**got, problem=answered("v1/models", status))
        listed = _models(body) if status == 200 else {}
        if not listed:
            return Serving(
                **got, decoded=False, problem=f"/v1/models answered {status}, no model list"
            )
        wanted = service.served_model_name
        got["model_ids"] = tuple(listed)
        got["model_id"] = wanted if wanted in listed else next(iter(listed))
        if stale := await _stale(client, service, probe_timeout_s):
            return Serving(**got, decoded=False, problem=stale)
        chat = [name for name, mode in listed.items() if mode in ("", "chat") and "*" not in name]
        chat.sort(key=lambda name: name != wanted)  # the wanted one first; else as listed
        return await _decode(client, chat[:MOST_MODELS], service.policy.decode_timeout_s, got)


async def live_limits(service: Service, *, timeout_s: float = 5.0) -> dict[str, int] | str:
    """The limits it works with now (`MODEL.tpm` -> value), or why they cannot be had.

    LiteLLM adds what it knows of a public model by itself, so there may be more than its file has.
    Source: LiteLLM 1.106 `GET /model/info`, which needs a key.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with client_of(service) as client:
        return await _live(client, timeout_s)


async def _live(client: httpx.AsyncClient, timeout_s: float) -> dict[str, int] | str:
    try:
        status, body = await ask(client, "/model/info", timeout_s)
        data = body.get("data") if isinstance(body, dict) else None
        if status != 200 or not isinstance(data, list):
            return answered("model/info", status) + ("" if status != 200 else ", no model list")
        return limits_in(data)
    except Sick as e:
        return f"/model/info: {e}"
    except Permanent as e:
        return str(e)


async def _stale(client: httpx.AsyncClient, service: Service, timeout_s: float) -> str:
    """Which limit of its file it does not serve; empty when all are, or when it does not tell."""
    if not isinstance(service.serving, LitellmSource):
        return ""
    try:
        written = (await asyncio.to_thread(read_file, service.serving)).limits
    except RunbookError:
        return ""  # whoever reads the config says so; the proxy itself may be well
    live = await _live(client, timeout_s)
    if isinstance(live, str):
        return ""
    for name, value in written.items():
        # A key may be allowed to see some models only: what it does not list is no difference.
        if name in live and live[name] != value:
            return f"it serves {name} {live[name]}, its file says {value}: it was not restarted"
    return ""


async def _ready(client: httpx.AsyncClient, timeout_s: float) -> tuple[dict[str, Any], str]:
    """What a `Serving` begins with, and why it ends there; empty when the proxy is ready."""
    got: dict[str, Any] = {"reachable": False}
    for path in ("/health/liveliness", "/health/readiness"):
        try:
            status, _ = await ask(client, path, timeout_s)
            if status == 404 and path == "/health/liveliness":
                status, _ = await ask(client, "/health/liveness", timeout_s)
        except Sick as e:
            # Once it answered, silence is a failure of it and not of the way to it.
            return (got | {"decoded": False} if got["reachable"] else got), f"{path}: {e}"
        got = {"reachable": True, "health_status": status}
        if status != 200:
            return got, answered(path[1:], status)
    return got, ""


def _models(body: Any) -> dict[str, str]:
    """Name -> mode (empty when not told) of every model; empty when it is no model list."""
    data = body.get("data") if isinstance(body, dict) else None
    found: dict[str, str] = {}
    for model in data[:1000] if isinstance(data, list) else []:
        name = model.get("id") if isinstance(model, dict) else None
        if isinstance(name, str) and name:
            mode = model.get("mode")
            found[name[:500]] = mode if isinstance(mode, str) else ""
    return found


class _Tried(Frozen):
    """One model asked for one token. `decoded` None: not measured."""

    decoded: bool | None
    took_s: float = 0.0
    problem: str = ""


async def _decode(
    client: httpx.AsyncClient, models: list[str], limit_s: float, got: dict[str, Any]
) -> Serving:
    """The first model alone, since it mostly answers; then the others at once."""
    if not models:
        return Serving(**got, problem="/v1/models lists no chat model to ask for a token")
    tried = [await _ping(client, models[0], limit_s)]
    if not tried[0].decoded and models[1:]:
        tried += await asyncio.gather(*(_ping(client, m, limit_s) for m in models[1:]))
    if good := next((t for t in tried if t.decoded), None):
        return Serving(**got, decoded=True, decode_s=good.took_s)
    unknown = [t.problem for t in tried if t.decoded is None]
    if unknown:
        return Serving(**got, problem=unknown[0])
    return Serving(**got, decoded=False, problem="; ".join(t.problem for t in tried))


async def _ping(client: httpx.AsyncClient, model: str, limit_s: float) -> _Tried:
    began = time.monotonic()
    ping = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    try:
        status, body = await ask(client, "/v1/chat/completions", limit_s, ping)
    except Sick as e:
        why = f"no token within {limit_s:g} s" if e.timed_out else str(e)
        return _Tried(decoded=False, problem=f"{model}: {why}")
    if status == 200 and has_token(body):
        return _Tried(decoded=True, took_s=time.monotonic() - began)
    if status == 429:
        dead_or_throttled = _NO_DEPLOYMENTS in _message(body)
        why = (
            f'429 "{_NO_DEPLOYMENTS}": throttled, or its backend is dead and cools down; '
            "ask the backend itself"
            if dead_or_throttled
            else "throttled (429)"
        )
        return _Tried(decoded=None, problem=f"{model}: {why}")
    problem = f"{model}: {answered('v1/chat/completions', status)}"
    if status in NOT_MEASURED:
        return _Tried(decoded=None, problem=problem)
    return _Tried(decoded=False, problem=f"{problem}, no token{_kind(body)}")


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    return text if isinstance(text, str) else ""


def _kind(body: Any) -> str:
    """LiteLLM's own name of the error, e.g. InternalServerError; its text may name hosts."""
    first = _message(body).removeprefix("litellm.").split(":", 1)[0]
    return f" ({first})" if first.isidentifier() else ""
