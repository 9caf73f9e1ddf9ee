"""A LiteLLM proxy's limits in the text of its config file: read, and changed in place.

Every entry of `model_list` is one deployment. Its limits are read as `MODEL.max_input_tokens` and
so on; the second deployment of one model name is `MODEL#2`. How many tokens a request may have
stands under `model_info`, rates stand under `litellm_params` (or where the file has them: LiteLLM
also takes them from the entry itself and from `model_info`). A limit that is left to an
`os.environ/NAME` is not in the file: it is neither read nor changed. Pure, but for `backends`,
`left_to_environment` and `enforced`, which read the file.

Source: LiteLLM 1.106, docs/proxy/configs and docs/proxy/load_balancing.
"""

from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode

from blocks.errors import Permanent
from blocks.models import ServingConfig
from blocks.safe_file import read_bytes
from blocks.service import LitellmSource
from blocks.utf8 import decoded
from blocks.yaml_text import edit_one, load_yaml

TOKENS = ("max_input_tokens", "max_output_tokens")
RATES = ("tpm", "rpm", "max_parallel_requests")
LIMITS = (*TOKENS, *RATES)
"""Names of the limits that are read: tokens, tokens per minute, requests per minute, at once."""

_FROM_ENVIRONMENT = "os.environ/"


def read_litellm(text: str, source: LitellmSource) -> ServingConfig:
    """The limits of every deployment in the file; nothing else of `ServingConfig` is filled.

    Raises:
        Permanent: not valid YAML, no list of models with names, or a limit that is no whole
            number from 1; names the file, the key and the value.
    """
    data = load_yaml(text, source.path)
    limits: dict[str, int] = {}
    for key, at, entry in _deployments(data, source):
        for limit in LIMITS:
            path = _path(entry, limit, f"{source.path}: {key}")
            value = _number(_get(entry, path), f"{source.path}: model_list.{at}.{'.'.join(path)}")
            if value is not None:
                limits[f"{key}.{limit}"] = value
    return ServingConfig(limits=limits)


def edit_litellm(
    text: str, source: LitellmSource, before: ServingConfig, after: ServingConfig
) -> str:
    """The text with the differing limits changed: in place, inserted, or their lines removed.

    Raises:
        Permanent: no limit of a deployment in the file, one that the environment sets, or a form
            that cannot be edited without touching something else.
    """
    for name, (_, value) in before.diff(after).items():
        data = load_yaml(text, source.path)
        path = ["model_list", *limit_path(data, source, name)]
        where = f"{source.path}: {name}"
        if value is not None and (type(value) is not int or value < 1):
            raise Permanent(f"{where}: {value!r} is no limit; give a whole number from 1")
        holder = _get(data, path[:-1])
        if value is None and path[-2] == "model_info" and holder == {path[-1]: _get(data, path)}:
            path = path[:-1]  # an empty `model_info:` would read as null
        root = YAML(typ="rt", pure=True).compose(text)
        if not isinstance(root, MappingNode):
            raise Permanent(f"{where} is not in the file; add the model by hand")
        start, end, new = edit_one(text, root, path, value, {}, where)
        text = text[:start] + new + text[end:]
    return text


def limit_path(data: Any, source: LitellmSource, name: str) -> list[str]:
    """Where one limit stands, or would stand, below `model_list`, e.g. `0 model_info rpm`.

    Raises:
        Permanent: no limit of a deployment in the file, or the environment sets it.
    """
    key, _, limit = name.rpartition(".")
    where = f"{source.path}: {name}"
    if limit not in LIMITS:
        raise Permanent(f"{where} is no limit of a proxy; use MODEL.{' or MODEL.'.join(LIMITS)}")
    found = list(_deployments(data, source))
    for mine, at, entry in found:
        if mine == key:
            path = _path(entry, limit, where)
            if _from_environment(value := _get(entry, path)):
                raise Permanent(f"{where} is {value}; change that variable, or write a number")
            return [str(at), *path]
    known = ", ".join(k for k, _, _ in found) or "none"
    raise Permanent(f"{source.path}: no model {key!r} in model_list; known: {known}")


def without_limit(data: Any, path: list[str]) -> Any:
    """A copy of the plain document without one limit, nor the `model_info` that leaves empty."""
    entries = list(data["model_list"])
    at = int(path[0])
    entry = dict(entries[at])
    if len(path) == 2:
        entry.pop(path[1], None)
    elif isinstance(inner := entry.get(path[1]), dict):
        rest = {k: v for k, v in inner.items() if k != path[2]}
        entry = {k: rest if k == path[1] else v for k, v in entry.items() if rest or k != path[1]}
    entries[at] = entry
    return {**data, "model_list": entries}


def live_limits(entries: list[Any]) -> dict[str, int]:
    """The limits in what `GET /model/info` lists under `data`, keyed as in the file.

    LiteLLM adds what its own table knows of a model: a limit here need not be in the file. Models
    from its database are left out.

    Raises:
        Permanent: two deployments have one name.
    """
    found = [e for e in entries if isinstance(e, dict) and isinstance(e.get("model_name"), str)]
    found = [e for e in found if _get(e, ["model_info", "db_model"]) is not True]
    limits: dict[str, int] = {}
    for key, entry in zip(
        keyed([e["model_name"] for e in found], "/model/info"), found, strict=True
    ):
        for limit in LIMITS:
            values = [_get(entry, path) for path in _places(limit)]
            value = next((v for v in values if v is not None), None)
            if isinstance(value, int | float | str) and str(value).removesuffix(".0").isdecimal():
                limits[f"{key}.{limit}"] = int(float(value))
    return limits


def backends(source: LitellmSource) -> dict[str, str | None]:
    """Where every deployment sends its requests: `api_base` as written, `os.environ/NAME` too.

    Blocks: it reads the file.

    Raises:
        Permanent: as `read_litellm`, or the file cannot be read.
    """
    found: dict[str, str | None] = {}
    for key, _, entry in _deployments(_document(source), source):
        base = _get(entry, ["litellm_params", "api_base"])
        found[key] = base if isinstance(base, str) and base else None
    return found


def left_to_environment(source: LitellmSource) -> set[str]:
    """The limits that an `os.environ/NAME` sets, e.g. `MODEL.tpm`. Blocks: it reads the file.

    Raises:
        Permanent: as `read_litellm`, or the file cannot be read.
    """
    return {
        f"{key}.{limit}"
        for key, _, entry in _deployments(_document(source), source)
        for limit in LIMITS
        if any(_from_environment(_get(entry, path)) for path in _places(limit))
    }


def enforced(source: LitellmSource) -> bool:
    """Whether LiteLLM refuses what is longer than `max_input_tokens` (`enable_pre_call_checks`).

    Blocks: it reads the file.

    Raises:
        Permanent: not valid YAML, or the file cannot be read.
    """
    return _get(_document(source), ["router_settings", "enable_pre_call_checks"]) is True


def keyed(names: list[str], where: str) -> list[str]:
    """Names made unique in their order: the second `a` is `a#2`.

    Raises:
        Permanent: a model is itself named like the second of another.
    """
    keys: list[str] = []
    for at, name in enumerate(names):
        count = names[: at + 1].count(name)
        keys.append(name if count == 1 else f"{name}#{count}")
    if len(set(keys)) != len(keys):
        twice = next(k for k in keys if keys.count(k) > 1)
        raise Permanent(f"{where}: {twice!r} names two deployments; rename one of them")
    return keys


def _document(source: LitellmSource) -> Any:
    return load_yaml(decoded(source.path, read_bytes(source.path)), source.path)


def _deployments(data: Any, source: LitellmSource) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Key, position and entry of every deployment, in the file's order."""
    entries = data.get("model_list")
    if entries is None:
        return
    where = f"{source.path}: model_list"
    if not isinstance(entries, list):
        raise Permanent(f"{where} is a {type(entries).__name__}; expected a list of models")
    for at, entry in enumerate(entries):
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise Permanent(f"{where}.{at} has no model_name; give it one")
    keys = keyed([e["model_name"] for e in entries], where)
    yield from zip(keys, range(len(entries)), entries, strict=True)


def _path(entry: dict[str, Any], limit: str, where: str) -> list[str]:
    """Where a limit stands in its entry, or would."""
    places = _places(limit)
    there = [p for p in places if _get(entry, p) is not None]
    if len(there) > 1:
        both = " and ".join(".".join(p) for p in there[:2])
        raise Permanent(f"{where}: both {both} are set; remove one")
    return (there or places)[0]


def _places(limit: str) -> list[list[str]]:
    """Where LiteLLM looks for a limit; the first is where a new one is written."""
    if limit in TOKENS:
        return [["model_info", limit]]
    return [["litellm_params", limit], [limit], ["model_info", limit]]


def _get(data: Any, path: list[str]) -> Any:
    for key in path:
        if isinstance(data, list) and key.isdecimal():
            data = data[int(key)]
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _from_environment(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_FROM_ENVIRONMENT)


def _number(value: Any, where: str) -> int | None:
    if value is None or _from_environment(value):
        return None
    digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    whole = isinstance(value, float) and value.is_integer()
    number = int(value) if digits or whole or type(value) is int else 0
    if number < 1:
        # Not repeated when it is a text: another key's secret may have slipped here.
        shown = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
        raise Permanent(f"{where} is {shown}; write a whole number from 1, or remove it")
    return number
