"""Prometheus' answers, captured and bent: what is no measurement is an error or empty, not 0."""

import asyncio
import math
from typing import Any

import pytest

from blocks.errors import Permanent, RunbookError, Transient
from blocks.http_client import MAX_BODY_BYTES
from blocks.prometheus_server import PrometheusSpec, active, query, query_many, rules
from tests.blocks.answering import Answering, answer, answering, drip
from tests.conftest import free_port

UP = {
    "status": "success",
    "data": {
        "resultType": "vector",
        "result": [
            {
                "metric": {"__name__": "up", "instance": "127.0.0.1:4400", "job": "vllm"},
                "value": [1795218379.608, "1"],
            },
            {"metric": {}, "value": [1795218379.608, "NaN"]},
            {"metric": {}, "value": [1795218379.608, "-Inf"]},
        ],
    },
}
EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}
BAD = {
    "status": "error",
    "errorType": "bad_data",
    "error": 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis',
}
ALERTS = {
    "status": "success",
    "data": {
        "alerts": [
            {
                "labels": {"alertname": "VllmErrorRate", "team": "w", "severity": "Warning"},
                "annotations": {"summary": "error ratio of wintermute\n is 22.68%"},
                "state": "firing",
                "activeAt": "2026-11-20T23:46:04.804667554Z",
                "value": "2.26810642941308e-01",
            },
            {"labels": {"alertname": "Later"}, "state": "pending", "activeAt": "x"},
            {"labels": {"alertname": "Odd"}, "state": "firing", "activeAt": "yesterday"},
            None,
        ]
    },
}


def spec(server: Answering, **more: Any) -> PrometheusSpec:
    return PrometheusSpec.model_validate({"url": server.url, "timeout_s": 2, **more})


async def test_series_with_nan_and_infinity_are_kept() -> None:
    async with answering(answer(body=UP)) as server:
        one, nan, inf = await query(spec(server), 'up{job="v"}')
        assert one.labels == UP["data"]["result"][0]["metric"] and one.value == 1
        assert math.isnan(nan.value) and inf.value == -math.inf
        assert server.received[0].startswith("GET /api/v1/query?query=up%7Bjob%3D%22v%22%7D")
        assert "timeout=2000ms" in server.received[0]
        server.reply = answer(body=EMPTY)
        assert await query(spec(server), "up") == ()


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (answer(400, BAD), Permanent, "unclosed left parenthesis"),
        (answer(200, BAD), Permanent, "unclosed left parenthesis"),
        (answer(422, {**BAD, "errorType": "execution"}), Permanent, "execution"),
        (answer(503, {**BAD, "errorType": "timeout"}), Transient, "timeout"),
        (answer(200, {**BAD, "errorType": "unavailable"}), Transient, "unavailable"),
        (answer(500, b"<html>"), Transient, "answered 500"),
        (answer(429, b"", "Retry-After: 7\r\n"), Transient, "answered 429"),
        (answer(401, b"no"), Permanent, "401: set or renew its token"),
        (answer(403, b"no"), Permanent, "403: set or renew its token"),
        (answer(302, b"", "Location: /login\r\n"), Permanent, "a redirect"),
        (answer(404, b"no"), Permanent, "has its url the route prefix"),
        (answer(200, b"<html>login</html>"), Permanent, "without Prometheus' JSON"),
        (answer(200, []), Permanent, "without Prometheus' JSON"),
        (answer(200, b"[" * 100_000), Permanent, "without Prometheus' JSON"),
        (answer(200, {"status": "success"}), Permanent, "without Prometheus' JSON"),
        (answer(200, {**EMPTY, "warnings": ["store x is gone"]}), Transient, "store x is gone"),
        (answer(200, {"status": "success", "data": {"resultType": "matrix", "result": []}}),
         Permanent, "answers a matrix"),
        (answer(200, {"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {}, "histogram": []}]}}), Permanent, "native histogram"),
        (answer(200, {"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {}, "value": [1, "x"]}]}}), Permanent, "no number"),
        (answer(200, {"status": "success", "data": {"resultType": "vector", "result": [1]}}),
         Permanent, "is it a Prometheus"),
        (drip(b"HTTP/1.1 200 X\r\nContent-Length: 999\r\n\r\n"), Transient, "no answer within"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Transient, "is no HTTP"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n{", Transient, "cut off"),
        (answer(200, b"x" * (MAX_BODY_BYTES + 1)), Permanent, "more than 8 MiB"),
    ],
)  # fmt: skip
async def test_what_is_no_answer(reply: Any, kind: type[RunbookError], words: str) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    whole = isinstance(reply, bytes) and reply.endswith(b"\r\n\r\n{")
    async with answering(cut if whole else reply) as server:
        with pytest.raises(kind, match=words):
            await query(spec(server, timeout_s=1), "up")


async def test_retry_after_is_told() -> None:
    async with answering(answer(429, b"", "Retry-After: 7\r\n")) as server:
        with pytest.raises(Transient) as e:
            await query(spec(server), "up")
    assert e.value.retry_after_s == 7


async def test_a_partial_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(answer(body={**UP, "warnings": ["store x is gone"]})) as server:
        assert len(await query(spec(server), "up")) == 3
    assert "store x is gone" in caplog.text


async def test_a_scalar_is_one_sample() -> None:
    body = {"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}}
    async with answering(answer(body=body)) as server:
        (sample,) = await query(spec(server), "7")
    assert (sample.labels, sample.value) == ({}, 7)


async def test_nobody_there_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = PrometheusSpec(url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Transient, match="connection refused"):
        await query(nobody, "up")
    answers = await query_many(nobody, {str(n): "up" for n in range(200)})
    assert set(answers.values()) == {f"{nobody.url}: connection refused"}


async def test_many_share_a_few_connections() -> None:
    async with answering(answer(body=UP)) as server:
        answers = await query_many(spec(server), {str(n): "up" for n in range(60)})
        assert len(answers) == 60 and all(len(a) == 3 for a in answers.values())
        assert server.connections <= 8 and list(answers) == [str(n) for n in range(60)]


async def test_a_slow_server_does_not_take_the_sum_of_all_time_outs() -> None:
    async with answering(drip(b"HTTP/1.1 200 X\r\nContent-Length: 999\r\n\r\n")) as server:
        async with asyncio.timeout(10):
            answers = await query_many(
                spec(server, timeout_s=0.3), {str(n): "up" for n in range(80)}
            )
        assert all(isinstance(a, str) and "no answer within" in a for a in answers.values())
        assert len(server.received) < 40


async def test_the_token_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROM_TOKEN", "s3cret-token")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with answering(answer(401, b"s3cret-token")) as server:
        with pytest.raises(Permanent) as e:
            await query(spec(server, token="${PROM_TOKEN}"), "up")
        assert "Authorization: Bearer s3cret-token" in server.received[0]
        assert "s3cret-token" not in str(e.value) + repr(e.value)
        monkeypatch.delenv("PROM_TOKEN")
        with pytest.raises(Permanent, match="PROM_TOKEN is not set"):
            await query(spec(server, token="${PROM_TOKEN}"), "up")
        answers = await query_many(spec(server, token="${PROM_TOKEN}"), {"a": "up", "b": "up"})
    assert all("PROM_TOKEN is not set" in str(a) for a in answers.values())


async def test_alerts_that_fire() -> None:
    async with answering(answer(body=ALERTS)) as server:
        one, odd = await active(spec(server), service_label="team")
        assert (one.name, one.severity, one.service) == ("VllmErrorRate", "warning", "w")
        assert one.summary == "error ratio of wintermute is 22.68%"
        assert one.since and one.since.isoformat() == "2026-11-20T23:46:04.804667+00:00"
        assert (odd.name, odd.since) == ("Odd", None)
        server.reply = answer(body={"status": "success", "data": {}})
        with pytest.raises(Permanent, match="no list of alerts"):
            await active(spec(server))


async def test_rules_that_are_loaded_and_those_that_break() -> None:
    good = {"type": "alerting", "name": "Down", "health": "ok"}
    bad = {"type": "alerting", "name": "Odd", "health": "err", "lastError": "many-to-many\n match"}
    groups = [{"rules": [good, bad, {"type": "recording", "health": "err"}, None]}, {}, None]
    async with answering(answer(body={"status": "success", "data": {"groups": groups}})) as server:
        found = await rules(spec(server))
        assert (found.loaded, found.broken) == (2, ("Odd: many-to-many match",))
        assert server.received[0].startswith("GET /api/v1/rules?type=alert ")
        server.reply = answer(body={"status": "success", "data": {"groups": []}})
        assert (await rules(spec(server))).loaded == 0
        server.reply = answer(body={"status": "success", "data": {}})
        with pytest.raises(Permanent, match="no list of groups"):
            await rules(spec(server))
