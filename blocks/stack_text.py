"""The text of an inventory: read within bounds, every fault with its line, path and remedy. Pure.

A value is repeated in a message only where it can be no secret.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from blocks.errors import Permanent
from blocks.stack_faults import (
    Path,
    explain,
    known_keys,
    locate,
    with_known,
    without_credentials,
)

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 30
MAX_VALUES = 20_000
MAX_FAULTS = 25

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_TOO_MUCH = (
    f"expands to more than {MAX_VALUES} values, or is nested deeper than {MAX_DEPTH} levels: "
    "that is no inventory; look at its anchors and aliases"
)


class _Constructor(SafeConstructor):
    """YAML's own types; dates stay text, for pydantic reads them with their offset."""


_Constructor.add_constructor(_TIMESTAMP, SafeConstructor.construct_yaml_str)


class Document:
    """An inventory as plain values, with the line of every key."""

    def __init__(self, values: dict[str, Any], root: Node, where: str) -> None:
        self.values = values
        self._root = root
        self._where = where

    def at(self, path: Sequence[Any]) -> str:
        """`stack.yaml:12`, the line of the deepest key of `path` that the file has."""
        line, node = 0, self._root
        for key in path:
            found = _child(node, key)
            if found is None:
                break
            line, node = found
        return f"{self._where}:{line or 1}"


def read(text: str, where: str) -> Document:
    """Parse an inventory.

    Raises:
        Permanent: no YAML, a key written twice, too much of it, or no keys at the top.
    """
    if len(text) > MAX_CHARACTERS:
        raise Permanent(
            f"{where}: {len(text):,} characters; an inventory has at most {MAX_CHARACTERS:,}: "
            "is it the right file?"
        )
    try:
        root = YAML(typ="rt", pure=True).compose(text)
        if not isinstance(root, MappingNode):
            found = "nothing" if root is None else f"a {_WORDS.get(type(root), 'value')}"
            raise Permanent(
                f"{where}:1: expected keys such as name: and services: at the top, found {found}; "
                "see docs/stack.md for a first one"
            )
        _refuse_twice(root, where, (), set())
        yaml = YAML(typ="safe", pure=True)
        yaml.Constructor = _Constructor
        values = _plain(yaml.load(text), 0, [MAX_VALUES])
    except RecursionError:
        raise Permanent(f"{where}: {_TOO_MUCH}") from None
    except (YAMLError, ValueError, OverflowError) as e:
        raise Permanent(_syntax(e, text, where)) from None
    return Document(values, root, where)


def faults(
    errors: Sequence[Any], model: type[BaseModel], at: Any, limit: int = MAX_FAULTS
) -> list[str]:
    """One line per fault of a pydantic error list: place, key, what is wrong, the remedy.

    Args:
        errors: `ValidationError.errors()`.
        model: what was validated, to name the keys it knows.
        at: function from a key path to the place a person finds it at.
        limit: faults shown; the rest is counted.
    """
    lines: list[str] = []
    for fault in errors:
        path, kind = locate(model, fault["loc"])
        said = explain(fault, path, kind)
        if fault["type"] == "extra_forbidden":
            said = with_known(said, str(path[-1]), known_keys(locate(model, fault["loc"][:-1])[1]))
        several: list[tuple[Path, str]] = (fault.get("ctx") or {}).get("faults") or []
        for where, words in several or [(path, said)]:
            key = ".".join(map(str, where))
            lines.append(without_credentials(f"{at(where)}: {key + ': ' if key else ''}{words}"))
    more = len(lines) - limit
    return lines if more <= 0 else [*lines[:limit], f"... and {more} more like these"]


_WORDS: dict[type, str] = {SequenceNode: "list", ScalarNode: "single value"}


def _child(node: Node, key: Any) -> tuple[int, Node] | None:
    """The line of a key, or of an item of a list, and what stands there; merges are followed."""
    if isinstance(node, SequenceNode):
        if isinstance(key, int) and key < len(node.value):
            return node.value[key].start_mark.line + 1, node.value[key]
        return None
    if not isinstance(node, MappingNode):
        return None
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.value == str(key):
            return name.start_mark.line + 1, value
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.value == "<<":
            merged = value.value if isinstance(value, SequenceNode) else [value]
            for one in merged:
                if found := _child(one, key):
                    return found
    return None


def _refuse_twice(node: Node, where: str, path: Path, seen: set[int]) -> None:
    """A key written twice: YAML would silently take one of the two."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for number, item in enumerate(node.value):
            _refuse_twice(item, where, (*path, number), seen)
    if not isinstance(node, MappingNode):
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        line, key = name.start_mark.line + 1, str(getattr(name, "value", "?"))
        if not isinstance(name, ScalarNode):
            raise Permanent(f"{where}:{line}: a key must be a word, not a list or section")
        if key in lines:
            raise Permanent(
                f"{where}:{line}: {'.'.join(map(str, (*path, key)))}: written twice, first on "
                f"line {lines[key]}; keep one of them"
            )
        lines[key] = line
        _refuse_twice(value, where, (*path, key), seen)


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """A copy of bounded size with text keys; an alias costs what it stands for."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {str(k): _plain(v, depth + 1, left) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, depth + 1, left) for v in value]
    return value


def _syntax(error: Exception, text: str, where: str) -> str:
    """What the YAML parser says, with its line and none of the file's text."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    if isinstance(position := getattr(error, "position", None), int):
        line = text.count("\n", 0, position) + 1
        return f"{where}:{line}: a character that YAML does not allow; remove it"
    problem = str(getattr(error, "problem", None) or type(error).__name__)
    if "\\t" in problem or "'\t'" in problem:
        problem = "a tab; indent with spaces"
    elif "mapping values are not allowed" in problem:
        problem = "a second `:` on this line, or wrong indentation; put text with a `:` in quotes"
    elif "another document" in problem:
        problem = "a second document begins; one file is one platform"
    elif "undefined alias" in problem:
        problem = "an alias (*name) whose anchor (&name) is not above it"
    elif "could not determine a constructor" in problem:
        problem = "a !tag; write plain values"
    elif "node content" in problem:
        problem = "a value is missing; a text that begins with # needs quotes, else it is a comment"
    return f"{where}:{line}: no valid YAML: {problem}"
