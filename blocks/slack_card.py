"""One Slack message per incident (or run), updated in place by every process that knows its key.

Where the message is stands in a Prefect Variable, `card_KEY`, which is created before the message
is posted: the server lets one process win, the others wait for the winner's time stamp. A message
that must be posted anew (its writer died, Slack refused, or somebody deleted it) is a Variable of
its own, `card_KEY_v2` and so on, claimed in the same way; the highest counts. So nobody ever
overwrites what another one claimed.

Not prevented: a writer killed after Slack took the message and before its time stamp was kept, or
an answer of Slack that is lost, leaves a second message. Of two updates at once the later wins.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from blocks.errors import Transient
from blocks.models import Frozen
from blocks.prefect_health import prefect_client
from blocks.slack_blocks import Block, context
from blocks.slack_client import Gone, SlackClient, open_slack
from blocks.slack_spec import SlackSpec

STALE_S = 30.0
"""A claim without a time stamp is given up after it (longer where Slack's time-out is), s."""
POLL_S = 0.25
GIVE_UP_S = 60.0
"""How long after that nobody may get through, s."""
REPLACES = "the earlier message of this was deleted in Slack; this one replaces it"
SUPERSEDED = "this goes on in another message"


class CardRef(Frozen):
    """Where a card is: the channel's id and the message's time stamp."""

    channel: str
    ts: str


class _Claim(Frozen):
    """One Variable: who posts the message, and where it came to be."""

    number: int
    name: str
    ref: CardRef | None
    failed: bool
    replaces: bool
    age_s: float


async def show(
    slack: SlackSpec, key: str, blocks: Sequence[Block], text: str, channel: str | None = None
) -> CardRef:
    """Create or update the one message of a key; where it is.

    Args:
        slack: the stack's slack section.
        key: incident id, or run id where there is no incident.
        blocks: what it shows from now on.
        text: the words of its notification.
        channel: where it is posted at first; default: the stack's. Later it stays where it is.

    Raises:
        Transient: Slack or the Prefect server does not answer.
        Permanent: Slack refuses it.
    """
    client = await open_slack(slack)
    stale_s = max(STALE_S, 2.0 * slack.timeout_s + 10)
    gone, until = 0, time.monotonic() + stale_s + GIVE_UP_S
    while time.monotonic() < until:
        last = await _last(key)
        if last and last.ref and last.number != gone:
            try:
                shown = [*blocks, context(REPLACES)] if last.replaces else blocks
                await client.update(last.ref.channel, last.ref.ts, shown, text)
                return last.ref
            except Gone:
                gone = last.number
        elif last and not last.ref and not last.failed and last.age_s < stale_s:
            await asyncio.sleep(POLL_S)
            continue
        replaces = bool(gone) or bool(last and last.replaces)
        number = last.number + 1 if last else 1
        if await _claim(key, number, replaces):
            shown = [*blocks, context(REPLACES)] if replaces else blocks
            return await _post(client, key, number, shown, text, channel or slack.channel)
        await asyncio.sleep(POLL_S)
    raise Transient(f"the card {key} could not be claimed: is {_name(key, 1)} in Prefect intact?")


async def read_card(key: str) -> CardRef | None:
    """Where the message of a key is; None when there is none (yet). Raises Transient."""
    last = await _last(key)
    return last.ref if last else None


async def thread(slack: SlackSpec, ref: CardRef, blocks: Sequence[Block], text: str) -> CardRef:
    """Post a reply to a card; where it is. Raises as `show`."""
    sent = await (await open_slack(slack)).send(ref.channel, blocks, text, ref.ts)
    return CardRef(channel=sent.channel, ts=sent.ts)


async def _post(
    client: SlackClient,
    key: str,
    number: int,
    blocks: Sequence[Block],
    text: str,
    channel: str,
) -> CardRef:
    """Post a claimed message and write down where it is."""
    try:
        sent = await client.send(channel, blocks, text)
    except Exception:
        with contextlib.suppress(Exception):  # else the claim ends by its age
            await _write(key, number, {"failed": True})
        raise
    ref = CardRef(channel=sent.channel, ts=sent.ts)
    kept = await _write(key, number, {"channel": ref.channel, "ts": ref.ts})
    last = await _last(key)
    if last and last.number > number:  # this process was so slow that it was taken for dead
        with contextlib.suppress(Exception):
            await client.update(ref.channel, ref.ts, [context(SUPERSEDED)], SUPERSEDED)
        return last.ref or ref
    if kept and number > 1:
        await _forget_before(key, number)
    return ref


# ---- the Variables ----


async def _last(key: str) -> _Claim | None:
    async with prefect_client() as client:
        found = await _claims(client, key)
    return max(found, key=lambda c: c.number, default=None)


async def _claims(client: PrefectClient, key: str) -> list[_Claim]:
    body = {"variables": {"tags": {"all_": [_tag(key)]}}, "limit": 200}
    answer = await client._client.post("/variables/filter", json=body)
    now = parsedate_to_datetime(answer.headers["Date"])  # the server's clock on both sides
    claims = []
    for found in answer.json():
        value: dict[str, Any] = found["value"] if isinstance(found["value"], dict) else {}
        age = now - datetime.fromisoformat(found["created"].replace("Z", "+00:00"))
        number = re.search(r"_v(\d+)$", found["name"])
        ref = {k: str(value.get(k) or "") for k in ("channel", "ts")}
        claims.append(
            _Claim(
                number=int(number[1]) if number else 1,
                name=found["name"],
                ref=CardRef(**ref) if all(ref.values()) else None,
                failed=bool(value.get("failed")),
                replaces=bool(value.get("replaces")),
                age_s=age.total_seconds(),
            )
        )
    return claims


async def _claim(key: str, number: int, replaces: bool) -> bool:
    """Whether this process may post the message of that number."""
    body = {"name": _name(key, number), "value": {"replaces": replaces}, "tags": [_tag(key)]}
    async with prefect_client() as client:
        try:
            await client._client.post("/variables/", json=body)
        except PrefectHTTPStatusError as e:
            if e.response.status_code == 409:
                return False
            raise
    return True


async def _write(key: str, number: int, value: dict[str, Any]) -> bool:
    """Complete this process's own claim; False when it was cleared away meanwhile."""
    name = _name(key, number)
    async with prefect_client() as client:
        try:
            found = await client._client.get(f"/variables/name/{name}")
            whole = {**found.json()["value"], **value}
            await client._client.patch(f"/variables/name/{name}", json={"value": whole})
        except PrefectHTTPStatusError as e:
            if e.response.status_code == 404:
                return False
            raise
    return True


async def _forget_before(key: str, number: int) -> None:
    """Clear away what a newer message replaced."""
    with contextlib.suppress(Exception):  # it does no harm where it stays
        async with prefect_client() as client:
            for claim in await _claims(client, key):
                if claim.number < number:
                    await client._client.delete(f"/variables/name/{claim.name}")


def _tag(key: str) -> str:
    return f"card:{_plain(key)}"


def _name(key: str, number: int) -> str:
    return f"card_{_plain(key)}" + (f"_v{number}" if number > 1 else "")


def _plain(key: str) -> str:
    """What Prefect takes as part of a Variable's name."""
    return re.sub(r"[^a-z0-9_]", "_", key.lower())[:200]
