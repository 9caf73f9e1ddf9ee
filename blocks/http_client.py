"""One bounded HTTP client for the servers that are only asked: Prometheus, Alertmanager, pages.

Bounded in time and size for the whole answer; no proxy of the environment; no redirects, for a
login page is no answer; no secret and no body in an error.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from blocks.errors import Permanent, Transient
from blocks.http_words import why
from blocks.models import Frozen
from blocks.secret_ref import resolve

MAX_BODY_BYTES = 8 << 20
CONNECT_S = 5.0


class Unreachable(Transient):
    """Nobody speaks HTTP there now: the next request would fare no better."""


class Answer(Frozen):
    """One whole answer."""

    status: int
    body: bytes
    retry_after_s: float | None = None

    def json_body(self) -> Any:
        """Its JSON; None for a body that is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@asynccontextmanager
async def client_to(
    url: str, token: str | None, *, tls_verify: bool, at_once: int = 8
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a bearer token, open for a few requests to one server.

    Args:
        url: base URL, with its route prefix.
        token: reference to the token.
        tls_verify: false accepts any certificate.
        at_once: connections.

    Raises:
        Permanent: the token cannot be resolved.
        Transient: the Prefect server that holds it does not answer.
    """
    # Not compressed: the bound on a body is then one on memory too.
    headers = {"Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {(await resolve(token)).get_secret_value()}"
    async with httpx.AsyncClient(
        base_url=url,
        headers=headers,
        # Loading the CA bundle costs 20 ms of CPU, which plain HTTP can spare.
        verify=tls_verify and url.startswith("https:"),
        follow_redirects=False,
        trust_env=False,  # a proxy variable of the worker must not stand in between
        limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
    ) as client:
        yield client


async def fetch(
    client: httpx.AsyncClient,
    path: str,
    timeout_s: float,
    params: Mapping[str, str] | None = None,
    max_bytes: int = MAX_BODY_BYTES,
) -> Answer:
    """GET, whatever the status.

    Args:
        client: of `client_to`.
        path: from the base URL on.
        timeout_s: for the whole answer; httpx's own begins anew with every byte.
        params: of the query string.
        max_bytes: of the body.

    Raises:
        Unreachable: no connection, no TLS, no HTTP.
        Transient: no whole answer in time, or cut.
        Permanent: the body is larger.
    """
    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=None)
    body = bytearray()
    where = f"{client.base_url}".rstrip("/")
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("GET", path, params=dict(params or {}), timeout=timeout) as answer,
        ):
            async for chunk in answer.aiter_raw(64 * 1024):
                body += chunk
                if len(body) > max_bytes:
                    raise Permanent(f"{where}{path} answers more than {max_bytes >> 20} MiB")
    except httpx.ConnectTimeout as e:
        raise Unreachable(f"{where}: connection timed out") from e
    except (TimeoutError, httpx.TimeoutException) as e:
        raise Transient(f"{where}{path}: no answer within {timeout_s:g} s") from e
    except httpx.ConnectError as e:
        raise Unreachable(f"{where}: {why(e)}") from e
    except httpx.LocalProtocolError:
        # Its text may repeat a header, and so the token.
        raise Permanent(f"{where}: the request cannot be sent; check url and token") from None
    except httpx.HTTPError as e:
        raise Transient(f"{where}{path}: the answer was cut off or is no HTTP") from e
    return Answer(
        status=answer.status_code,
        body=bytes(body),
        retry_after_s=_seconds(answer.headers.get("Retry-After", "")),
    )


def check_status(answer: Answer, where: str, *, secret: str, prefix: str = "") -> None:
    """Sort a status into the errors that flows decide by.

    Args:
        answer: what came.
        where: the server and what it was asked, for the message.
        secret: the field of the inventory that holds its key.
        prefix: what a 404 hints at.

    Raises:
        Transient: 429 and 5xx.
        Permanent: everything else but 200.
    """
    status = answer.status
    if status == 200:
        return
    if status == 429 or status >= 500:
        raise Transient(f"{where} answered {status}", retry_after_s=answer.retry_after_s)
    if status in (401, 403):
        raise Permanent(f"{where} answered {status}: set or renew its {secret}")
    if 300 <= status < 400:
        raise Permanent(f"{where} answered {status}, a redirect: give its final url, or {secret}")
    raise Permanent(f"{where} answered {status}{prefix if status == 404 else ''}")


def _seconds(text: str) -> float | None:
    """Retry-After in seconds; a date or a foolish number is left out."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
