"""The pieces of a PromQL query that hold what an inventory says. Pure."""

import re
from collections.abc import Mapping

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def selector(labels: Mapping[str, str], *more: str) -> str:
    """`{instance="motoko:8000"}`, values escaped.

    Args:
        labels: name -> value, all to be equal.
        more: further matchers, as PromQL writes them.

    Raises:
        ValueError: a name that no label can have.
    """
    for name in labels:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{name[:60]!r} is no label's name; use letters, digits and _")
    return "{" + ",".join([*(f"{k}={quoted(v)}" for k, v in labels.items()), *more]) + "}"


def quoted(text: str) -> str:
    """A PromQL string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'
