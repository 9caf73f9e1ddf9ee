"""YAML text of values that strangers chose: names, paths, labels. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from blocks.stack_rules import is_slug

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*")
_WORDS = frozenset("true false null yes no on off y n nan inf".split())
MAX_COMMENT = 200


def scalar(value: Any) -> str:
    """A value as YAML reads it back, in double quotes unless it is plainly a word."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    if 0xD800 <= code < 0xE000:  # half a character: no YAML can hold it
        return "\\ufffd"
    if char.isprintable():
        return char
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def flow_list(values: Iterable[Any]) -> str:
    """`[a, b]`."""
    return "[" + ", ".join(map(scalar, values)) + "]"


def flow_map(values: dict[str, Any]) -> str:
    """`{a: b}`; a value may be a list or a mapping itself."""

    def one(value: Any) -> str:
        if isinstance(value, dict):
            return flow_map(value)
        return flow_list(value) if isinstance(value, list | tuple) else scalar(value)

    return "{" + ", ".join(f"{scalar(k)}: {one(v)}" for k, v in values.items()) + "}"


def comment(text: str, indent: int = 0) -> str:
    """One comment line: what cannot be printed is `?`, and it ends at `MAX_COMMENT`."""
    flat = "".join(c if c.isprintable() else "?" for c in text)
    return " " * indent + "# " + (flat if len(flat) <= MAX_COMMENT else flat[:MAX_COMMENT] + "...")


def slug_of(text: str, otherwise: str, taken: Sequence[str] = ()) -> str:
    """The text as a name of the inventory, and none of those taken: `-2`, `-3` ... is added."""
    base = re.sub(r"[^a-z0-9]+", "-", text.lower())[:58].strip("-")
    base = base if is_slug(base) else otherwise
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
