"""Forms: made of the real procedures' schemas, taken by Slack, and read back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.stack import parse_stack
from deployments.gateway.slack_modals import (
    DRY_RUN,
    Field,
    fields_of,
    named,
    nested,
    texts_of,
    values_of,
    view,
)
from deployments.gateway.slack_procedures import inputs, missing, names, parameters
from deployments.sandbox.slack_people import answered, initial
from deployments.sandbox.slack_rules import faults_of_view

SPEC = parse_stack(
    """
name: lab
services:
  wintermute: {url: "http://h:1", runtime: {kind: docker, container: w}}
  edge: {engine: litellm, url: "http://h:2", runtime: {kind: docker, container: e}}
hosts: {motoko: {kind: local}}
"""
)
TRICKY = {
    "properties": {
        "stack": {"type": "string"},
        "service": {"type": "string"},
        "mode": {"enum": ["fast", "safe"], "default": "safe", "type": "string"},
        "force": {"type": "boolean", "default": True},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "share": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]},
        "eager": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None},
        "hosts": {"type": "array", "items": {"type": "string"}, "default": []},
        "options": {"$ref": "#/definitions/Options"},
    },
    "required": ["stack", "service", "count"],
}


def form(schema: Any = TRICKY) -> tuple[Field, ...]:
    return fields_of(schema, {"service": ["a", "b"]})


def submitted(fields: tuple[Field, ...], **given: Any) -> dict[str, Any]:
    """The state of the form as Slack sends it, filled in through its own elements."""
    blocks = [b for b in view("p", "lab", fields, {}, "{}")["blocks"] if b["type"] == "input"]
    return {
        b["block_id"]: {
            "value": answered(b["element"], given[b["block_id"]])
            if b["block_id"] in given
            else initial(b["element"])
        }
        for b in blocks
    }


@pytest.mark.parametrize("procedure", names())
def test_slack_takes_the_form_of_every_procedure(procedure: str) -> None:
    fields = inputs(procedure, SPEC)
    form = view(procedure, SPEC.name, fields, {}, "{}")
    assert faults_of_view(form) == []
    assert fields[-1].name == DRY_RUN
    shown = {b.get("block_id") for b in form["blocks"]}
    assert shown.isdisjoint({"stack", "options", "options.actor", "options.approval"})


def test_a_form_has_the_element_that_fits() -> None:
    fields = {f.name: f for f in form()}
    kinds = {name: f.kind for name, f in fields.items()}
    assert kinds == {
        "service": "choice",
        "mode": "choice",
        "force": "bool",
        "count": "int",
        "share": "float",
        "eager": "maybe",
        "hosts": "value",
        DRY_RUN: "bool",
    }
    assert fields["service"].choices == ("a", "b") and fields["service"].required
    assert "1 to 5" in fields["count"].hint
    made = view("p", "lab", form(), {"count": 3}, "{}")
    assert faults_of_view(made) == []
    elements = {b["block_id"]: b["element"] for b in made["blocks"][1:]}
    assert elements["mode"]["initial_option"]["value"] == "safe"
    assert elements["force"]["initial_options"][0]["value"] == "yes"
    assert elements["count"]["initial_value"] == "3"
    assert "initial_option" not in elements["eager"]


def test_what_is_filled_in_comes_back() -> None:
    fields = form()
    state = submitted(
        fields, service="b", count="4", share="0.5", eager="no", hosts="[x, y]", force=[]
    )
    values, errors = values_of(texts_of(state, fields), fields)
    assert errors == {}
    assert values == {
        "service": "b",
        "mode": "safe",
        "force": False,
        "count": 4,
        "share": 0.5,
        "eager": False,
        "hosts": ["x", "y"],
        DRY_RUN: False,
    }


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"count": "many"}, "count", "no whole number"),
        ({"count": "6"}, "count", "at most 5"),
        ({"count": "0"}, "count", "at least 1"),
        ({"share": "nan"}, "share", "no number that can be used"),
        ({"share": "half"}, "share", "no number"),
        ({}, "count", "is needed"),
    ],
)
def test_what_is_wrong_is_said_at_its_input(given: Any, where: str, words: str) -> None:
    fields = form()
    _, errors = values_of(texts_of(submitted(fields, service="a", **given), fields), fields)
    assert words in errors[where]


def test_a_name_that_went_away_is_refused() -> None:
    state = {"service": {"value": {"selected_option": {"value": "gone"}}}, "count": {}}
    _, errors = values_of(texts_of(state, form()), form())
    assert "'gone' is not there" in errors["service"]


OURS = ("approval", "actor", "source", "incident", "wait", "options", "options.approval", "stack")


@pytest.mark.parametrize("procedure", names())
@pytest.mark.parametrize("key", OURS)
def test_nobody_types_an_approval_or_another_name(procedure: str, key: str) -> None:
    texts, unknown = named({key: "yes"}, inputs(procedure, SPEC))
    assert (texts, unknown) == ({}, [key])
    made, errors = parameters(procedure, SPEC, {key: "yes"}, "ada")
    assert made["stack"] == "lab" or key in errors
    assert made["options"]["approval"] == "" and made["options"]["actor"] == "ada"
    assert made["options"]["source"] == "slack" and made["options"]["wait"] is True


def test_typed_keys_find_their_nested_field() -> None:
    fields = inputs("apply-serving", SPEC)
    texts, unknown = named(
        {"max_model_len": "8192", "change.enforce_eager": "true", "dry_run": "1", "nope": "1"},
        fields,
    )
    assert unknown == ["nope"]
    given = [f for f in fields if f.name in texts]
    values, errors = values_of(texts, given)
    assert errors == {}
    assert nested(values)["change"] == {"max_model_len": 8192, "enforce_eager": True}
    made, errors = parameters("apply-serving", SPEC, values, "ada")
    assert errors == {} and made["options"]["dry_run"] is True
    assert missing("apply-serving", made) == ["service"]


@pytest.mark.parametrize(
    ("procedure", "values", "where"),
    [
        ("apply-serving", {"service": "x", "change.max_model_len": 1}, "service"),
        ("apply-serving", {"service": "wintermute", "change.max_model_len": 0}, "max_model_len"),
        ("watch-gpus", {"host": "nowhere"}, "host"),
        ("align-token-limits", {"proxy": "wintermute"}, "proxy"),
        ("remediate-latency", {"service": "wintermute", "window_s": 0}, "window_s"),
    ],
)
def test_a_bad_value_makes_no_run(procedure: str, values: Any, where: str) -> None:
    _, errors = parameters(procedure, SPEC, values, "ada")
    assert [name for name in errors if where in name], errors


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=20) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["service", "count", "mode", "force", "hosts"]), JSON))
def test_no_state_breaks_it(state: dict[str, Any]) -> None:
    fields = form()
    values, errors = values_of(texts_of(state, fields), fields)
    assert set(values) | set(errors) <= {f.name for f in fields}
