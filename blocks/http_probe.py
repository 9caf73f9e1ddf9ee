"""One bounded request to a service of the inventory, and what its answer is worth."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from blocks.http_client import client_to
from blocks.http_words import why
from blocks.service import Service

MAX_BODY_BYTES = 1 << 20
"""Of one answer: a model list or one token needs a thousandth of it."""
NOT_MEASURED = (401, 403, 429)
"""Statuses that say nothing about the engine: no key, or throttled on purpose."""


class Sick(Exception):
    """A request that got no whole answer, in an operator's words."""

    @property
    def timed_out(self) -> bool:
        """Whether it was the time that ran out."""
        return isinstance(self.__cause__, httpx.TimeoutException | TimeoutError)


def client_of(service: Service) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """A client for one look at a service, with its key and its view of certificates.

    Raises (once entered):
        Permanent: the API key cannot be resolved.
    """
    return client_to(service.url, service.api_key, tls_verify=service.tls_verify)


async def ask(
    client: httpx.AsyncClient, path: str, timeout_s: float, send: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Status and JSON (None for a body that is none) of one request, bounded in time and size.

    `timeout_s` holds for the whole answer: httpx's own begins anew with every byte.

    Raises:
        Sick: no whole answer; what a service does to a request is never another error.
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
        raise Sick(words or f"no answer within {timeout_s:g} s") from e
    except httpx.HTTPError as e:
        raise Sick(why(e)) from e
    try:
        return answer.status_code, json.loads(bytes(body))
    except (ValueError, RecursionError):
        return answer.status_code, None


def has_token(body: Any) -> bool:
    """Whether a completion's usage counts a token."""
    usage = body.get("usage") if isinstance(body, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return type(count) is int and count >= 1


def answered(path: str, status: int) -> str:
    """`/path answered 401`, with the remedy where there is one."""
    remedy = ": set api_key of this service" if status in (401, 403) else ""
    return f"/{path} answered {status}{remedy}"
