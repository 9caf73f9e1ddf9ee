"""Pings that say a scheduled procedure began and ended: who hears none knows that it did not.

For a service such as healthchecks (https://healthchecks.io/docs/http_api/): GET on a start URL
and on a success URL. It alone can notice that nothing runs here any more.
"""

import asyncio
import re
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, Field

from blocks.errors import RunbookError
from blocks.http_words import why
from blocks.models import Frozen
from blocks.secret_ref import resolve

TIMEOUT_S = 5.0
"""Of one request, whole; there are at most two."""
PAUSE_S = 1.0
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}|secret:[a-z0-9][a-z0-9-]*")


def _usable(value: str) -> str:
    if not value or _REFERENCE.fullmatch(value):
        return value
    try:
        url = urlsplit(value)
        well = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        url, well = None, False
    # Whoever knows the address can ping in our name, so it is not repeated whole.
    if not well or any(c.isspace() for c in value):
        raise ValueError(
            f"{value[:12]!r}... is no http:// or https:// URL; copy the check's ping URL, or give "
            "a reference to it: ${ENV_NAME} or secret:PREFECT-SECRET-NAME"
        )
    if url and (url.username or url.password):
        raise ValueError("has a name or password in it; use ${ENV_NAME} or secret:NAME instead")
    return value


PingUrl = Annotated[str, AfterValidator(_usable)]


class DeadMan(Frozen):
    """The check of one scheduled procedure at a service such as healthchecks."""

    start: PingUrl = Field(default="", description="URL that is asked when it begins")
    success: PingUrl = Field(default="", description="URL that is asked when it ends green")


async def ping(url: str) -> str:
    """Ask one URL, and once more when it fails; never raises and takes at most 11 s.

    Args:
        url: address, or the reference to one; an empty one is not asked.

    Returns:
        An empty string, or a note that names the host and what went wrong.
    """
    if not url:
        return ""
    try:
        address = (await resolve(url)).get_secret_value() if _REFERENCE.fullmatch(url) else url
        host = urlsplit(_usable(address)).hostname
    except (RunbookError, ValueError) as e:
        return f"no dead-man ping: {e}"
    problem = await _ask(address)
    if problem is not None and problem[1]:
        await asyncio.sleep(PAUSE_S)
        problem = await _ask(address)
    return f"the dead-man ping to {host} failed: {problem[0]}" if problem else ""


async def _ask(address: str) -> tuple[str, bool] | None:
    """None when it was heard; else what went wrong, and whether it may pass by itself."""
    try:
        async with asyncio.timeout(TIMEOUT_S), httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            # Only the status is of interest: the body is not read.
            async with client.stream("GET", address) as answer:
                status = answer.status_code
    except (TimeoutError, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s", True
    except httpx.ConnectError as e:
        return why(e), True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as e:
        return type(e).__name__, True  # its text may repeat the address
    if 200 <= status < 300:
        return None
    return f"it answered {status}", status == 429 or status >= 500
