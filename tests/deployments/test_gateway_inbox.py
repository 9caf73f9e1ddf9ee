"""The inbox: what it keeps, what it forgets, and that only one process has it."""

import asyncio
import json
import os
import re
import sqlite3
import time

import pytest

from blocks.errors import Permanent, Transient
from deployments.gateway import inbox as inboxes
from deployments.gateway.alert_models import WireAlert, received
from deployments.gateway.inbox import Inbox
from deployments.gateway.inbox_rows import LATER, TABLE
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


async def test_inbox_of_an_older_version_is_opened(tmp_path):
    old = re.sub(r",\s+tries.*?later_at REAL NOT NULL DEFAULT 0", "", TABLE, flags=re.DOTALL)
    assert not [name for name in LATER if name in old]
    db = sqlite3.connect(tmp_path / "inbox.db")
    db.executescript(old)
    names = "key, kind, stack, incident, fingerprint, starts_at, name, summary, url, labels"
    marks = "'k', 'firing', 's', 'abcdef01', 'f', 't', 'n', 's', 'u', '{}'"
    db.execute(f"INSERT INTO alerts ({names}, received_at, seen_at) VALUES ({marks}, 1, 1)")
    db.commit()
    db.close()
    one = Inbox(tmp_path / "inbox.db")
    (row,) = await one.all()
    # Nobody is called for what was started by a version that did not look.
    assert (row.tries, row.settled, row.later_at) == (1, 1, 0)
    await one.accept([kept()], 2.0)
    await one.close()
    one = Inbox(tmp_path / "inbox.db")
    assert [r.settled for r in await one.all()] == [1, 0]
    await one.close()


async def test_what_was_seen_is_remembered_for_a_while(inbox):
    assert await inbox.first("a", 1000.0, 600, 2)
    assert not await inbox.first("a", 1599.0, 600, 2)
    assert await inbox.first("b", 1599.0, 600, 2)
    with pytest.raises(OverflowError):
        await inbox.first("c", 1599.0, 600, 2)
    assert await inbox.first("a", 1600.0, 600, 2)


async def test_one_that_kept_failing_lets_the_others_go_first(inbox):
    await inbox.accept([kept(0), kept(1)], 1.0)
    first, second = await inbox.all()
    await inbox.update(first, later_at=100.0)
    assert (await inbox.oldest(50.0)).id == second.id
    assert (await inbox.oldest(200.0)).id == second.id
    await inbox.update(second, outcome="failed")
    assert await inbox.oldest(50.0) is None
    assert (await inbox.oldest(200.0)).id == first.id


async def test_only_what_a_storm_dropped_and_still_fires_waits_again(inbox):
    await inbox.accept([kept(n) for n in range(4)] + [kept(1, "resolved")], 1000.0)
    for row in await inbox.all():
        outcome = "too-old" if row.id == 3 else "dropped"
        await inbox.update(row, outcome=outcome, again_at=9000.0 if row.id == 4 else 1500.0)
    assert await inbox.dropped_again(1499.0) == 0
    assert await inbox.dropped_again(1500.0) == 1
    assert [r.id for r in await inbox.all() if not r.outcome] == [1]
