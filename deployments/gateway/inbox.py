"""The inbox: what was accepted survives a kill -9, and is worked exactly once.

SQLite in the product home. An answer of 202 means that its transaction is on the disk
(`synchronous=FULL`). One thread owns the connection, so that the event loop never waits for a
disk; one process owns the file, by a lock that the kernel frees with it.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from blocks.errors import Permanent, Transient
from deployments.gateway.alert_models import Received
from deployments.gateway.inbox_rows import JSON, Row, keep, prepare, row
from flows.decisions.alert_routing import Start

KEEP_S = 7 * 86_400.0
KEEP_ROWS = 100_000
MOST_PENDING = 20_000
"""More that wait are refused (503): Alertmanager keeps them and sends them again."""
STALE_S = 86_400.0
"""What a storm dropped and nobody sent again for so long is not taken up by itself."""
UNRESOLVED = (
    "NOT EXISTS (SELECT 1 FROM alerts AS r WHERE r.key = alerts.key AND r.kind = 'resolved')"
)
T = TypeVar("T")


class Inbox:
    """Alerts that were accepted, in their order."""

    def __init__(self, file: Path) -> None:
        """Open it.

        Raises:
            Permanent: another gateway has it open, or its folder cannot be written.
        """
        self.file = file
        self.arrived = asyncio.Event()
        """Set when something was accepted."""
        self._thread = ThreadPoolExecutor(1, "inbox")
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError as e:
            raise Permanent(f"{file} belongs to another gateway that runs; stop it first") from e
        except OSError as e:
            raise Permanent(f"{file}: cannot be written ({e.strerror}); mend its folder") from e
        try:
            self._db = self._thread.submit(self._open).result()
        except sqlite3.DatabaseError as e:
            raise Permanent(f"{file} is no inbox ({e}); move it away, and start again") from e

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=10, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA journal_size_limit=16777216")
        prepare(db)
        return db

    async def close(self) -> None:
        """Close it; another may open it then."""
        await self._do(self._db.close)
        self._thread.shutdown()
        os.close(self._lock)

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        """Do it in the inbox's own thread.

        Raises:
            Transient: the disk is full, or the file cannot be written.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except sqlite3.DatabaseError as e:
            raise Transient(f"{self.file} cannot be written ({e}); is the disk full?") from e

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            done = work(self._db)
            self._db.execute("COMMIT")
            return done
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    async def accept(self, alerts: Sequence[Received], now: float) -> tuple[int, int]:
        """Keep the alerts of one notification, all or none: how many are new, and how many not.

        Raises:
            Transient: they could not be written, or too many wait already.
        """

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            waiting = db.execute("SELECT count(*) FROM alerts WHERE outcome = ''").fetchone()[0]
            if waiting + len(alerts) > MOST_PENDING:
                raise Transient(f"{waiting} alerts wait already; is the Prefect server up?")
            new = sum(keep(db, alert, now) for alert in alerts)
            return new, len(alerts) - new

        done: tuple[int, int] = await self._do(self._write, work)
        if done[0]:
            self.arrived.set()
        return done

    async def oldest(self, now: float | None = None) -> Row | None:
        """The next to be worked; one that kept failing lets the others go first."""
        where = "outcome = '' AND later_at <= ? ORDER BY later_at > 0, id LIMIT 1"
        found = await self._rows(where, time.time() if now is None else now)
        return found[0] if found else None

    async def update(self, row: Row, **values: Any) -> Row:
        """Write some of its fields; the row as it is then."""
        changed = row.model_copy(update=values)
        stored = {k: json.dumps(v) if k in JSON else v for k, v in values.items()}
        # Names are fields of ours, never input.
        sql = f"UPDATE alerts SET {', '.join(f'{k} = ?' for k in stored)} WHERE id = ?"  # noqa: S608
        await self._do(self._write, lambda db: db.execute(sql, (*stored.values(), row.id)))
        return changed

    async def history(self, stack: str, since: float) -> list[Start]:
        """Runs that were decided upon since then, on one stack."""
        sql = (
            "SELECT service, decided_at FROM alerts WHERE stack = ? AND decided_at > ? "
            "UNION ALL SELECT service, at FROM earlier WHERE stack = ? AND at > ?"
        )
        values = (stack, since, stack, since)
        found = await self._do(lambda: self._db.execute(sql, values).fetchall())
        return [Start(service=s, at=at) for s, at in found]

    async def firing(self, key: str) -> Row | None:
        """The alert with this key, as it fired."""
        found = await self._rows("key = ? AND kind = 'firing'", key)
        return found[0] if found else None

    async def is_resolved(self, key: str) -> bool:
        """Whether Alertmanager has said that this alert is over."""
        return bool(await self._rows("key = ? AND kind = 'resolved'", key))

    async def still_firing(self, member: str) -> int:
        """Alerts of an incident that have not been resolved (count)."""
        return len(await self._rows(f"member = ? AND kind = 'firing' AND {UNRESOLVED}", member))

    async def dropped_again(self, now: float) -> int:
        """Let those wait again that a storm dropped and that still fire after it (count)."""
        sql = (
            "UPDATE alerts SET outcome = '', reason = '', again_at = NULL, received_at = ? "  # noqa: S608 - ours
            f"WHERE outcome = 'dropped' AND again_at <= ? AND seen_at > ? AND {UNRESOLVED}"
        )
        values = (now, now, now - STALE_S)
        return await self._do(self._write, lambda db: int(db.execute(sql, values).rowcount))

    async def to_look_at(self, started_by: float, looked_by: float, limit: int = 50) -> list[Row]:
        """Alerts that still fire though a run was started for them, the longest unseen first.

        Args:
            started_by: only what was started before, seconds since the epoch.
            looked_by: only what was not looked at since.
            limit: count.
        """
        where = (
            "kind = 'firing' AND settled = 0 AND outcome IN ('started', 'joined') "
            f"AND looked_at <= ? AND done_at <= ? AND {UNRESOLVED} ORDER BY id LIMIT ?"
        )
        return await self._rows(where, looked_by, started_by, limit)

    async def start_again(self, row: Row, now: float) -> None:
        """Decide, in one step, that its run is started once more; both starts count."""

        def work(db: sqlite3.Connection) -> None:
            if row.decided_at is not None:  # one that joined has started nothing yet
                values = (row.stack, row.service, row.decided_at)
                db.execute("INSERT INTO earlier VALUES (?, ?, ?)", values)
            db.execute(
                "UPDATE alerts SET outcome = '', reason = '', run_id = '', tries = tries + 1, "
                "decided_at = ?, received_at = ? WHERE id = ?",
                (now, now, row.id),
            )

        await self._do(self._write, work)
        self.arrived.set()

    async def settle(self, member: str) -> None:
        """No run of this incident is looked at any more."""
        sql = "UPDATE alerts SET settled = 1 WHERE member = ? AND kind = 'firing'"
        await self._do(self._write, lambda db: db.execute(sql, (member,)))

    async def first(self, key: str, now: float, keep_s: float, most: int) -> bool:
        """Whether a key is new, for ever so many gateways; from now on it is not.

        Raises:
            OverflowError: there is no room, so nothing is known of it.
            Transient: it could not be written.
        """

        def work(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM seen WHERE at <= ?", (now - keep_s,))
            if db.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchone():
                return False
            if db.execute("SELECT count(*) FROM seen").fetchone()[0] >= most:
                raise OverflowError(f"more than {most} in {keep_s:.0f} s")
            db.execute("INSERT INTO seen VALUES (?, ?)", (key, now))
            return True

        return await self._do(self._write, work)

    async def started(self, member: str) -> bool:
        """Whether an alert of an incident has started a run."""
        return bool(await self._rows("member = ? AND outcome = 'started' LIMIT 1", member))

    async def to_tell(self, limit: int = 200) -> list[Row]:
        """Rows that people are to be told of, oldest first."""
        return await self._rows("tell = 1 ORDER BY id LIMIT ?", limit)

    async def of_card(self, card: str, limit: int) -> tuple[list[Row], int]:
        """The rows that one Slack message speaks of: the first ones, and how many there are."""
        rows = await self._rows("card = ? ORDER BY id LIMIT ?", card, limit)
        sql = "SELECT count(*) FROM alerts WHERE card = ?"
        return rows, int(await self._do(lambda: self._db.execute(sql, (card,)).fetchone()[0]))

    async def told(self, ids: Sequence[int]) -> None:
        """Note that people were told, or cannot be."""
        marks = ",".join("?" * len(ids))
        sql = f"UPDATE alerts SET tell = 0 WHERE id IN ({marks})"  # noqa: S608 - question marks
        await self._do(self._write, lambda db: db.execute(sql, tuple(ids)))

    async def all(self) -> list[Row]:
        """Every row, oldest first."""
        return await self._rows("1 ORDER BY id")

    async def pending(self) -> int:
        """Alerts that wait (count)."""
        sql = "SELECT count(*) FROM alerts WHERE outcome = ''"
        return int(await self._do(lambda: self._db.execute(sql).fetchone()[0]))

    async def prove(self) -> None:
        """Write something.

        Raises:
            Transient: it cannot be written.
        """
        sql = "INSERT INTO beat VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
        await self._do(self._write, lambda db: db.execute(sql, (time.time(),)))

    async def forget(self, now: float, keep_s: float = KEEP_S, keep_rows: int = KEEP_ROWS) -> int:
        """Drop what is done with and was not sent again for a week, and what is too much."""

        def work(db: sqlite3.Connection) -> int:
            done = "outcome != '' AND tell = 0"
            db.execute("DELETE FROM earlier WHERE at < ?", (now - keep_s,))
            old = db.execute(
                f"DELETE FROM alerts WHERE {done} AND seen_at < ?",  # noqa: S608 - ours
                (now - keep_s,),
            ).rowcount
            over = db.execute("SELECT count(*) FROM alerts").fetchone()[0] - keep_rows
            if over > 0:
                sql = f"SELECT id FROM alerts WHERE {done} ORDER BY seen_at LIMIT ?"  # noqa: S608
                old += db.execute(f"DELETE FROM alerts WHERE id IN ({sql})", (over,)).rowcount  # noqa: S608
            return old

        return await self._do(self._write, work)

    async def _rows(self, where: str, *values: Any) -> list[Row]:
        sql = f"SELECT * FROM alerts WHERE {where}"  # noqa: S608 - conditions are ours
        return [row(r) for r in await self._do(lambda: self._db.execute(sql, values).fetchall())]
