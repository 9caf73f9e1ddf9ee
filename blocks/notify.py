"""Mattermost, e-mail and what else apprise reaches. The URL is a secret and in no message."""

import asyncio
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from blocks.errors import Permanent, Transient
from blocks.secret_ref import resolve

TIMEOUT_S = 30.0
BODY_LIMIT = 10_000
"""Characters; apprise itself cuts to what the service takes."""

_STATUS = re.compile(r"error=(\d{3})\b")


async def notify(
    name: str, ref: str, title: str, body: str, *, email: str = "", timeout_s: float = TIMEOUT_S
) -> None:
    """Send one message by one way.

    Args:
        name: the way's name in the inventory, for messages.
        ref: reference to its apprise URL.
        title: one line.
        body: plain text.
        email: what `{email}` in the URL stands for.
        timeout_s: for the whole message; a call that hangs is left behind.

    Raises:
        Transient: the service did not take it, or not in time.
        Permanent: the URL is missing or unknown to apprise, or the service refused it (4xx).
    """
    url = (await resolve(ref)).get_secret_value()
    if "{email}" in url:
        if not email:
            raise Permanent(
                f"{name}: the person has no email; add it under people.members, or write the "
                "address into the URL"
            )
        url = url.replace("{email}", quote(email, safe=""))
    try:
        async with asyncio.timeout(timeout_s):
            sent, status, fault = await asyncio.to_thread(_send, url, title, body[:BODY_LIMIT])
    except TimeoutError:
        raise Transient(f"{name}: not sent within {timeout_s:g} s") from None
    if sent is None:
        raise Permanent(
            f"{name}: what its reference holds is not one apprise URL; e.g. mmost://HOST/TOKEN "
            "for Mattermost, mailtos://USER:PASSWORD@HOST?to=ADDRESS for e-mail"
        )
    if not sent:
        said = f" (HTTP {status})" if status else f" ({fault})" if fault else ""
        if 400 <= status < 500 and status not in (408, 429):
            raise Permanent(f"{name}: the service refused the message{said}; check its URL")
        raise Transient(f"{name}: the service did not take the message{said}")


def _send(url: str, title: str, body: str) -> tuple[bool | None, int, str]:
    """Blocking. Whether it was sent (None: no such URL), the HTTP status of a failure, and the
    name of a plug-in's own error.
    """
    import apprise  # lazy: half a second, and only who escalates needs it

    sender = apprise.Apprise(asset=apprise.AppriseAsset(secure_logging=True))
    with _heard() as statuses:
        try:
            if not sender.add(url) or len(sender) != 1:
                return None, 0, ""
            sent = sender.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
        except Exception as e:  # noqa: BLE001 - a plug-in's own; its text may repeat the URL
            return False, 0, type(e).__name__
    return bool(sent), statuses[-1] if statuses else 0, ""


class _Hearing(logging.Handler):
    """Takes the HTTP status out of what apprise logs in this thread, and nothing else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.statuses: list[int] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear one record; its text may hold the URL and is dropped."""
        if record.thread == self._thread and (match := _STATUS.search(record.getMessage())):
            self.statuses.append(int(match[1]))


class _Quiet(logging.Filter):
    """Drops what this thread logs: urllib3 names the path of a request, and so a token."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is somebody else's."""
        return record.thread != self._thread


@contextmanager
def _heard() -> Iterator[list[int]]:
    logger, lower = logging.getLogger("apprise"), logging.getLogger("urllib3.connectionpool")
    # Its warnings name hosts, its debug lines whole URLs.
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    hearing, quiet = _Hearing(), _Quiet()
    logger.addHandler(hearing)
    lower.addFilter(quiet)
    try:
        yield hearing.statuses
    finally:
        logger.removeHandler(hearing)
        lower.removeFilter(quiet)
