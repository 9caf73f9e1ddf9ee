"""What Python, Prefect and httpx would work out anew at every start or call, worked out once.

It was a third of the tests' CPU time. Nothing here changes what a test proves.
"""

import os
import sys
from pathlib import Path

import certifi

AUTHORITY = str(Path(__file__).with_name("authority.pem"))
"""A bundle of one certificate that has signed nothing: no test speaks to the Internet."""


def write_bytecode() -> None:
    """Where none is written, as in many containers, every process compiles all of Prefect anew."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def read_one_authority() -> None:
    """Every HTTP client reads the whole bundle, 13 ms, also for http://."""
    certifi.where = lambda: AUTHORITY


def remember_secret_fields() -> None:
    """Prefect makes a block's JSON schema for each field of each block that it saves, 6 ms."""
    from prefect.blocks.core import Block

    asked, known = Block._field_has_secrets, dict[tuple[type[Block], str], bool]()

    def remembered(self: Block, field_name: str) -> bool:
        key = (type(self), field_name)
        if key not in known:
            known[key] = asked(self, field_name)
        return known[key]

    Block._field_has_secrets = remembered
