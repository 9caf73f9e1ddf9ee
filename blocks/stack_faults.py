"""What is wrong with a value of the inventory, in an operator's words. Pure."""

import difflib
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blocks.models import ServingConfig

Path = tuple[Any, ...]

_UNITS = {"_s": "seconds", "_gib": "GiB", "_rps": "requests per second", "_len": "tokens"}
_SHARES = ("error_rate", "gpu_memory_utilization")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) *(s|sec|m|min|h|d|ms|GB|GiB|G|g|k|K|%)")
_FACTORS: dict[str, dict[str, float]] = {
    "seconds": {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "ms": 0.001},
    "GiB": dict.fromkeys(("GB", "GiB", "G", "g"), 1),
    "tokens": dict.fromkeys(("k", "K"), 1024),
}
_SECRET_KEY = re.compile(r"token|api_?key|secret|passw|credential", re.IGNORECASE)
_SECRET = re.compile(
    r"^(sk-|xox|hf_|gh[a-z]_|eyJ|AKIA|Bearer)|[A-Za-z0-9+/_-]{24,}|passw|secret|token", re.I
)


def without_credentials(text: str) -> str:
    """The text with `user:password@` of every URL masked."""
    return re.sub(r"(://)[^/@\s']*:[^/@\s']*@", r"\1***@", text)


def locate(model: type[BaseModel], loc: Sequence[Any]) -> tuple[Path, Any]:
    """The path of a fault as the file has it, and the type that stands there.

    A union adds the name of its branch to pydantic's path; the file has no such key.
    """
    kind: Any = model
    path: list[Any] = []
    for part in loc:
        kind = _bare(kind)
        if branch := _branches(kind).get(str(part)):
            kind = branch
            continue
        if part == "[key]":
            continue
        path.append(part)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _fields(kind).get(str(part))
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) in (tuple, list):
            kind = get_args(kind)[0]
        else:
            kind = None
    return tuple(path), _bare(kind)


def _bare(kind: Any) -> Any:
    """Without Annotated, without None."""
    if isinstance(kind, FieldInfo):
        kind = kind.annotation
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [m for m in get_args(kind) if m is not type(None)]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def _branches(kind: Any) -> dict[str, Any]:
    """The models of a union by the value of their `kind`."""
    if get_origin(kind) not in (Union, types.UnionType):
        return {}
    models = [_bare(m) for m in get_args(kind) if hasattr(_bare(m), "model_fields")]
    return {w: m for m in models for w in get_args(m.model_fields["kind"].annotation)}


def _fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def known_keys(kind: Any) -> list[str]:
    """The keys of a section; empty for what is none."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(_fields(kind))
    return sorted({k for m in _branches(kind).values() for k in _fields(m)})


def explain(fault: Any, path: Path, kind: Any) -> str:
    """One pydantic fault in words: what is allowed here, and what was found where it is safe.

    Args:
        fault: an item of `ValidationError.errors()`.
        path: its place in the file.
        kind: the type that stands there, as `locate` found it.
    """
    what, value, ctx = str(fault["type"]), fault["input"], fault.get("ctx") or {}
    key = str(next((p for p in reversed(path) if isinstance(p, str)), ""))
    if what == "extra_forbidden":
        return f"unknown key; {_MOVED if key in ServingConfig.model_fields else 'remove it'}"
    if what == "missing":
        return "is missing; add it"
    if what == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    words = _expected(what, key, value, ctx, kind) or str(fault["msg"])
    return f"{words}{_found(value, path)}"


_MOVED = (
    "a server's own numbers stay where the server reads them (say where under `serving`); "
    "what it may be stepped down to goes under `ladder`"
)


def with_known(words: str, key: str, known: Sequence[str]) -> str:
    """An unknown key's fault with the keys there are, the likeliest first."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    guess = f"; did you mean {close[0]}?" if close else ""
    return f"{words}{guess}; known here: {', '.join(known)}" if known else words


def _expected(what: str, key: str, value: Any, ctx: Any, kind: Any) -> str:
    if what in ("union_tag_invalid", "union_tag_not_found"):
        return f"kind: use one of {ctx.get('expected_tags') or ', '.join(_branches(kind))}"
    if what in ("literal_error", "enum"):
        return f"use one of {ctx['expected']}"
    if what.startswith(("int_", "float_")):
        return _number(what, key, value)
    if what == "finite_number":
        return "must be a finite number"
    for name, sign in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
        if name in ctx:
            return f"must be {sign} {ctx[name]:g}{_share(key, value)}"
    if what.startswith("bool_"):
        return "must be true or false"
    if what in ("model_type", "model_attributes_type", "dict_type"):
        known = known_keys(kind)
        return "must be a section with keys" + (f": {', '.join(known)}" if known else "")
    return _SHAPES.get(what, "")


_SHAPES = {
    "tuple_type": "must be a list, e.g. [a, b]",
    "list_type": "must be a list, e.g. [a, b]",
    "string_type": 'must be text; put a number in quotes, e.g. "1"',
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "timezone_aware": "needs date, time and offset, e.g. 2026-12-24T00:00:00+01:00",
    "datetime_type": "needs date, time and offset, e.g. 2026-12-24T00:00:00+01:00",
    "datetime_parsing": "needs date, time and offset, e.g. 2026-12-24T00:00:00+01:00",
    "datetime_from_date_parsing": "needs date, time and offset, e.g. 2026-12-24T00:00:00+01:00",
}


def _number(what: str, key: str, value: Any) -> str:
    unit = next((word for end, word in _UNITS.items() if key.endswith(end)), "")
    kind = "a whole number" if what.startswith("int_") else "a number"
    words = f"must be {kind}{f' of {unit}' if unit else ''}, without a unit"
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match and match[2] == "%":
        return f"{words}: write {float(match[1]) / 100:g}"
    if match and (factor := _FACTORS.get(unit, {}).get(match[2])):
        return f"{words}: write {float(match[1]) * factor:g}"
    return words


def _share(key: str, value: Any) -> str:
    if key in _SHARES and isinstance(value, int | float) and 1 < value <= 100:
        return f", a share: {value:g} % is {value / 100:g}"
    return ""


def _found(value: Any, path: Path) -> str:
    """The value, where it is short, single and can be no secret."""
    if any(_SECRET_KEY.search(str(p)) for p in path) or isinstance(value, dict | list | tuple):
        return ""
    text = repr(value)
    if len(text) > 60 or (isinstance(value, str) and _SECRET.search(value)):
        return ""
    return f" (found {text})"
