"""Bodies of the OpenAI-compatible API: tokens, answers and errors as vLLM 0.32 writes them.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox.vllm_http import Request, as_json
else:
    from vllm_http import Request, as_json

if TYPE_CHECKING:
    from deployments.sandbox.vllm_engine import Job

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = (" all", " systems", " are", " decoding", " and", " every", " token", " counts")


class ApiError(Exception):
    """An error body of vLLM."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.response = as_json(
            {"error": {"message": message, "type": kind, "param": param, "code": status}}, status
        )


def bad(message: str, param: str | None = None, value: Any = None) -> ApiError:
    """A 400 the way vLLM words it."""
    if param is not None:
        message = f"{message} (parameter={param}, value={value})"
    return ApiError(400, "BadRequestError", message, param)


def tokens_of(value: Any) -> list[int]:
    """A stand-in tokenizer: one token per word or sign; token ids pass through."""
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        return list(value)
    return [hash_of(word) for word in _TOKEN.findall(str(value))]


def hash_of(word: str) -> int:
    """A stable token id."""
    return int.from_bytes(hashlib.blake2s(word.encode(), digest_size=2).digest(), "big")


def answer(count: int, start: int = 0) -> str:
    """The next words of an answer."""
    return "".join(_WORDS[i % len(_WORDS)] for i in range(start, start + count))


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def usage_of(jobs: list[Job]) -> dict[str, Any]:
    """Token counts of a request."""
    prompt, out = sum(j.prompt_tokens for j in jobs), sum(j.produced for j in jobs)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + out,
        "completion_tokens": out,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def choice(index: int, job: Job, chat: bool) -> dict[str, Any]:
    """One finished choice."""
    said = answer(job.produced)
    end = {"logprobs": None, "finish_reason": job.finish, "stop_reason": None, "token_ids": None}
    if chat:
        message = {
            "role": "assistant",
            "content": said,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        return {"index": index, "message": message, **end, "routed_experts": None}
    return {
        "index": index,
        "text": said,
        **end,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }


def tail(chat: bool) -> dict[str, Any]:
    """The null fields at the end of an answer."""
    first = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None} if chat else {}
    return {**first, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


def chat_text(body: dict[str, Any]) -> str:
    """The text of a conversation; 400 without messages."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]")
    return " ".join(
        f"{m.get('role', '')} {m.get('content', '')}" for m in messages if isinstance(m, dict)
    )


def json_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request body; 415 or 400 when it is none."""
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise ApiError(
            415,
            "Unsupported Media Type",
            "Unsupported Media Type: Only 'application/json' is allowed",
        )
    try:
        value = json.loads(request.body)
    except ValueError as e:
        raise ApiError(
            400,
            "Bad Request",
            "[{'type': 'json_invalid', 'loc': ('body', 0), 'msg': "
            f"'JSON decode error', 'ctx': {{'error': '{e}'}}}}]",
        ) from e
    if not isinstance(value, dict):
        raise bad(
            "[{'type': 'model_attributes_type', 'loc': ('body',), 'msg': 'Input should be a "
            "valid dictionary or object to extract fields from'}]"
        )
    return value


def models(names: list[str], root: str, max_model_len: int, created: int) -> dict[str, Any]:
    """The list of served models."""
    permission = {
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": root,
                "parent": None,
                "max_model_len": max_model_len,
                "permission": [{"id": f"modelperm-{uuid.uuid4().hex[:16]}", **permission}],
            }
            for name in names
        ],
    }
