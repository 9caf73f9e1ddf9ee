"""Alertmanager's answers: only what fires, and a list that is none is never "none firing"."""

from typing import Any

import pytest

from blocks.alertmanager_server import AlertmanagerSpec, firing
from blocks.errors import Permanent, RunbookError, Transient
from tests.blocks.answering import Answering, answer, answering, drip
from tests.conftest import free_port


def alert(name: str, state: str = "active", **more: Any) -> dict[str, Any]:
    return {
        "annotations": {"description": "Prometheus could not scrape it for 4 s."},
        "endsAt": "2026-11-20T23:29:36.804Z",
        "fingerprint": "055ca5fcdf911b42",
        "receivers": [{"name": "hook"}],
        "startsAt": "2026-11-20T23:25:36.804Z",
        "status": {"inhibitedBy": [], "silencedBy": [], "state": state},
        "generatorURL": "http://monitor:4420/graph?g0.tab=1",
        "labels": {"alertname": name, "service": "wintermute", "severity": "critical"},
        **more,
    }


def spec(server: Answering, **more: Any) -> AlertmanagerSpec:
    return AlertmanagerSpec.model_validate({"url": server.url, "timeout_s": 1, **more})


async def test_what_fires_the_oldest_first() -> None:
    body = [
        alert("New", startsAt="2026-11-21T00:00:00Z"),
        alert("Timeless", startsAt=None, annotations=None),
        alert("Quiet", "suppressed"),
        alert("Old"),
        {"labels": {"severity": 7}},
        "x",
    ]
    async with answering(answer(body=body)) as server:
        found = await firing(spec(server))
        head = server.received[0].split("\r\n")[0]
    assert head.startswith("GET /api/v2/alerts?active=true&silenced=false&inhibited=false HTTP")
    assert [a.name for a in found] == ["Old", "New", "Timeless"]
    old = found[0]
    assert (old.severity, old.service) == ("critical", "wintermute")
    assert old.summary == "Prometheus could not scrape it for 4 s."
    assert (old.fingerprint, old.url[:15]) == ("055ca5fcdf911b42", "http://monitor:")
    assert found[2].since is None and found[2].summary == ""


async def test_none_fires_and_all_are_quiet() -> None:
    async with answering(answer(body=[])) as server:
        assert await firing(spec(server)) == ()
        server.reply = answer(body=[alert("Quiet", "suppressed")])
        assert await firing(spec(server)) == ()


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (answer(200, b"<html>login</html>"), Permanent, "no list of alerts"),
        (answer(200, {"status": "success", "data": []}), Permanent, "no list of alerts"),
        (answer(200, [1, {}]), Permanent, "holds no alerts"),
        (answer(404), Permanent, "route prefix"),
        (answer(401), Permanent, "set or renew its token"),
        (answer(503), Transient, "answered 503"),
        (drip(b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n["), Transient, "no answer within 1 s"),
    ],
)
async def test_what_is_no_answer(reply: Any, kind: type[RunbookError], words: str) -> None:
    async with answering(reply) as server:
        with pytest.raises(kind, match=words):
            await firing(spec(server))


async def test_nobody_there() -> None:
    with pytest.raises(Transient, match="connection refused"):
        await firing(AlertmanagerSpec(url=f"http://127.0.0.1:{free_port()}"))
