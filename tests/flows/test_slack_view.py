"""The incident card: what it shows when, that Slack takes it, and that it calls nobody."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from blocks.models import ServingConfig
from deployments.sandbox.slack_rules import faults_of_blocks
from deployments.sandbox.slack_state import Message
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.plan import Plan
from flows.report import Report
from flows.slack_view import CardView, card, table, view_of

PLAN = Plan(
    procedure="remediate-oom",
    stack="prod",
    service="wintermute",
    before=ServingConfig(max_model_len=16384, gpu_memory_utilization=0.9),
    after=ServingConfig(max_model_len=8192, gpu_memory_utilization=0.95),
    reason="kv-cache: 1.2 GiB are missing",
    expected="it starts",
    costs="shorter prompts",
)
RUN = "3f2a9c1e-0000-4000-8000-000000000001"


def view(**more: Any) -> CardView:
    values = {
        "key": "0a1b2c3d",
        "stack": "prod",
        "service": "wintermute",
        "title": "vLLM does not answer",
        "severity": "P0",
        "incident": "0a1b2c3d",
        "open": True,
        "run_id": RUN,
    }
    return CardView(**{**values, **more})


def shown(one: CardView) -> Message:
    blocks, text = card(one)
    assert faults_of_blocks(blocks) == []
    return Message("C1", "1.1", text, blocks)


def test_a_waiting_plan_shows_before_and_after_and_asks_before_it_acts() -> None:
    message = shown(view(plan=PLAN, awaiting=True, expires="14:05 UTC"))
    assert set(message.buttons) == {"approve", "reject", "show-log", "ack"}
    approve = message.buttons["approve"]
    assert json.loads(approve["value"]) == {
        "run": RUN,
        "digest": PLAN.digest,
        "stack": "prod",
        "service": "wintermute",
        "incident": "0a1b2c3d",
    }
    assert "wintermute" in approve["confirm"]["title"]["text"]
    assert "16384 -&gt; 8192" in approve["confirm"]["text"]["text"], "what one says yes to"
    assert message.buttons["reject"]["style"] == "danger"
    assert table(PLAN) in message.words and "waits for approval until 14:05 UTC" in message.words
    assert "*Undo:*" in message.words and "*Costs:* shorter prompts" in message.words
    assert message.blocks[0]["text"]["text"] == "✋ P0 wintermute: vLLM does not answer"


def test_the_table_is_aligned() -> None:
    assert table(PLAN).splitlines() == [
        "field                   before  after",
        "max_model_len            16384  8192",
        "gpu_memory_utilization     0.9  0.95",
    ]
    restart = PLAN.model_copy(update={"how": "restart"})
    assert table(restart) == "restart wintermute, with the numbers it has"


@pytest.mark.parametrize(
    ("more", "buttons"),
    [
        ({}, {"show-log", "ack"}),
        ({"acknowledged_by": "ada"}, {"show-log"}),
        ({"open": False}, {"show-log"}),
        ({"incident": ""}, {"show-log"}),
        ({"run_url": "https://prefect.example/r/1"}, {"show-log", "ack", "open"}),
        ({"plan": PLAN}, {"show-log", "ack"}),
        ({"plan": PLAN, "awaiting": True, "run_id": ""}, {"show-log", "ack"}),
        ({"awaiting": True}, {"show-log", "ack"}),
        (
            {"awaiting": True, "digest": "0123456789ab", "open": False},
            {"show-log", "approve", "reject"},
        ),
    ],
)
def test_there_are_only_buttons_that_do_something(more: dict[str, Any], buttons: set[str]) -> None:
    assert set(shown(view(**more)).buttons) == buttons


def report(**more: Any) -> Report:
    values = {
        "procedure": "remediate-oom",
        "stack": "prod",
        "service": "wintermute",
        "run_id": RUN,
        "actor": "ada",
        "source": "slack",
        "started_at": datetime.now(UTC),
        "duration_s": 3.0,
        "verdict": "passed",
        "message": "max_model_len 16384 -> 8192 was applied; it decodes",
        "diagnosis": Diagnosis(
            label="oom_kv_cache", evidence=("ValueError: KV <!channel> `x`",), advice="less"
        ),
        "plan": PLAN,
        "incident": "0a1b2c3d",
        "approver": "bob, from slack",
        "notes": ("a note",),
        "next_step": "watch it",
    }
    return Report(**{**values, **more})


def test_the_card_of_a_run_that_ended() -> None:
    one = view_of(report(), severity="P1", run_url="https://prefect.example/r/1")
    assert one.key == "0a1b2c3d" and view_of(report(incident="")).key == RUN
    message = shown(one)
    assert "approve" not in message.buttons and "ack" not in message.buttons
    for words in (
        "*PASSED*",
        "`oom_kv_cache`",
        "approved by bob, from slack",
        "asked for by ada, from slack",
        "*What to do now:* watch it",
        "a note",
        "incident 0a1b2c3d",
    ):
        assert words in message.words, words
    assert (
        message.mentions == [] and "```\nValueError: KV &lt;!channel&gt; 'x'\n```" in message.words
    )
    assert message.blocks[0]["text"]["text"].startswith("✅ P1 wintermute")


def test_nothing_in_it_can_break_it_or_call_anybody() -> None:
    bad = "<!channel> <@U1> & " * 400
    plan = PLAN.model_copy(update={"reason": bad, "warning": bad, "costs": bad, "undo": bad})
    message = shown(
        view(
            title=bad,
            status=bad,
            service="s" * 500,
            diagnosis=bad,
            evidence=(bad,) * 50,
            plan=plan,
            awaiting=True,
            notes=(bad,) * 50,
            next_step=bad,
            approver=bad,
            asked_by=bad,
            run_url="https://prefect.example/r/1",
        )
    )
    blocks_only = Message("C1", "1", "", message.blocks)
    assert blocks_only.mentions == [] and "approve" in message.buttons
    assert sum("&lt;!channel" in line for line in message.words.splitlines()) > 3
    values = message.buttons["approve"]["value"]
    assert json.loads(values)["digest"] == plan.digest
