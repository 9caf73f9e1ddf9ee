"""A serving file's bytes: read as `ServingConfig`, and edited with the proof of it. Pure."""

import difflib
import io
from typing import Any

from dotenv import dotenv_values

from blocks.env_text import edit_env, read_env, variable_of
from blocks.errors import Permanent
from blocks.litellm_text import edit_litellm, limit_path, read_litellm, without_limit
from blocks.models import ServingConfig
from blocks.service import EnvFileSource, LitellmSource, YamlSource
from blocks.serving_values import check_edit, refuse_drift
from blocks.utf8 import BOM, decoded
from blocks.yaml_text import edit_yaml, key_paths, load_yaml, read_yaml, without

TextSource = YamlSource | EnvFileSource | LitellmSource


def read_text(source: TextSource, text: str) -> ServingConfig:
    """The serving config in a file's text.

    Raises:
        Permanent: not valid, or a value that is none of its field's.
    """
    if isinstance(source, LitellmSource):
        return read_litellm(text, source)
    return read_yaml(text, source) if isinstance(source, YamlSource) else read_env(text, source)


def edited(
    source: TextSource, content: bytes, before: ServingConfig, after: ServingConfig
) -> bytes:
    """The new content, proven to differ in the planned fields and in their lines only.

    The same content when nothing differs between `before` and `after`.

    Raises:
        Unsafe: `drifted`, a planned field is not what the plan started from.
        Permanent: it cannot be read, or not edited without touching something else.
    """
    old = decoded(source.path, content)
    now = read_text(source, old)
    fields = list(before.diff(after))
    refuse_drift(before, after, now, source.path)
    if isinstance(source, LitellmSource):
        new = edit_litellm(old, source, before, after)
        names, rest_old, rest_new = _limits_apart(old, new, source, fields)
    elif isinstance(source, YamlSource):
        new = edit_yaml(old, source, before, after)
        names, rest_old, rest_new = _fields_apart(old, new, source, fields)
    else:
        new = edit_env(old, source, before, after)
        names = [variable_of(source, f) for f in fields]
        rest_old, rest_new = _others(old, names), _others(new, names)
    check_edit(before, after, read_text(source, new), source.path)
    if repr(rest_old) != repr(rest_new):
        raise Permanent(
            f"{source.path}: {', '.join(fields)} cannot be changed without changing another key "
            "(a shared anchor?); nothing was written; edit the file by hand"
        )
    if stray := _stray_line(old, new, names):
        raise Permanent(
            f"{source.path}: the edit would touch line {stray}, which is none of "
            f"{', '.join(fields)}; nothing was written; edit the file by hand"
        )
    return (BOM if content.startswith(BOM.encode()) else "").encode() + new.encode()


Apart = tuple[list[str], Any, Any]
"""The keys that may stand in a changed line; all other data before, and after."""


def _fields_apart(old: str, new: str, source: YamlSource, fields: list[str]) -> Apart:
    rest_old, rest_new = load_yaml(old, source.path), load_yaml(new, source.path)
    # Where the field stood and where it stands now: a first key decides on _ or -.
    paths = [key_paths(data, source, f) for data in (rest_old, rest_new) for f in fields]
    for path in paths:
        rest_old, rest_new = without(rest_old, path), without(rest_new, path)
    return [name for path in paths for name in path], rest_old, rest_new


def _limits_apart(old: str, new: str, source: LitellmSource, fields: list[str]) -> Apart:
    rest_old, rest_new = load_yaml(old, source.path), load_yaml(new, source.path)
    names: list[str] = []
    for field in fields:
        path = limit_path(rest_old, source, field)
        names += path[1:] if path[1:2] == ["model_info"] else path[-1:]
        rest_old, rest_new = without_limit(rest_old, path), without_limit(rest_new, path)
    return names, rest_old, rest_new


def _others(text: str, names: list[str]) -> list[tuple[str, str | None]]:
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return [(k, v) for k, v in found.items() if k not in names]


def _stray_line(old: str, new: str, names: list[str]) -> int | None:
    """The first line (of `old`, from 1) that differs and names none of the changed keys."""
    a, b = old.splitlines(), new.splitlines()
    if _unnamed(a, names) == _unnamed(b, names):
        return None
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            continue
        changed: list[tuple[str, ...]] = [(x,) for x in a[a0:a1] + b[b0:b1]]
        if a1 - a0 == b1 - b0:  # line by line: a flow mapping names the key before or after only
            changed = list(zip(a[a0:a1], b[b0:b1], strict=True))
        if not all(any(n in line for n in names for line in lines) for lines in changed):
            return a0 + 1
    return None


def _unnamed(lines: list[str], names: list[str]) -> list[str]:
    """The lines that name none of the keys; a diff may pair the many alike lines of a list."""
    return [line for line in lines if not any(n in line for n in names)]
