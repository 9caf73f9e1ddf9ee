"""A procedure's parameters as a Slack form, and the form as parameters. Pure.

The form is made of the flow's own parameter schema, so that a new parameter needs no line here.
Limits: https://docs.slack.dev/reference/views and .../block-kit.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from blocks.models import Frozen
from blocks.slack_blocks import escape
from deployments.gateway.slack_words import suggestion
from deployments.parameters import scalar

CALLBACK = "runbook-run"
"""The view's callback id."""
ACTION = "value"
"""The action id of every input; the block's id is the parameter's name."""
DRY_RUN = "options.dry_run"
MOST_CHOICES, MOST_INPUTS, TYPED = 100, 90, 1000

Kind = Literal["int", "float", "text", "bool", "choice", "maybe", "value"]
"""`maybe`: yes, no, or left as it is; `value`: a list or an object, read as YAML."""
YES, NO = "yes", "no"


class Field(Frozen):
    """One input."""

    name: str
    """`window_s`, or `change.max_model_len` of a nested model."""
    kind: Kind
    label: str
    hint: str = ""
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


def fields_of(schema: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> tuple[Field, ...]:
    """The inputs of a procedure, in its own order; the last asks whether to plan only.

    Args:
        schema: `flow.parameters.model_dump()`: properties, definitions, required.
        choices: parameter -> the names that the stack has for it (service, host, proxy).
    """
    found: list[Field] = []
    properties, needed = schema.get("properties", {}), schema.get("required", ())
    for name, prop in properties.items():
        if name in ("stack", "options"):
            continue
        model = _model(prop, schema)
        if model is None:
            found.append(_field(name, prop, name in needed, choices.get(name)))
            continue
        given = prop.get("default") or {}
        for part, inner in model["properties"].items():
            default = given.get(part, inner.get("default"))
            need = part in model.get("required", ()) and default is None
            found.append(_field(f"{name}.{part}", {**inner, "default": default}, need, None))
    found = found[:MOST_INPUTS]
    if "options" in properties:
        hint = "look and decide, but change nothing"
        found.append(Field(name=DRY_RUN, kind="bool", label="Plan only", hint=hint, default=False))
    return tuple(found)


def _model(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The nested model that a property is; None where it is none."""
    ref = prop.get("$ref") or next((p.get("$ref") for p in prop.get("allOf", ())), None)
    found = (schema.get("definitions") or {}).get(str(ref).rsplit("/", 1)[-1]) if ref else None
    return found if isinstance(found, dict) and found.get("properties") else None


def _field(
    name: str, prop: Mapping[str, Any], required: bool, names: Sequence[str] | None
) -> Field:
    branches = [b for b in prop.get("anyOf", ()) if b.get("type") != "null"]
    core = branches[0] if len(branches) == 1 else prop
    optional = any(b.get("type") == "null" for b in prop.get("anyOf", ()))
    default, choices = prop.get("default"), tuple(map(str, core.get("enum", ())))
    kind: Kind
    if names is not None:
        star = ("*",) if default == "*" else ()
        kind, choices = "choice", (*star, *names)
    elif choices:
        kind = "choice"
    elif core.get("type") == "boolean":
        kind = "maybe" if optional else "bool"
    else:
        kinds: dict[Any, Kind] = {"integer": "int", "number": "float", "string": "text"}
        kind = kinds.get(core.get("type"), "value")
    if kind == "choice" and not 0 < len(choices) <= MOST_CHOICES:
        kind = "text"  # nothing to choose from, or more than Slack shows: it is typed
    return Field(
        name=name,
        kind=kind,
        label=name.rpartition(".")[2],
        hint=_hint(prop, core),
        required=required,
        default=default,
        choices=choices,
        least=core.get("minimum", core.get("exclusiveMinimum")),
        most=core.get("maximum", core.get("exclusiveMaximum")),
    )


def _hint(prop: Mapping[str, Any], core: Mapping[str, Any]) -> str:
    text = " ".join(str(prop.get("description") or "").split())
    low, high = core.get("minimum"), core.get("maximum")
    if low is not None and high is not None and str(high) not in text:
        text = f"{text} ({low:g} to {high:g})".strip()
    return text[:500]


def view(
    procedure: str, stack: str, fields: Sequence[Field], given: Mapping[str, Any], metadata: str
) -> dict[str, Any]:
    """The form, filled in with what is known.

    Args:
        procedure: its name.
        stack: its name.
        fields: the inputs.
        given: parameter -> value, as typed in the command.
        metadata: at most 3,000 characters that come back with the form.
    """
    intro = (
        f"`{escape(procedure)}` on *{escape(stack)}*. A plan that needs an approval waits for it."
    )
    return {
        "type": "modal",
        "callback_id": CALLBACK,
        "private_metadata": metadata[:3000],
        "title": {"type": "plain_text", "text": procedure[:24]},
        "submit": {"type": "plain_text", "text": "Start"},
        "close": {"type": "plain_text", "text": "Cancel"},
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": intro[:3000]}},
            *(_input(field, given.get(field.name)) for field in fields),
        ],
    }


def _input(field: Field, given: Any) -> dict[str, Any]:
    block: dict[str, Any] = {
        "type": "input",
        "block_id": field.name[:255],
        "optional": not field.required,
        "label": {"type": "plain_text", "text": field.label[:2000]},
        "element": _element(field, field.default if given is None else given),
    }
    if field.hint:
        block["hint"] = {"type": "plain_text", "text": field.hint[:2000]}
    return block


def _element(field: Field, value: Any) -> dict[str, Any]:
    if field.kind == "bool":
        box = _option("yes", YES)
        more: dict[str, Any] = {"initial_options": [box]} if _truth(value) else {}
        return {"type": "checkboxes", "action_id": ACTION, "options": [box], **more}
    if field.kind in ("choice", "maybe"):
        names = field.choices or (YES, NO)
        shown = value if field.kind == "choice" or value is None else (NO, YES)[bool(_truth(value))]
        more = {"initial_option": _option(str(shown), str(shown))} if str(shown) in names else {}
        options = [_option(n, n) for n in names]
        return {"type": "static_select", "action_id": ACTION, "options": options, **more}
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    more = {"initial_value": text[:TYPED]} if text else {}
    return {"type": "plain_text_input", "action_id": ACTION, "max_length": TYPED, **more}


def _option(text: str, value: str) -> dict[str, Any]:
    return {"text": {"type": "plain_text", "text": text[:75] or "-"}, "value": value[:150] or "-"}


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("yes", "true", "on", "1")


def texts_of(state: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, str]:
    """What stands in every input of a submitted form; an empty one is an empty text.

    Args:
        state: `view.state.values`: block id -> action id -> element.
        fields: the inputs the form was made of.
    """
    found = {}
    for field in fields:
        block = state.get(field.name)
        element = block.get(ACTION) if isinstance(block, Mapping) else None
        element = element if isinstance(element, Mapping) else {}
        several = element.get("selected_options")
        first = several[0] if isinstance(several, list) and several else None
        chosen = element.get("selected_option") or first
        text = chosen.get("value") if isinstance(chosen, Mapping) else element.get("value")
        found[field.name] = str(text or "").strip()[:TYPED]
    return found


def named(typed: Mapping[str, str], fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """Typed `key=value` by the inputs they mean, and the keys that mean none.

    A key is a parameter's name, or that of a field of a nested model. The options of a run are
    no inputs, but for the dry run: nobody approves, or is somebody else, by typing it.
    """
    found: dict[str, str] = {}
    unknown: list[str] = []
    for key, text in typed.items():
        key = {"dry_run": DRY_RUN, "dry-run": DRY_RUN}.get(key, key)
        meant = [f.name for f in fields if key == f.name or key == f.name.rpartition(".")[2]]
        if key in meant:
            meant = [key]
        if len(meant) == 1:
            found[meant[0]] = text.strip()[:TYPED]
        else:
            unknown.append(key)
    return found, unknown


def values_of(
    texts: Mapping[str, str], fields: Sequence[Field]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was given, by parameter (`change.max_model_len`), and what is wrong, by input.

    What is empty is absent: the procedure's own default holds. Only inputs in `texts` are looked
    at, but for the required ones.
    """
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in fields:
        text = texts.get(field.name)
        if field.kind == "bool" and text is not None:
            values[field.name] = _truth(text)
        elif not text:
            if field.required:
                errors[field.name] = f"{field.label} is needed"
        else:
            try:
                values[field.name] = _read(field, text)
            except ValueError as e:
                errors[field.name] = str(e)
    return values, errors


def _read(field: Field, text: str) -> Any:
    if field.kind == "choice":
        if text not in field.choices:
            raise ValueError(f"{text[:60]!r} is not there; {suggestion(text, field.choices)}")
        return text
    if field.kind == "maybe":
        return _truth(text)
    if field.kind == "value":
        return scalar(text)
    if field.kind == "text":
        return text
    whole = field.kind == "int"
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        like = "8192" if whole else "0.9"
        kind = "whole number" if whole else "number"
        raise ValueError(f"{text[:60]!r} is no {kind}; write for example {like}") from None
    if not (number == number and abs(number) != float("inf")):
        raise ValueError(f"{text[:60]!r} is no number that can be used")
    if field.least is not None and number < field.least:
        raise ValueError(f"{text[:60]} is too little; at least {field.least:g}")
    if field.most is not None and number > field.most:
        raise ValueError(f"{text[:60]} is too much; at most {field.most:g}")
    return number


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"change.x": 1, "host": "a"}` -> `{"change": {"x": 1}, "host": "a"}`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        head, _, tail = name.partition(".")
        if tail:
            found.setdefault(head, {})[tail] = value
        else:
            found[name] = value
    return found
