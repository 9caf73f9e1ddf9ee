"""Serving fields in the text of a YAML file: read, and changed in place. Pure.

The file is never written anew by a YAML library: ruamel.yaml's parser says at which character
a value stands, and only that is replaced. So comments, order, quotes, anchors, indentation,
document markers and long lines stay as they are.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from blocks.errors import Permanent
from blocks.models import SERVING_FIELDS, ServingConfig
from blocks.service import YamlSource
from blocks.serving_values import format_value, parse_value

_MISSING = object()
_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)
_ALIAS = re.compile(r"\s*:\s+(\*[^\s,\]}]+)")


def load_yaml(text: str, path: str) -> Any:
    """The document as plain dicts and lists; an empty one is {}.

    Raises:
        Permanent: not one YAML document with keys and values at the top. The text of the file
            is not repeated: it may hold secrets.
    """
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Permanent(f"{path} is not valid YAML{at} ({type(e).__name__}); repair it") from None
    if data is not None and not isinstance(data, dict):
        raise Permanent(f"{path} holds a {type(data).__name__} at the top; expected keys: values")
    return data or {}


def key_paths(data: Any, source: YamlSource, field: str) -> list[str]:
    """Where a field stands, or would stand, in the document, as the keys on the way to it.

    Raises:
        Permanent: the field is written twice, with _ and with -.
    """
    if mapped := source.key_map.get(field):
        return [mapped] if mapped in data else mapped.split(".")
    there = [k for k in (field, field.replace("_", "-")) if k in data]
    if len(set(there)) > 1:
        raise Permanent(f"{source.path}: both {there[0]} and {there[1]} are set; remove one")
    if there:
        return there[:1]
    dashes = any("-" in str(k) for k in data) and not any("_" in str(k) for k in data)
    return [field.replace("_", "-") if dashes else field]


def read_yaml(text: str, source: YamlSource) -> ServingConfig:
    """The serving fields of a YAML file; of a list of served names the first.

    Raises:
        Permanent: not valid YAML, or a value that is none of its field's.
    """
    data = load_yaml(text, source.path)
    values: dict[str, Any] = {}
    for field in SERVING_FIELDS:
        path = key_paths(data, source, field)
        value = _get(data, path)
        where = f"{source.path}: {'.'.join(path)}"
        if field == "served_model_name" and isinstance(value, list):
            value = value[0] if value else None
        if value is _MISSING or value is None:
            continue
        if isinstance(value, dict | list):
            raise Permanent(f"{where} is a {type(value).__name__}, not a single value")
        word = format_value(value)
        words = {w: v for v, w in source.value_map.get(field, {}).items()}
        values[field] = parse_value(field, words.get(word, word), where)
    return ServingConfig(**values)


def edit_yaml(text: str, source: YamlSource, before: ServingConfig, after: ServingConfig) -> str:
    """The text with the differing fields changed: in place, appended, or their lines removed.

    Raises:
        Permanent: a form that cannot be edited without touching something else.
    """
    for field, (_, value) in before.diff(after).items():
        path = key_paths(load_yaml(text, source.path), source, field)
        where = f"{source.path}: {'.'.join(path)}"
        root = YAML(typ="rt", pure=True).compose(text)
        if not isinstance(root, MappingNode):  # empty, or only comments
            root = MappingNode("tag:yaml.org,2002:map", [])
        words = source.value_map.get(field, {})
        start, end, new = edit_one(text, root, path, value, words, where)
        text = text[:start] + new + text[end:]
    return text


def without(data: Any, path: Sequence[str]) -> Any:
    """A copy of plain data without the value at `path` and the parents that leaves empty.

    Of a list of served names only the first is taken out.
    """
    copy = _unshared(data)
    holder = _get(copy, path[:-1])
    value = _get(copy, path)
    if isinstance(value, list):
        value[:1] = []
    elif isinstance(holder, dict):
        holder.pop(path[-1], None)
    for depth in range(len(path) - 1, 0, -1):
        parent = _get(copy, path[: depth - 1])
        if isinstance(parent, dict) and parent.get(path[depth - 1], 1) in ({}, None):
            parent.pop(path[depth - 1])
    return copy


def _unshared(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _unshared(v) for k, v in data.items()}
    return [_unshared(v) for v in data] if isinstance(data, list) else data


def _get(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, list) and key.isdecimal() and int(key) < len(data):
            data = data[int(key)]
        else:
            return _MISSING
    return data


def edit_one(
    text: str, root: MappingNode, path: Sequence[str], value: Any, words: dict[str, str], where: str
) -> tuple[int, int, str]:
    """The edit that sets one value: from and to which character, and what stands there instead.

    Args:
        text: the document.
        root: its composed mapping.
        path: keys, and positions in lists, on the way to the value.
        value: None removes the value with its key.
        words: vLLM's value -> the file's word.
        where: what to name in an error.

    Raises:
        Permanent: a form that cannot be edited without touching something else.
    """
    holder: Node = root
    for depth, name in enumerate(path):
        if isinstance(holder, SequenceNode):
            holder = holder.value[int(name)]
            continue
        if not isinstance(holder, MappingNode):
            raise Permanent(f"{where}: {path[depth - 1]} holds no keys; edit the file by hand")
        pair = next(((k, v) for k, v in holder.value if k.value == name), None)
        if pair is None:
            if value is None:
                raise Permanent(f"{where} comes from a merged (<<) mapping; remove it by hand")
            return _insert(text, holder, path[depth:], _scalar(value, words, None, ""))
        if depth == len(path) - 1 and value is None:
            return _remove(text, holder, pair, where)
        start, end = _span(text, *pair)
        holder = pair[1]
        if depth < len(path) - 1 and text[start:end].startswith("*"):
            raise Permanent(f"{where} is shared by an alias; edit the file by hand")
    if isinstance(holder, SequenceNode) and holder.value:
        holder = holder.value[0]
        start, end = holder.start_mark.index, holder.end_mark.index
    if text[start:end].startswith("*"):
        return start, end, _scalar(value, words, None, "")
    if not isinstance(holder, ScalarNode) or holder.style in ("|", ">"):
        raise Permanent(f"{where} is no single word; edit the file by hand")
    written = re.fullmatch(r"((?:[&!]\S*\s+)*)(.*)", text[start:end], re.DOTALL)
    kept, old = (written[1], written[2]) if written else ("", "")
    space = " " if start == end else ""
    return start, end, space + kept + _scalar(value, words, holder.style, old)


def _span(text: str, key: Node, value: Node) -> tuple[int, int]:
    """Where the value is written: for an alias its own place, not the anchor's."""
    if value.start_mark.index < key.end_mark.index and (
        match := _ALIAS.match(text, key.end_mark.index)
    ):
        return match.span(1)
    return value.start_mark.index, value.end_mark.index


def _scalar(value: Any, words: dict[str, str], style: str | None, old: str) -> str:
    word = format_value(value, old.strip("'\""))
    word = words.get(format_value(value), word)
    if style == "'":
        return "'" + word.replace("'", "''") + "'"
    text = isinstance(value, str) or word in words.values()
    if style == '"' or (text and not _is_plain(word)):
        return json.dumps(word, ensure_ascii=False)
    return word


def _is_plain(word: str) -> bool:
    if not _PLAIN.fullmatch(word) or word.lower() in ("y", "n", "yes", "no", "on", "off"):
        return False
    return isinstance(YAML(typ="safe", pure=True).load(word), str)


def _end(text: str, key: Node, value: Node) -> int:
    """Where the last thing of an entry ends."""
    if isinstance(value, MappingNode | SequenceNode) and not value.flow_style and value.value:
        if value.start_mark.index >= key.end_mark.index:
            last = value.value[-1]
            if isinstance(last, tuple):
                return _end(text, *last)
            return _end(text, key, last)
    return _span(text, key, value)[1]


def _insert(text: str, holder: MappingNode, path: Sequence[str], word: str) -> tuple[int, int, str]:
    newline = "\r\n" if "\r\n" in text else "\n"
    if getattr(holder, "flow_style", False):
        new = f"{path[-1]}: {word}"
        for name in reversed(path[:-1]):
            new = f"{name}: {{{new}}}"
        if not holder.value:
            return holder.start_mark.index + 1, holder.start_mark.index + 1, new
        at = _end(text, *holder.value[-1])
        return at, at, ", " + new
    indent = holder.value[0][0].start_mark.column if holder.value else 0
    at = _end(text, *holder.value[-1]) if holder.value else len(text)
    if at and text[at - 1] != "\n":
        at = min(
            (i for i in (text.find("\r\n", at), text.find("\n", at)) if i >= 0), default=len(text)
        )
    lines = [" " * (indent + 2 * i) + f"{name}:" for i, name in enumerate(path)]
    new = newline.join(lines) + " " + word
    at_line_start = at == 0 or text[at - 1] == "\n"
    return at, at, new + newline if at_line_start else newline + new


def _remove(
    text: str, holder: MappingNode, pair: tuple[Node, Node], where: str
) -> tuple[int, int, str]:
    start, end = pair[0].start_mark.index, _end(text, *pair)
    if getattr(holder, "flow_style", False):
        if match := re.compile(r"\s*,\s*").match(text, end):
            return start, match.end(), ""
        before = re.search(r"\s*,\s*$", text[:start])
        return before.start() if before else start, end, ""
    line = text.rfind("\n", 0, start) + 1
    if text[line:start].strip():
        raise Permanent(f"{where} shares its line with something else; remove it by hand")
    newline = text.find("\n", end)
    return line, newline + 1 if newline >= 0 else len(text), ""
