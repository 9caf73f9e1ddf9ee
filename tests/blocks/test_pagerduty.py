"""PagerDuty's Events API v2: one alert per incident, bounded, and no key in any error."""

from collections.abc import Iterator
from typing import Any

import pytest

from blocks.errors import Permanent, Transient
from blocks.escalation import PagerDutySpec
from blocks.pagerduty import SUMMARY_LIMIT, Page, send
from tests.blocks.pagerduty_events import Events

KEY = "0123456789abcdef0123456789abcdef"
PAGE = Page(
    incident="0badcafe",
    summary="P0 lab/chat: chat is down",
    source="lab/chat",
    severity="P0",
    details={"alert": "VllmDown"},
    link="http://prefect/runs/1",
)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[Events]:
    monkeypatch.setenv("TEST_PD", KEY)
    monkeypatch.setenv("TEST_PD_BOSS", KEY[::-1])
    one = Events()
    yield one
    one.close()


def spec(events: Events, **more: Any) -> PagerDutySpec:
    return PagerDutySpec.model_validate(
        {"routing_key": "${TEST_PD}", "url": events.url, "timeout_s": 5, **more}
    )


async def test_an_alert_is_triggered_acknowledged_and_resolved_under_one_key(
    events: Events,
) -> None:
    for action in ("trigger", "acknowledge", "resolve"):
        await send(spec(events), action, PAGE)  # type: ignore[arg-type]
    assert [e["event_action"] for e in events.received] == ["trigger", "acknowledge", "resolve"]
    assert {e["dedup_key"] for e in events.received} == {"0badcafe"}
    assert {e["routing_key"] for e in events.received} == {KEY}
    payload = events.received[0]["payload"]
    assert (payload["severity"], payload["source"]) == ("critical", "lab/chat")
    assert payload["custom_details"] == {"alert": "VllmDown"}
    assert events.received[0]["links"] == [
        {"href": "http://prefect/runs/1", "text": "Open in Prefect"}
    ]
    assert "payload" not in events.received[1]


async def test_a_long_summary_is_cut_to_what_pagerduty_takes(events: Events) -> None:
    await send(spec(events), "trigger", PAGE.model_copy(update={"summary": "ä" * 5000}))
    summary = events.received[0]["payload"]["summary"]
    assert len(summary) == SUMMARY_LIMIT and summary.endswith("…")


async def test_a_role_with_a_service_of_its_own_is_paged_there(events: Events) -> None:
    one = spec(events, by_role={"manager": "${TEST_PD_BOSS}"})
    await send(one, "trigger", PAGE, "manager")
    await send(one, "trigger", PAGE, "primary")
    assert [e["routing_key"] for e in events.received] == [KEY[::-1], KEY]


async def test_a_refused_event_is_permanent_and_says_why_without_the_key(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PD", "short-key-1234")
    with pytest.raises(Permanent, match="routing_key' is incorrect") as e:
        await send(spec(events), "trigger", PAGE)
    assert "check routing_key" in str(e.value) and "short-key-1234" not in str(e.value)
    body = {"status": "invalid event", "errors": ["key short-key-1234 is unknown"]}
    events.reply = (400, body, {})
    with pytest.raises(Permanent) as e:
        await send(spec(events), "trigger", PAGE)
    assert "key *** is unknown" in str(e.value) and e.value.__cause__ is None


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_too_many_and_a_broken_server_are_transient(events: Events, status: int) -> None:
    events.reply = (status, b"<html>no</html>", {"Retry-After": "7"})
    with pytest.raises(Transient, match=f"{status} to resolve") as e:
        await send(spec(events), "resolve", PAGE)
    assert e.value.retry_after_s == 7


@pytest.mark.parametrize(
    "reply", [(200, {"status": "success"}), (202, b"<html>"), (202, {"status": "?"}), (202, [1])]
)
async def test_an_answer_that_is_not_pagerdutys_is_no_success(
    events: Events, reply: tuple[int, Any]
) -> None:
    events.reply = (*reply, {})
    with pytest.raises(Transient, match="not as PagerDuty does"):
        await send(spec(events), "trigger", PAGE)


async def test_nobody_there_is_transient_and_a_missing_key_permanent(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = spec(events, url="http://127.0.0.1:9/v2/enqueue")
    with pytest.raises(Transient, match="PagerDuty does not answer") as e:
        await send(gone, "trigger", PAGE)
    assert KEY not in str(e.value)
    monkeypatch.delenv("TEST_PD")
    with pytest.raises(Permanent, match="TEST_PD is not set"):
        await send(spec(events), "trigger", PAGE)
    assert events.received == []
