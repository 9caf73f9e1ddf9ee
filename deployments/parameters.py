"""`-p key=value` words as the parameters of a flow."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from blocks.errors import Permanent
from flows.report import Options


def require(values: dict[str, Any], key: str, names: list[str]) -> None:
    """Refuse a name that the stack does not have, before a run is made of it."""
    if values.get(key) and values[key] not in names:
        raise Permanent(f"-p {key}={values[key]}: no such {key}; known: {', '.join(names) or '-'}")


def scalar(text: str) -> Any:
    """A value as YAML reads it; what is no YAML is text."""
    try:
        return YAML(typ="safe").load(text) if text else ""
    except YAMLError:
        return text


def place(values: dict[str, Any], schema: dict[str, Any], key: str, value: Any) -> None:
    """Put a parameter where the flow has it: at the top, or in one of its nested models.

    Raises:
        Permanent: it has none of this name.
    """
    if key in schema:
        values[key] = str(value) if schema[key] is str else value
        return
    head, _, tail = key.partition(".")
    for name, kind in schema.items():
        fields = getattr(kind, "model_fields", {})
        if (tail and name == head and tail in fields) or (not tail and key in fields):
            values.setdefault(name, {})[tail or key] = value
            return
    fields = {f for k in schema.values() for f in getattr(k, "model_fields", {})}
    hidden = {"options", "stack", "service", *Options.model_fields, *_wrappers(schema)}
    known = sorted((set(schema) | fields) - hidden) or ["none"]
    raise Permanent(f"-p {key}: no such parameter; known: {', '.join(known)}")


def _wrappers(schema: dict[str, Any]) -> set[str]:
    return {name for name, kind in schema.items() if hasattr(kind, "model_fields")}
