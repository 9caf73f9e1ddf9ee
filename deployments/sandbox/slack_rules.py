"""Slack's rules for blocks and views: what it answers `invalid_blocks` to, the stand-in refuses.

Pure. Limits: https://docs.slack.dev/reference/block-kit (blocks, block elements, composition
objects) and https://docs.slack.dev/reference/views. What is not in the tables is refused, so a
field that Slack does not know fails a test here and not a message in an incident.
"""

from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]
MESSAGE_BLOCKS, VIEW_BLOCKS, OPTIONS = 50, 100, 100
PLAIN, ANY = ("plain_text",), ("plain_text", "mrkdwn")

# Field -> rule: ("text", limit, kinds) | ("str", limit) | ("bool",) | ("in", values) | ("any",)
# | a word that names a check below.
CONFIRM: Spec = {
    "title": ("text", 100, PLAIN),
    "text": ("text", 300, ANY),
    "confirm": ("text", 30, PLAIN),
    "deny": ("text", 30, PLAIN),
    "style": ("in", ("primary", "danger")),
}
OPTION: Spec = {
    "text": ("text", 75, ANY),
    "value": ("str", 150),
    "description": ("text", 75, ANY),
    "url": ("str", 3000),
}
_ID: Spec = {"type": ("any",), "action_id": ("str", 255), "confirm": "confirm"}
_INPUT: Spec = {**_ID, "placeholder": ("text", 150, PLAIN), "focus_on_load": ("bool",)}
_TEXT: Spec = {
    **_INPUT,
    "initial_value": ("str", 3000),
    "min_length": ("any",),
    "max_length": ("any",),
    "dispatch_action_config": ("any",),
}
_PICK: Spec = {
    **_INPUT,
    "options": "options",
    "option_groups": "option_groups",
    "initial_option": "initial_option",
}
_PICKS: Spec = {**_PICK, "initial_options": ("any",), "max_selected_items": ("any",)}
_FEW: Spec = {**_ID, "options": "few_options", "focus_on_load": ("bool",)}

ELEMENTS: dict[str, Spec] = {
    "button": {
        **_ID,
        "text": ("text", 75, PLAIN),
        "value": ("str", 2000),
        "url": ("str", 3000),
        "style": ("in", ("primary", "danger")),
        "accessibility_label": ("str", 75),
    },
    "static_select": _PICK,
    "multi_static_select": {k: v for k, v in _PICKS.items() if k != "initial_option"},
    "overflow": {**_ID, "options": "few_options"},
    "checkboxes": {**_FEW, "initial_options": ("any",)},
    "radio_buttons": {**_FEW, "initial_option": "initial_option"},
    "users_select": {**_INPUT, "initial_user": ("str", 20)},
    "datepicker": {**_INPUT, "initial_date": ("str", 10)},
    "timepicker": {**_INPUT, "initial_time": ("str", 5), "timezone": ("str", 60)},
    "plain_text_input": {**_TEXT, "multiline": ("bool",)},
    "email_text_input": _TEXT,
    "url_text_input": _TEXT,
    "number_input": {
        **_INPUT,
        "is_decimal_allowed": ("bool",),
        "initial_value": ("str", 40),
        "min_value": ("str", 40),
        "max_value": ("str", 40),
        "dispatch_action_config": ("any",),
    },
}
NEEDED = {
    "button": ("text",),
    "number_input": ("is_decimal_allowed",),
    "overflow": ("options",),
    "checkboxes": ("options",),
    "radio_buttons": ("options",),
    "confirm": ("title", "text"),
    "option": ("text", "value"),
    "header": ("text",),
    "actions": ("elements",),
    "context": ("elements",),
    "input": ("label", "element"),
    "image": ("alt_text",),
    "modal": ("title", "blocks"),
}
IMAGE: Spec = {"type": ("any",), "image_url": ("str", 3000), "alt_text": ("str", 2000)}
_BLOCK: Spec = {"type": ("any",), "block_id": ("str", 255)}
BLOCKS: dict[str, Spec] = {
    "section": {
        **_BLOCK,
        "text": ("text", 3000, ANY),
        "fields": "fields",
        "accessory": "accessory",
        "expand": ("bool",),
    },
    "header": {**_BLOCK, "text": ("text", 150, PLAIN), "level": ("any",)},
    "divider": _BLOCK,
    "context": {**_BLOCK, "elements": "context_elements"},
    "actions": {**_BLOCK, "elements": "elements"},
    "input": {
        **_BLOCK,
        "label": ("text", 2000, PLAIN),
        "element": "input_element",
        "hint": ("text", 2000, PLAIN),
        "optional": ("bool",),
        "dispatch_action": ("bool",),
    },
    "image": {**_BLOCK, **IMAGE, "title": ("text", 2000, PLAIN)},
}
VIEW: Spec = {
    "type": ("in", ("modal",)),
    "title": ("text", 24, PLAIN),
    "submit": ("text", 24, PLAIN),
    "close": ("text", 24, PLAIN),
    "blocks": ("any",),
    "private_metadata": ("str", 3000),
    "callback_id": ("str", 255),
    "external_id": ("str", 255),
    "clear_on_close": ("bool",),
    "notify_on_close": ("bool",),
    "submit_disabled": ("bool",),
}


def faults_of_blocks(blocks: Any, most: int = MESSAGE_BLOCKS, where: str = "") -> list[str]:
    """What Slack would refuse in an array of blocks, with JSON pointers; empty: nothing."""
    if not isinstance(blocks, list):
        return [f"must be an array [json-pointer:{where}/blocks]"]
    found = [f"no more than {most} items allowed [json-pointer:/blocks]"] * (len(blocks) > most)
    for i, block in enumerate(blocks):
        at = f"{where}/blocks/{i}"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in BLOCKS:
            found.append(f"unsupported type: {kind!r} [json-pointer:{at}/type]")
            continue
        found += _object(block, BLOCKS[kind], kind, at)
        if kind == "section" and not (block.get("text") or block.get("fields")):
            found.append(f"missing required field: text or fields [json-pointer:{at}]")
    names = [b["block_id"] for b in blocks if isinstance(b, dict) and b.get("block_id")]
    found += [f"duplicate block_id: {n}" for n in {n for n in names if names.count(n) > 1}]
    return found


def faults_of_view(view: Any) -> list[str]:
    """What Slack would refuse in a modal view."""
    if not isinstance(view, dict):
        return ["must be an object [json-pointer:/view]"]
    blocks = view.get("blocks")
    found = list(_object(view, VIEW, "modal", "/view"))
    found += faults_of_blocks(blocks, VIEW_BLOCKS, "/view")
    if isinstance(blocks, list) and any(
        isinstance(b, dict) and b.get("type") == "input" for b in blocks
    ):
        found += ["submit is required when an input is in blocks"] * (not view.get("submit"))
    return found


def _object(value: Any, spec: Spec, kind: str, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"must be an object [json-pointer:{at}]"
        return
    for name in NEEDED.get(kind, ()):
        if name not in value:
            yield f"missing required field: {name} [json-pointer:{at}]"
    for name, field in value.items():
        if name not in spec:
            yield f"invalid additional property: {name} [json-pointer:{at}]"
        else:
            yield from _field(spec[name], field, f"{at}/{name}", value)


def _field(rule: Any, value: Any, at: str, parent: dict[str, Any]) -> Iterator[str]:
    if isinstance(rule, str):
        yield from _named(rule, value, at, parent)
    elif rule[0] == "text":
        yield from _text(value, rule[1], rule[2], at)
    elif rule[0] == "str":
        yield from _string(value, rule[1], at)
    elif rule[0] == "bool" and not isinstance(value, bool):
        yield f"must be a boolean [json-pointer:{at}]"
    elif rule[0] == "in" and value not in rule[1]:
        yield f"must be one of {rule[1]} [json-pointer:{at}]"


def _string(value: Any, limit: int, at: str, least: int = 0) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"must be a string [json-pointer:{at}]"
    elif len(value) > limit:
        yield f"must be less than {limit + 1} characters [json-pointer:{at}]"
    elif len(value) < least:
        yield f"must be more than {least - 1} characters [json-pointer:{at}]"


def _text(value: Any, limit: int, kinds: tuple[str, ...], at: str) -> Iterator[str]:
    if not isinstance(value, dict) or value.get("type") not in kinds:
        yield f"must be a text object of {' or '.join(kinds)} [json-pointer:{at}]"
        return
    extra = set(value) - {"type", "text", "emoji" if value["type"] == "plain_text" else "verbatim"}
    yield from (f"invalid additional property: {x} [json-pointer:{at}]" for x in sorted(extra))
    yield from _string(value.get("text"), limit, f"{at}/text", least=1)


def _named(rule: str, value: Any, at: str, parent: dict[str, Any]) -> Iterator[str]:
    if rule == "confirm":
        yield from _object(value, CONFIRM, "confirm", at)
    elif rule in ("accessory", "input_element"):
        yield from _element(value, at, image=rule == "accessory")
    elif rule == "initial_option":
        given = [*parent.get("options", ())]
        given += [o for g in parent.get("option_groups", ()) for o in g.get("options", ())]
        if value not in given:
            yield f"must be one of the options [json-pointer:{at}]"
    elif rule == "option_groups":
        for i, group in enumerate(value if isinstance(value, list) else []):
            yield from _text(group.get("label"), 75, PLAIN, f"{at}/{i}/label")
            yield from _named("options", group.get("options"), f"{at}/{i}/options", parent)
    else:
        yield from _array(rule, value, at)


MOST = {
    "fields": 10,
    "context_elements": 10,
    "elements": 25,
    "options": OPTIONS,
    "few_options": 10,
}


def _array(rule: str, value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST[rule]:
        yield f"must have 1 to {MOST[rule]} items [json-pointer:{at}]"
        return
    for i, item in enumerate(value):
        where = f"{at}/{i}"
        if rule == "fields":
            yield from _text(item, 2000, ANY, where)
        elif rule == "elements":
            yield from _element(item, where)
        elif rule in ("options", "few_options"):
            yield from _object(item, OPTION, "option", where)
        elif isinstance(item, dict) and item.get("type") == "image":
            yield from _object(item, IMAGE, "image", where)
        else:
            yield from _text(item, 3000, ANY, where)
    key = {"elements": "action_id", "options": "value", "few_options": "value"}.get(rule, "")
    names = [x[key] for x in value if key and isinstance(x, dict) and x.get(key)]
    yield from (f"duplicate {key}: {n}" for n in {n for n in names if names.count(n) > 1})


def _element(value: Any, at: str, image: bool = False) -> Iterator[str]:
    kind = value.get("type") if isinstance(value, dict) else None
    if image and kind == "image":
        yield from _object(value, IMAGE, "image", at)
    elif kind not in ELEMENTS:
        yield f"unsupported type: {kind!r} [json-pointer:{at}/type]"
    else:
        yield from _object(value, ELEMENTS[kind], kind, at)
        if kind.endswith("static_select") and not (
            value.get("options") or value.get("option_groups")
        ):
            yield f"missing required field: options or option_groups [json-pointer:{at}]"
