"""Slack over HTTP: only what is signed, fresh and new is read."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import SignatureVerifier

from blocks.stack import StackSpec
from deployments.gateway import slack_http
from deployments.gateway.app import build
from deployments.gateway.slack_seen import Seen
from deployments.gateway.slack_signature import SKEW_S, fresh, genuine, signature
from deployments.gateway.state import Gateway

SECRETS = {"TEST_SIGNING_A": "signing-secret-a", "TEST_SIGNING_B": "signing-secret-b"}
BODY = urlencode({"command": "/runbook", "text": "help", "user_id": "U1"}).encode()


def spec(name: str, secret: str) -> StackSpec:
    return StackSpec.model_validate(
        {
            "name": name,
            "services": {
                "s": {"url": "http://h:1", "runtime": {"kind": "docker", "container": "c"}}
            },
            "slack": {
                "token": "${TEST_BOT}",
                "channel": "C1",
                "signing_secret": f"${{{secret}}}",
                "api_url": "http://127.0.0.1:9/api/",
            },
        }
    )


class Door:
    """The gateway's endpoints with two stacks, and what got through them."""

    def __init__(self, client: httpx.AsyncClient, got: list[Any], gateway: Gateway) -> None:
        self.client, self.got, self.now = client, got, time.time()
        self.gateway = gateway

    async def post(
        self,
        body: bytes = BODY,
        *,
        secret: str = "signing-secret-a",
        at: float = 0,
        path: str = "/slack/commands",
        **headers: str,
    ) -> httpx.Response:
        stamp = str(int(self.now + at))
        sent = {
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": signature(secret, stamp, body),
            "Content-Type": "application/x-www-form-urlencoded",
            **headers,
        }
        return await self.client.post(path, content=body, headers=sent)

    async def worked(self) -> list[Any]:
        for _ in range(3):
            await asyncio.sleep(0)
        return self.got


@pytest.fixture
async def door(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Door]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    got: list[Any] = []

    async def handle(gateway: Gateway, stacks: list[str], payload: Any) -> None:
        got.append((stacks, payload))

    monkeypatch.setattr(slack_http, "handle", handle)
    gateway = Gateway(tmp_path / "inbox.db")
    gateway._stacks = {
        "a": spec("a", "TEST_SIGNING_A"),
        "b": spec("b", "TEST_SIGNING_B"),
        "c": spec("c", "TEST_SIGNING_MISSING"),
    }
    gateway._loaded_at = gateway._tried_at = time.monotonic()
    transport = httpx.ASGITransport(app=build(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        made = Door(client, got, gateway)
        yield made
    await made.gateway.inbox.close()


async def test_the_stack_is_the_one_whose_secret_signed(door: Door) -> None:
    answer = await door.post()
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await door.worked())[0][0] == ["a"]
    assert (await door.post(secret="signing-secret-b")).status_code == 200
    [_, (stacks, payload)] = await door.worked()
    assert stacks == ["b"] and payload["text"] == "help"


async def test_status_is_acknowledged_with_a_word(door: Door) -> None:
    body = urlencode({"command": "/runbook", "text": "status"}).encode()
    assert (await door.post(body)).json() == {"response_type": "ephemeral", "text": "Looking…"}


async def test_what_is_forged_old_or_altered_is_refused_alike(door: Door) -> None:
    said = [
        await door.post(secret="guessed"),
        await door.post(secret=""),
        await door.post(at=-SKEW_S - 5),
        await door.post(at=SKEW_S + 5),
        await door.post(**{"X-Slack-Signature": "v0="}),
        await door.post(**{"X-Slack-Signature": "v1=" + "0" * 64}),
        await door.post(**{"X-Slack-Request-Timestamp": "now"}),
        await door.post(**{"X-Slack-Request-Timestamp": "9" * 400}),
        await door.client.post("/slack/commands", content=BODY),
        await door.client.post("/slack/actions", content=b""),
    ]
    stamp = str(int(door.now))
    signed = {
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": signature("signing-secret-a", stamp, BODY),
    }
    said.append(await door.client.post("/slack/commands", content=BODY + b"&x=1", headers=signed))
    assert {(a.status_code, a.content) for a in said} == {(401, said[0].content)}
    assert b"signing-secret" not in said[0].content and await door.worked() == []


async def test_a_replay_is_refused_and_its_twin_a_second_later_is_not(door: Door) -> None:
    assert (await door.post()).status_code == 200
    assert (await door.post()).status_code == 401
    assert (await door.post(path="/slack/actions")).status_code == 401
    assert (await door.post(at=1)).status_code == 200
    assert len(await door.worked()) == 2


async def test_a_replay_after_a_restart_is_refused(door: Door, tmp_path: Path) -> None:
    assert (await door.post()).status_code == 200
    stacks = door.gateway._stacks
    await door.gateway.inbox.close()
    again = Gateway(tmp_path / "inbox.db")
    again._stacks, again._loaded_at, again._tried_at = stacks, time.monotonic(), time.monotonic()
    transport = httpx.ASGITransport(app=build(again))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        second = Door(client, door.got, again)
        second.now = door.now
        assert (await second.post()).status_code == 401
        assert (await second.post(at=1)).status_code == 200
    assert len(await door.worked()) == 2
    door.gateway = again


async def test_the_first_requests_wait_for_the_secrets(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = slack_http.resolve

    async def resolve(ref: str) -> Any:
        await asyncio.sleep(0.2)
        return await slow(ref)

    monkeypatch.setattr(slack_http, "resolve", resolve)
    said = await asyncio.gather(*(door.post(at=n) for n in range(5)))
    assert [a.status_code for a in said] == [200] * 5


async def test_before_the_stacks_are_known_it_is_busy(door: Door) -> None:
    door.gateway._loaded_at, door.gateway._tried_at = float("-inf"), float("inf")
    assert (await door.post()).status_code == 503
    door.gateway._loaded_at = time.monotonic()
    assert (await door.post()).status_code == 200


async def test_a_memory_that_is_full_or_broken_lets_nothing_through(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_http, "SEEN_MOST", 1)
    assert (await door.post()).status_code == 200
    assert (await door.post(at=1)).status_code == 503
    door.gateway.inbox._db.execute("DROP TABLE seen")
    assert (await door.post(at=2)).status_code == 503
    assert len(await door.worked()) == 1


async def test_a_huge_body_is_not_read(door: Door) -> None:
    assert (await door.post(b"x" * (2 << 20))).status_code == 413
    assert await door.worked() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/slack/commands", b"text=help"),
        ("/slack/commands", b"\xff\xfe"),
        ("/slack/commands", b"&".join(b"f%d=1" % n for n in range(500))),
        ("/slack/actions", b"payload=%7B"),
        ("/slack/actions", b"payload=" + b"%5B" * 100_000),
        ("/slack/actions", b"payload=5"),
        ("/slack/actions", b""),
    ],
)
async def test_signed_nonsense_is_a_400(door: Door, path: str, body: bytes) -> None:
    assert (await door.post(body, path=path)).status_code == 400
    assert await door.worked() == []


async def test_only_post(door: Door) -> None:
    for path in ("/slack/commands", "/slack/actions"):
        assert (await door.client.get(path)).status_code == 405


@given(st.text(min_size=1, max_size=40), st.binary(max_size=200), st.integers(0, 2**33))
def test_the_signature_is_slack_sdks_own(secret: str, body: bytes, stamp: int) -> None:
    mine = signature(secret, str(stamp), body)
    assert genuine(secret, str(stamp), body, mine)
    assert not genuine(secret, str(stamp + 1), body, mine)
    assert not genuine(secret, str(stamp), body + b"x", mine)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return
    if secret.strip():
        theirs = SignatureVerifier(secret).generate_signature(timestamp=str(stamp), body=text)
        assert mine == theirs


@given(st.text(max_size=30), st.text(max_size=80))
def test_no_header_breaks_it(stamp: str, given_: str) -> None:
    assert not genuine("secret", stamp, b"body", given_)
    fresh(stamp, 1e9)


def test_the_memory_forgets_what_is_old_and_refuses_when_full() -> None:
    now = [0.0]
    seen = Seen(600, 3, lambda: now[0])
    assert [seen.first(k) for k in "aab"] == [True, False, True]
    now[0] = 599
    assert not seen.first("a") and seen.first("c")
    with pytest.raises(OverflowError):
        seen.first("d")
    now[0] = 600
    assert seen.first("d") and not seen.first("c")
