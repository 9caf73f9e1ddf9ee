"""What the Docker SDK raises, as the errors callers decide by. No I/O."""

import requests
from docker.errors import APIError, NotFound

from blocks.errors import Permanent, RunbookError, Transient


class Missing(Permanent):
    """404: no such container, image or network."""


class Conflict(Permanent):
    """409: the name is taken, or the container's state forbids it."""


def mapped(base_url: str, e: Exception, what: str, target: str) -> RunbookError:
    """The error for `e`: what was asked, of which engine, and what to do.

    Args:
        base_url: of the engine.
        e: from the SDK, from requests, or from the socket.
        what: the call, one word.
        target: container, image or network.
    """
    where = f"Docker at {base_url}"
    response = getattr(e, "response", None)
    if response is not None:
        text = f"{where}: {what} {target}: {response.status_code} {_reason(e, response)}"
        if isinstance(e, NotFound) or response.status_code == 404:
            return Missing(text)
        if response.status_code == 409:
            return Conflict(text)
        if response.status_code == 501:
            return Permanent(text)
        if response.status_code >= 500 or response.status_code == 429:
            return Transient(f"{text}; look at the engine's log: journalctl -u docker")
        return Permanent(text)
    if isinstance(e, requests.Timeout) or "timed out" in str(e):
        return Transient(
            f"{where}: {what} {target}: no answer in time; is the engine busy? docker info"
        )
    if "Permission denied" in str(e):
        return Permanent(f"{where}: permission denied; add the worker's user to the group docker")
    if isinstance(e, requests.RequestException | OSError) or "fetching server API" in str(e):
        return Transient(
            f"{where} does not answer ({type(e).__name__}); is it running? "
            "systemctl status docker, and the address in docker_hosts"
        )
    return Permanent(f"{where}: {what} {target}: {str(e)[:300]}")


def _reason(e: Exception, response: requests.Response) -> str:
    text = e.explanation if isinstance(e, APIError) else None
    if not text:
        try:
            text = response.json().get("message")
        except ValueError:
            text = response.reason
    return str(text or "")[:300]
