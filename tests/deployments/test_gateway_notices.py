"""What people are told in Slack of alerts that start nothing."""

import asyncio
import json

import pytest

from deployments.gateway import notices
from tests.deployments.gateway_support import TOKEN, TOKEN_ENV, alert, inventory
from tests.deployments.test_gateway_alerts import opened, ready
from tests.flows.conftest import slack as slack  # a fixture
from tests.flows.support import Slack


@pytest.fixture
async def front(tmp_path, home, prefect_server, monkeypatch):
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    monkeypatch.setattr(notices, "EVERY_S", 0.1)
    async with opened(tmp_path / "inbox.db") as one:
        yield one


def told(slack: Slack) -> list[str]:
    return [json.dumps(m, ensure_ascii=False) for m in slack.messages]


async def heard(front, slack, word):
    """Wait until people were told this."""
    for _ in range(600):
        if any(word in m for m in told(slack)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError((told(slack), await front.gateway.inbox.all()))


async def told_of_all(front):
    for _ in range(600):
        if not await front.gateway.inbox.to_tell():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await front.gateway.inbox.to_tell())


def with_slack(slack, services=1, **alerts):
    spec = inventory(services, **alerts)
    return type(spec).model_validate(spec.model_dump(mode="json") | {"slack": slack.spec()})


async def test_unknown_alert_is_posted_on_a_card(front, slack):
    stack = await ready(front, with_slack(slack))
    await front.post(stack, alert("s0", name="Odd"))
    await heard(front, slack, "no route of the stack matches its labels")
    assert any("Odd on s0" in m for m in told(slack))
    await told_of_all(front)


async def test_alert_of_an_unknown_service_is_posted_too(front, slack):
    stack = await ready(front, with_slack(slack))
    await front.post(stack, alert("elsewhere"))
    await heard(front, slack, "'elsewhere' is not in the stack")
    await told_of_all(front)


async def test_storm_is_said_in_one_message(front, slack):
    storm = {"per_service": 1, "total": 1, "window_s": 3600}
    stack = await ready(front, with_slack(slack, 6, storm=storm))
    await front.post(stack, *(alert(f"s{n}") for n in range(6)))
    await heard(front, slack, "alert storm: 5 alert(s) started nothing")
    await told_of_all(front)
    posted = [m for m in slack.messages if "alert storm" in json.dumps(m)]
    # The first is posted, and what comes after updates it.
    assert [bool(m.get("ts")) for m in posted] == [False] + [True] * (len(posted) - 1)


async def test_slack_that_is_away_holds_up_no_run_and_hears_it_later(front, slack):
    stack = await ready(front, with_slack(slack, 2))
    slack.status, slack.answer = 503, {"ok": False, "error": "service_unavailable"}
    await front.post(stack, alert("s0", name="Odd"), alert("s1"))
    assert [r.outcome for r in await front.rows(stack)] == ["unrouted", "started"]
    slack.status, slack.answer = 200, {"ok": True, "ts": "1.0"}
    slack.messages.clear()
    await heard(front, slack, "no route of the stack matches")
