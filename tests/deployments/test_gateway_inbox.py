"""The inbox: what it keeps, what it forgets, and that only one process has it."""

import asyncio
import json
import os
import time

import pytest

from blocks.errors import Permanent, Transient
from deployments.gateway import inbox as inboxes
from deployments.gateway.alert_models import WireAlert, received
from deployments.gateway.inbox import Inbox
from tests.deployments.gateway_support import alert


def kept(n=0, status="firing"):
    wire = WireAlert.model_validate_json(json.dumps(alert("s0", n=n, status=status)))
    return received("stack", wire)


@pytest.fixture
async def inbox(tmp_path):
    one = Inbox(tmp_path / "inbox.db")
    yield one
    await one.close()


async def test_accepted_is_there_when_it_is_opened_again(tmp_path):
    first = Inbox(tmp_path / "inbox.db")
    assert await first.accept([kept(0), kept(1)], 1.0) == (2, 0)
    await first.close()
    second = Inbox(tmp_path / "inbox.db")
    assert [r.key for r in await second.all()] == [kept(0).key, kept(1).key]
    assert await second.accept([kept(0)], 2.0) == (0, 1)
    await second.close()


async def test_second_gateway_is_refused(inbox):
    with pytest.raises(Permanent, match="belongs to another gateway"):
        Inbox(inbox.file)


async def test_no_database_is_refused_by_name(tmp_path):
    (tmp_path / "inbox.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Permanent, match=r"inbox\.db is no inbox"):
        Inbox(tmp_path / "inbox.db")


async def test_others_cannot_read_it(inbox):
    assert os.stat(inbox.file).st_mode & 0o077 == 0


async def test_same_alert_at_once_is_kept_once(inbox):
    got = await asyncio.gather(*(inbox.accept([kept()], 1.0) for _ in range(20)))
    assert sum(new for new, _ in got) == 1
    assert len(await inbox.all()) == 1


async def test_firing_and_resolved_are_two(inbox):
    assert await inbox.accept([kept(), kept(status="resolved")], 1.0) == (2, 0)
    assert await inbox.is_resolved(kept().key)


async def test_forgets_what_is_done_and_old_and_never_what_waits(inbox):
    now = time.time()
    await inbox.accept([kept(n) for n in range(6)], now)
    rows = await inbox.all()
    for row in rows[:4]:
        await inbox.update(row, outcome="started", done_at=now)
    await inbox.update(rows[0], seen_at=now - inboxes.KEEP_S - 1)
    await inbox.update(rows[3], tell=1, seen_at=now - inboxes.KEEP_S - 1)
    await inbox.update(rows[5], seen_at=now - inboxes.KEEP_S - 1)
    assert await inbox.forget(now) == 1
    assert [r.id for r in await inbox.all()] == [r.id for r in rows[1:]]
    # Over the bound the oldest that are done go; what waits or is to be told stays.
    assert await inbox.forget(now, keep_rows=1) == 2
    assert [r.id for r in await inbox.all()] == [r.id for r in rows[3:]]


async def test_alert_that_is_sent_again_for_weeks_stays_known(inbox):
    now = time.time()
    await inbox.accept([kept()], now - 30 * 86_400)
    (row,) = await inbox.all()
    await inbox.update(row, outcome="started")
    assert await inbox.accept([kept()], now - 3600) == (0, 1)
    assert await inbox.forget(now) == 0


async def test_too_many_that_wait_are_refused_as_a_whole(inbox, monkeypatch):
    monkeypatch.setattr(inboxes, "MOST_PENDING", 3)
    await inbox.accept([kept(0), kept(1)], 1.0)
    with pytest.raises(Transient, match="2 alerts wait already"):
        await inbox.accept([kept(2), kept(3)], 1.0)
    assert len(await inbox.all()) == 2


async def test_two_alerts_never_share_an_incident(inbox):
    one = kept(0)
    other = kept(1).model_copy(update={"key": one.key[:8] + kept(1).key[8:]})
    await inbox.accept([one, other], 1.0)
    names = [r.incident for r in await inbox.all()]
    assert names == [one.key[:8], other.key[8:16]]
