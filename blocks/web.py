"""Base URLs of the inventory: what may stand there, and what may not."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def base_url(value: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ValueError: no http(s) URL, or one that may hold a password; it is not repeated then.
    """
    try:
        parts = urlsplit(value)
        port_is_good = parts.port != 0
    except ValueError:
        raise ValueError("is no http(s) URL; write http://HOST:PORT") from None
    # First, so that what may be a password is not repeated by the next message.
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "must end before any `@`, `?` or `#`: a key is a reference of its own, ${ENV_NAME}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        raise ValueError(f"{value[:80]!r} is no http(s) URL; write http://HOST:PORT")
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(base_url)]
