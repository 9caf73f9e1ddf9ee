"""Anything at all, sent to every endpoint: no 500, no trace, no secret in an answer or a log."""

import asyncio
import contextlib
import io
import json
import logging
import time
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.stack import StackSpec
from deployments.gateway import slack_call, slack_dispatch
from deployments.gateway.app import build
from deployments.gateway.slack_modals import CALLBACK
from deployments.gateway.slack_signature import signature
from deployments.gateway.state import Gateway
from tests.deployments.gateway_support import TOKEN, alert, group, inventory

SECRET, SECRET_ENV = "signing-secret-that-nobody-may-see-4712", "TEST_FUZZ_SIGNING"
BOT, BOT_ENV = "xoxb-bot-token-that-nobody-may-see-4713", "TEST_FUZZ_BOT"
SECRETS = (TOKEN, SECRET, BOT)
WELL = {200, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503}
SPEC = StackSpec.model_validate(
    inventory().model_dump(mode="json")
    | {
        "slack": {
            "token": f"${{{BOT_ENV}}}",
            "channel": "C1",
            "signing_secret": f"${{{SECRET_ENV}}}",
            "api_url": "http://127.0.0.1:9/api/",
            "timeout_s": 1,
        }
    }
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.just(TOKEN)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = ("status", "labels", "annotations", "startsAt", "generatorURL", "fingerprint")
dates = st.sampled_from(
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-20T12:00:00", "", "0"]
)
words = st.dictionaries(
    st.sampled_from(["alertname", "service", "stack", "severity", "\x00", TOKEN]),
    st.text(max_size=20) | st.sampled_from(["s0", "\ud7ff\x00", "x" * 9000, TOKEN]),
)
wrong = st.dictionaries(st.sampled_from(KEYS), anything | dates | words)
notices = st.builds(
    lambda changes, more, left: json.dumps(
        {
            **group(*({k: v for k, v in alert("s0", **c).items() if k != left} for c in changes)),
            **more,
        }
    ).encode(),
    st.lists(wrong, max_size=3),
    st.dictionaries(st.sampled_from(["version", "alerts", "truncatedAlerts", "x"]), anything),
    st.sampled_from([*KEYS, ""]),
)
bodies = st.one_of(st.binary(max_size=200), anything.map(lambda v: json.dumps(v).encode()), notices)
tokens = st.sampled_from([f"Bearer {TOKEN}"] * 6 + ["Bearer", "Basic x", "", f"Bearer {TOKEN}x"])
paths = st.sampled_from(
    [f"/alerts/{SPEC.name}"] * 6
    + ["/alerts", "/alerts/", "/alerts/%00", "/alerts/..%2f", "/healthz", "/metrics", "/docs"]
    + ["/slack/commands", "/slack/actions", "/openapi.json", "/", "/alerts/a/b"]
)
methods = st.sampled_from(["POST"] * 6 + ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])


# ---- what Slack signs: whoever typed it ----

typed = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            ["run", "why", "status", "freeze", "unfreeze", "ack", "close", "approve", "reject"]
            + ["help", "menu", "2h", "s0", "stack=x", "remediate-outage", "a=b", "`", "ffffffff"]
        ),
        max_size=5,
    ).map(" ".join),
)
commands = st.fixed_dictionaries(
    {"command": st.sampled_from(["/runbook", "", "x"]), "text": typed},
    optional={k: st.text(max_size=12) for k in ("user_id", "channel_id", "trigger_id")},
).map(urlencode)
values = anything.map(json.dumps) | st.text(max_size=40)
buttons = st.sampled_from(
    ["approve", "reject", "ack", "show-log", "run", "start", "cancel", "help", "approve:1", "x"]
)
clicks = st.builds(
    lambda action, value, more: {
        "type": "block_actions",
        "user": {"id": "U1"},
        "channel": {"id": "C1"},
        "actions": [{"action_id": action, "value": value}],
        **more,
    },
    buttons,
    values | anything,
    st.dictionaries(st.sampled_from(["user", "channel", "actions", "trigger_id"]), anything),
)
forms = st.builds(
    lambda memo, state, more: {
        "type": "view_submission",
        "user": {"id": "U1"},
        "view": {"callback_id": CALLBACK, "private_metadata": memo, "state": state, **more},
    },
    values
    | st.builds(
        lambda v, p: json.dumps({"stack": SPEC.name, "procedure": p, "values": v}),
        anything,
        st.sampled_from(["remediate-outage", "x"]),
    ),
    anything | st.fixed_dictionaries({"values": anything}),
    st.dictionaries(st.sampled_from(["id", "hash", "state"]), anything),
)
payloads = (clicks | forms | anything).map(lambda v: urlencode({"payload": json.dumps(v)}))
signed = st.one_of(
    st.tuples(st.just("/slack/commands"), commands),
    st.tuples(st.just("/slack/actions"), payloads),
    st.tuples(st.sampled_from(["/slack/commands", "/slack/actions"]), st.text(max_size=60)),
)


@pytest.fixture
async def gateway(tmp_path, home, monkeypatch):
    """One that knows one stack, and whose Prefect server and Slack are away."""
    monkeypatch.setenv(SECRET_ENV, SECRET)
    monkeypatch.setenv(BOT_ENV, BOT)
    one = Gateway(tmp_path / "inbox.db")
    one._stacks, one._tokens = {SPEC.name: SPEC}, {SPEC.name: TOKEN}
    one._loaded_at = one._tried_at = float("inf")  # nothing is to be read anew
    yield one
    await one.inbox.close()


@contextlib.contextmanager
def heard():
    """All that is logged meanwhile."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    loggers = [
        logging.getLogger(n) for n in ("", "runbooks", "uvicorn.error", "prefect", "slack_sdk")
    ]
    for one in loggers:
        one.addHandler(handler)
    yield text
    for one in loggers:
        one.removeHandler(handler)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(method=methods, path=paths, body=bodies, token=tokens, kind=st.text("aj/son;", max_size=9))
def _play(sent, method, path, body, token, kind):
    sent.append((method, path, body, token, kind))


async def test_no_input_makes_it_fail_or_tell(gateway):
    sent = []
    _play(sent)
    transport = httpx.ASGITransport(app=build(gateway), raise_app_exceptions=True)
    seen = set()
    with heard() as log:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            for method, path, body, token, kind in sent:
                headers = {"Authorization": token, "Content-Type": kind}
                answer = await client.request(method, path, content=body, headers=headers)
                seen.add(answer.status_code)
                assert answer.status_code in WELL, (method, path, body, answer.text)
                _tells_nothing(answer, (path, body))
    assert {202, 400, 401, 404, 405, 422} <= seen, "the inputs reach too little"
    assert not [s for s in SECRETS if s in log.getvalue()]
    assert "Traceback" not in log.getvalue()
    assert "failed:" not in log.getvalue(), log.getvalue()[-500:]  # the guard's last resort


def _tells_nothing(answer, sent):
    told = answer.text + str(answer.headers)
    assert not [s for s in SECRETS if s in told], sent
    assert "Traceback" not in told, sent


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(one=signed)
def _type(sent, one):
    sent.append(one)


async def test_nothing_that_slack_signs_makes_it_fail_or_tell(gateway, monkeypatch):
    sent = []
    _type(sent)
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    monkeypatch.setattr(slack_call, "TRIES", 1)
    said, work = set(), slack_dispatch._work
    transport = httpx.ASGITransport(app=build(gateway), raise_app_exceptions=True)
    with heard() as log, temporary_settings(away):
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            for number, (path, text) in enumerate(sent):
                # No two are alike: what is alike is refused as a replay.
                body = f"{text}&n={number}".encode()
                stamp = str(int(time.time()))
                headers = {
                    "X-Slack-Request-Timestamp": stamp,
                    "X-Slack-Signature": signature(SECRET, stamp, body),
                }
                answer = await client.post(path, content=body, headers=headers)
                said.add(answer.status_code)
                assert answer.status_code in {200, 400}, (path, body, answer.text)
                _tells_nothing(answer, (path, body))
                while work:
                    await asyncio.wait(set(work))
    assert said == {200, 400}
    assert not [s for s in SECRETS if s in log.getvalue()]
    assert "Traceback" not in log.getvalue()
    # Neither the guard's last resort nor that of the Slack door.
    assert "failed:" not in log.getvalue(), log.getvalue()[-800:]
