"""References to secrets. The inventory holds the reference, never the value."""

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr

from blocks.errors import Permanent

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMED = re.compile(r"secret:([a-z0-9][a-z0-9-]*)")


def _is_reference(value: str) -> str:
    if not (_ENV.fullmatch(value) or _NAMED.fullmatch(value)):
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
    """The secret behind a reference.

    Raises:
        Permanent: the environment variable or the Prefect Secret block is missing or empty.
    """
    if match := _ENV.fullmatch(ref):
        value = os.environ.get(match[1], "")
        if not value:
            raise Permanent(
                f"environment variable {match[1]} is not set for the worker; export it and restart"
            )
        return SecretStr(value)
    name = ref.removeprefix("secret:")
    from prefect.blocks.system import Secret  # lazy: decisions and tests import the inventory

    try:
        block: Any = await Secret.aload(name)
    except ValueError as e:
        raise Permanent(
            f"Prefect Secret {name!r} does not exist; create it: prefect block create secret"
        ) from e
    return SecretStr(str(block.get()))
