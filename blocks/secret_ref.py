"""References to secrets. The inventory holds the reference, never the value."""

import os
import re
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, Field, SecretStr

from blocks.errors import Permanent, Transient

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMED = re.compile(r"secret:([a-z0-9][a-z0-9-]*)")


def is_reference(value: str) -> bool:
    """Whether a text has the form of a reference."""
    return bool(_ENV.fullmatch(value) or _NAMED.fullmatch(value))


def _is_reference(value: str) -> str:
    if not is_reference(value):
        # The value itself is not repeated: it may be a real secret.
        raise ValueError(
            "must be a reference, not the secret itself: ${ENV_NAME} or secret:PREFECT-SECRET-NAME"
        )
    return value


SecretRef = Annotated[
    str,
    AfterValidator(_is_reference),
    Field(description="reference to a secret: ${ENV} or secret:NAME (a Prefect Secret block)"),
]


async def resolve(ref: str) -> SecretStr:
    """The secret behind a reference, without white space around it.

    Raises:
        Permanent: the environment variable or the Prefect Secret block is missing or empty, or
            what it holds cannot stand in an HTTP header.
        Transient: the Prefect server does not answer.
    """
    if match := _ENV.fullmatch(ref):
        what = f"environment variable {match[1]}"
        value = os.environ.get(match[1], "").strip()
        if not value:
            raise Permanent(f"{what} is not set for the worker; export it and restart the worker")
        return _usable(value, what)
    named = _NAMED.fullmatch(ref)
    if not named:
        # A block or a flow parameter may have been edited: what stands there is not repeated.
        raise Permanent("a secret must be given as ${ENV_NAME} or secret:PREFECT-SECRET-NAME")
    from prefect.blocks.system import Secret  # lazy: decisions and tests import the inventory

    what = f"Prefect Secret {named[1]!r}"
    try:
        block: Any = await Secret.aload(named[1])
    except (ValueError, RuntimeError) as e:
        raise Permanent(
            f"{what} does not exist; create it: prefect block create secret, or in the UI"
        ) from e
    except httpx.HTTPError as e:
        raise Transient(f"{what} cannot be read: the Prefect server does not answer") from e
    value = str(block.get() or "").strip()
    if not value:
        raise Permanent(f"{what} is empty; edit it in the Prefect UI")
    return _usable(value, what)


def _usable(value: str, what: str) -> SecretStr:
    if not (value.isascii() and value.isprintable()):
        raise Permanent(f"{what} holds characters no key has (a line break, or not ASCII)")
    return SecretStr(value)
