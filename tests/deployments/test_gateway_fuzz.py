"""Anything at all, sent to every endpoint: no 500, no trace, no secret in an answer or a log."""

import contextlib
import io
import json
import logging

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gateway.app import build
from deployments.gateway.state import Gateway
from tests.deployments.gateway_support import TOKEN, alert, group, inventory

WELL = {200, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503}
SPEC = inventory()
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


@pytest.fixture
async def gateway(tmp_path, home, monkeypatch):
    """One that knows one stack, and whose Prefect server is away."""
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
    loggers = [logging.getLogger(n) for n in ("", "runbooks", "uvicorn.error", "prefect")]
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
                assert TOKEN not in answer.text, (path, body)
                assert "Traceback" not in answer.text
                assert TOKEN not in str(answer.headers)
    assert {202, 400, 401, 404, 405, 422} <= seen, "the inputs reach too little"
    assert TOKEN not in log.getvalue()
    assert "Traceback" not in log.getvalue()
    assert "failed:" not in log.getvalue(), log.getvalue()[-500:]  # the guard's last resort
