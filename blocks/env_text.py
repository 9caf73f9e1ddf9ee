"""Serving fields in the text of a .env file: read, and changed in place. Pure.

python-dotenv says where each variable starts and ends; only the value's own characters are
replaced, so comments, quotes, `export`, line ends and order stay.
"""

import io
import re
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from blocks.errors import Permanent
from blocks.models import SERVING_FIELDS, ServingConfig
from blocks.service import EnvFileSource
from blocks.serving_values import format_value, parse_value

_BINDING = re.compile(
    r"(?P<head>\s*(?P<export>export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*)"
    r"(?:(?P<equals>=[^\S\r\n]*)"
    r"(?P<value>'(?:\\'|[^'])*'|\"(?:\\\"|[^\"])*\"|[^\r\n]*?))?"
    r"(?P<tail>(?:[^\S\r\n]+\#[^\r\n]*|[^\S\r\n]*)(?:\r\n|\n|\r)?)"
)


def variable_of(source: EnvFileSource, field: str) -> str:
    """The variable that holds a field: as mapped, or the field in capitals."""
    return source.key_map.get(field, field.upper())


def read_env(text: str, source: EnvFileSource) -> ServingConfig:
    """The serving fields of a .env file; of a variable set twice the last counts.

    `${OTHER}` is not expanded: what is written is what would be edited.

    Raises:
        Permanent: a serving variable whose value is none of that field's; the values of other
            variables are never repeated.
    """
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return ServingConfig(
        **{
            field: parse_value(field, found.get(name) or "", f"{source.path}: {name}")
            for field in SERVING_FIELDS
            if (name := variable_of(source, field)) in found
        }
    )


def edit_env(text: str, source: EnvFileSource, before: ServingConfig, after: ServingConfig) -> str:
    """The text with the differing fields changed: in place, appended, or their lines removed.

    Raises:
        Permanent: a line that cannot be taken apart safely.
    """
    for field, (_, value) in before.diff(after).items():
        text = _edit_one(text, source.path, variable_of(source, field), value)
    return text


def _edit_one(text: str, path: str, name: str, value: Any) -> str:
    bindings = list(parse_stream(io.StringIO(text)))
    parts = [b.original.string for b in bindings]
    mine = [i for i, b in enumerate(bindings) if b.key == name]
    if value is None:
        for i in mine:
            # Blank lines before a variable belong to dotenv's record of it: they stay.
            blank = re.match(r"(?:[^\S\r\n]*(?:\r\n|\n|\r))*", parts[i])
            parts[i] = blank[0] if blank else ""
    elif mine:
        parts[mine[-1]] = _replace(parts[mine[-1]], value, f"{path}: {name}")
    else:
        _append(parts, bindings, name, value)
    return "".join(parts)


def _replace(line: str, value: Any, where: str) -> str:
    if not (match := _BINDING.fullmatch(line)):
        raise Permanent(f"{where} is written in a way that cannot be edited safely; edit by hand")
    old = match["value"] or ""
    quote = old[:1] if len(old) > 1 and old[0] in "'\"" and old[0] == old[-1] else ""
    word = _quoted(format_value(value, old.strip("'\"")), quote)
    return match["head"] + (match["equals"] or "=") + word + match["tail"]


def _append(parts: list[str], bindings: list[Binding], name: str, value: Any) -> None:
    text = "".join(parts)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [m for b, p in zip(bindings, parts, strict=True) if b.key if (m := _BINDING.match(p))]
    export = "export " if lines and all(m["export"] for m in lines) else ""
    if text and not text.endswith("\n"):
        parts.append(newline)
    parts.append(f"{export}{name}={_quoted(format_value(value), '')}{newline}")


def _quoted(word: str, quote: str) -> str:
    if not quote and re.fullmatch(r"[\w@%+=:,./-]*", word, re.ASCII):
        return word
    quote = quote or "'"
    return quote + word.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
