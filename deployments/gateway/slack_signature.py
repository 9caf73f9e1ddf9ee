"""Slack's signature of a request, version v0. Pure.

https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

import hashlib
import hmac
import re

SKEW_S = 300
"""An older or younger request is refused, whoever signed it."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """`v0=` and the HMAC-SHA256 of `v0:TIMESTAMP:BODY`, the body as it was sent, in hex."""
    base = b"v0:" + timestamp.encode() + b":" + body
    return "v0=" + hmac.new(secret.encode(), base, hashlib.sha256).hexdigest()


def fresh(timestamp: str, now: float) -> bool:
    """Whether a time stamp is one, and not further than five minutes from now (seconds)."""
    return bool(re.fullmatch(r"[0-9]{1,12}", timestamp)) and abs(now - int(timestamp)) <= SKEW_S


def genuine(secret: str, timestamp: str, body: bytes, given: str) -> bool:
    """Whether the signature is the secret's; takes the same time whatever differs."""
    if not (secret and re.fullmatch(r"[0-9]{1,12}", timestamp)):
        return False
    expected = signature(secret, timestamp, body)
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))
