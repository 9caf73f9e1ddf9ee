"""Heads and bodies of LiteLLM's answers (captures/litellm). Standard library only."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox.vllm_http import Response
else:
    from vllm_http import Response

if TYPE_CHECKING:
    from deployments.sandbox.litellm_config import Deployment

CREATED = 1677610602
_GZIP_FROM = 500
"""LiteLLM compresses, hence varies by, answers of at least so many bytes."""

Head = list[tuple[str, str]]


def secured(size: int, head: Head) -> Head:
    """The date, the given headers, and those that LiteLLM puts on every answer."""
    vary = "Origin, Accept-Encoding" if size >= _GZIP_FROM else "Origin"
    return [
        ("date", formatdate(usegmt=True)),
        *head,
        ("vary", vary),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
    ]


def sized(value: Any) -> tuple[bytes, Head]:
    """A JSON body with its two headers."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return body, [("content-length", str(len(body))), ("content-type", "application/json")]


def plain(value: Any, status: int = 200) -> Response:
    """An answer of an operational endpoint."""
    body, own = sized(value)
    return Response(status, body, head=secured(len(body), own))


def completion_head(d: Deployment, own: Head, used: Head, upstream: Head, ms: float) -> Head:
    """The headers of a completion: the deployment, the cost, the backend's own, the limits."""
    costs = "original discount-amount margin-amount margin-percent input output tool-usage".split()
    return [
        *own,
        ("x-litellm-model-id", d.id),
        ("x-litellm-model-name", d.model),
        ("x-litellm-model-api-base", d.api_base),
        ("x-litellm-version", "1.106.2"),
        *((f"x-litellm-response-cost-{name}", "0.0") for name in costs),
        ("x-litellm-key-spend", "0.0"),
        ("x-litellm-response-duration-ms", str(ms)),
        ("x-litellm-overhead-duration-ms", "1.5"),
        ("x-litellm-callback-duration-ms", "0.0"),
        *((f"llm_provider-{k.lower()}", v) for k, v in upstream),
        ("x-litellm-model-group", d.alias),
        *used,
        ("x-litellm-attempted-retries", "0"),
        ("x-litellm-attempted-fallbacks", "0"),
    ]


def model_list(deployments: list[Deployment]) -> dict[str, Any]:
    """/v1/models: one entry per alias."""
    data = []
    for d in deployments:
        limits = {"max_input_tokens": d.max_input_tokens, "max_output_tokens": d.max_output_tokens}
        shown = {k: v for k, v in limits.items() if v is not None}
        data.append(
            {"id": d.alias, "object": "model", "created": CREATED, "owned_by": "openai"}
            | {"mode": "chat", **shown}
        )
    return {"data": data, "object": "list"}


def _params(d: Deployment) -> dict[str, Any]:
    limits: dict[str, Any] = {"tpm": d.tpm, "rpm": d.rpm, "weight": d.weight}
    limits["max_parallel_requests"] = d.max_parallel_requests
    return {k: v for k, v in limits.items() if v is not None}


def model_info(deployments: tuple[Deployment, ...]) -> dict[str, Any]:
    """/model/info: every deployment, its keys left out."""
    return {
        "data": [
            {
                "model_name": d.alias,
                "litellm_params": {"api_base": d.api_base, **_params(d), "model": d.model}
                | {"use_in_pass_through": False, "merge_reasoning_content_in_choices": False},
                "model_info": {
                    "id": d.id,
                    "db_model": False,
                    **d.extra,
                    "key": d.model,
                    "mode": "chat",
                    "max_tokens": d.max_output_tokens,
                    "max_input_tokens": d.max_input_tokens,
                    "max_output_tokens": d.max_output_tokens,
                    "litellm_provider": d.model.partition("/")[0],
                },
            }
            for d in deployments
        ]
    }


def endpoint(d: Deployment, error: str | None, request: dict[str, Any]) -> dict[str, Any]:
    """One entry of /health."""
    if error is None:
        limits = {k: v for k, v in _params(d).items() if k in ("tpm", "rpm")}
        return {"api_base": d.api_base, **limits, "model": d.model, "model_id": d.id}
    key = f"Be****{d.api_key[-2:]}" if d.api_key else "Be****"
    raw = {
        "raw_request_api_base": f"{d.api_base}/chat/completions",
        "raw_request_body": request,
        "raw_request_headers": {"Authorization": key, "Content-Type": "application/json"},
        "error": None,
    }
    shown = {"api_base": d.api_base, "model": d.model, "error": error}
    return {**shown, "raw_request_typed_dict": raw, "model_id": d.id, "exception_status": 500}


def reshaped(data: dict[str, Any], alias: str) -> dict[str, Any]:
    """A backend's completion in LiteLLM's field order, under the alias."""
    usage = data.get("usage") or {}
    names = ("completion_tokens", "prompt_tokens", "total_tokens")
    return {
        "id": data.get("id"),
        "created": data.get("created"),
        "model": alias,
        "object": data.get("object"),
        "system_fingerprint": data.get("system_fingerprint"),
        "choices": [_choice(c) for c in data.get("choices", [])],
        "usage": {k: usage.get(k, 0) for k in names},
    }


def _choice(c: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"finish_reason": c.get("finish_reason"), "index": c.get("index", 0)}
    if "message" not in c:
        return {**shown, "text": c.get("text", ""), "logprobs": None}
    said = c["message"]
    own = {k: said.get(k) for k in ("reasoning", "refusal")}
    shown["message"] = {"content": said.get("content"), "role": said.get("role", "assistant")}
    shown["message"]["provider_specific_fields"] = own
    extra = {k: c.get(k) for k in ("routed_experts", "stop_reason", "token_ids")}
    return {**shown, "provider_specific_fields": extra}
