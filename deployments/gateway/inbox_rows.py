"""One row of the inbox, and the table that holds it."""

import json
import sqlite3
from typing import Any, Literal

from blocks.alert_routes import Severity
from blocks.errors import Transient
from blocks.models import Frozen
from deployments.gateway.alert_models import Received

Outcome = Literal[
    "started", "joined", "dropped", "unrouted", "too-old", "failed", "resolved", "nothing-open"
]
"""What became of an alert: a run was started; it joined an incident whose run is under way; the
storm rule dropped it; no route or no such procedure (people were told); it could not be started
within the hour; it could not be worked; it ended an incident, or there was none to end."""

TABLE = """
CREATE TABLE IF NOT EXISTS alerts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL, kind TEXT NOT NULL, stack TEXT NOT NULL, incident TEXT NOT NULL,
  fingerprint TEXT NOT NULL, starts_at TEXT NOT NULL,
  name TEXT NOT NULL, summary TEXT NOT NULL, url TEXT NOT NULL, labels TEXT NOT NULL,
  received_at REAL NOT NULL, seen_at REAL NOT NULL,
  service TEXT NOT NULL DEFAULT '', severity TEXT NOT NULL DEFAULT 'P3',
  procedure TEXT NOT NULL DEFAULT '', parameters TEXT NOT NULL DEFAULT '{}',
  member TEXT NOT NULL DEFAULT '', decided_at REAL,
  outcome TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
  run_id TEXT NOT NULL DEFAULT '', done_at REAL, again_at REAL,
  card TEXT NOT NULL DEFAULT '', tell INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 1, looked_at REAL NOT NULL DEFAULT 0,
  settled INTEGER NOT NULL DEFAULT 0, later_at REAL NOT NULL DEFAULT 0,
  UNIQUE (key, kind)
);
CREATE INDEX IF NOT EXISTS alerts_pending ON alerts (id) WHERE outcome = '';
CREATE INDEX IF NOT EXISTS alerts_to_tell ON alerts (id) WHERE tell = 1;
CREATE INDEX IF NOT EXISTS alerts_decided ON alerts (stack, decided_at);
CREATE INDEX IF NOT EXISTS alerts_incident ON alerts (incident);
CREATE INDEX IF NOT EXISTS alerts_member ON alerts (member);
CREATE INDEX IF NOT EXISTS alerts_card ON alerts (card);
CREATE INDEX IF NOT EXISTS alerts_seen ON alerts (seen_at) WHERE outcome != '';
CREATE TABLE IF NOT EXISTS beat (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS earlier (stack TEXT NOT NULL, service TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS earlier_at ON earlier (stack, at);
CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS seen_at ON seen (at);
"""
"""`earlier`: starts of alerts that were started once more since; `seen`: signatures of Slack's."""
LATER = {
    "tries": "INTEGER NOT NULL DEFAULT 1",
    "looked_at": "REAL NOT NULL DEFAULT 0",
    "settled": "INTEGER NOT NULL DEFAULT 0",
    "later_at": "REAL NOT NULL DEFAULT 0",
}
"""Columns that an inbox of an older version has not."""
INDEXES = """
CREATE INDEX IF NOT EXISTS alerts_open ON alerts (looked_at)
  WHERE kind = 'firing' AND settled = 0 AND outcome IN ('started', 'joined');
CREATE INDEX IF NOT EXISTS alerts_dropped ON alerts (again_at) WHERE outcome = 'dropped';
"""


class Row(Frozen):
    """One alert in the inbox. Times are seconds since the epoch."""

    id: int
    key: str
    kind: Literal["firing", "resolved"]
    stack: str
    incident: str
    """The id that it opens an incident with."""
    fingerprint: str
    starts_at: str
    name: str
    summary: str
    url: str
    labels: dict[str, str]
    received_at: float
    seen_at: float
    """When Alertmanager sent it last."""
    service: str
    severity: Severity
    procedure: str
    parameters: dict[str, Any]
    """Further ones, from the route."""
    member: str
    """The incident that it belongs to; empty before that is known, and where there is none."""
    decided_at: float | None
    """When a run was decided upon: from then on it is only ever carried out."""
    outcome: Outcome | Literal[""]
    """Empty: it waits."""
    reason: str
    run_id: str
    done_at: float | None
    again_at: float | None
    """From then on a repeated notification makes it wait again; None: never."""
    card: str
    """Key of the Slack message that speaks of it."""
    tell: int
    """1: people are still to be told."""
    tries: int
    """How often its run was started (count)."""
    looked_at: float
    """When it was last looked at whether its run lives."""
    settled: int
    """1: its run is not looked at any more: it healed, or people were called."""
    later_at: float
    """Until then the others are worked first: it kept failing."""


JSON = ("labels", "parameters")


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables, or add what an older version's have not."""
    db.executescript(TABLE)
    there = {column["name"] for column in db.execute("PRAGMA table_info(alerts)")}
    for name, kind in LATER.items():
        if name not in there:
            db.execute(f"ALTER TABLE alerts ADD COLUMN {name} {kind}")
    if "settled" not in there:  # nobody is called for what an older version started
        db.execute("UPDATE alerts SET settled = 1")
    db.executescript(INDEXES)


def row(found: sqlite3.Row) -> Row:
    """A row as it was read."""
    values = dict(found)
    return Row.model_validate(values | {k: json.loads(values[k]) for k in JSON})


def keep(db: sqlite3.Connection, alert: Received, now: float) -> bool:
    """Keep one alert; False when it is there already.

    Raises:
        Transient: no name is left for its incident.
    """
    there = db.execute(
        "SELECT id, outcome, again_at FROM alerts WHERE key = ? AND kind = ?",
        (alert.key, alert.kind),
    ).fetchone()
    if there is None:
        values = {
            **alert.model_dump(),
            "labels": json.dumps(alert.labels),
            "incident": _incident(db, alert.key),
            "received_at": now,
            "seen_at": now,
        }
        names, marks = ", ".join(values), ", ".join(f":{k}" for k in values)
        db.execute(f"INSERT INTO alerts ({names}) VALUES ({marks})", values)  # noqa: S608
        return True
    if there["outcome"] and there["again_at"] is not None and now >= there["again_at"]:
        db.execute(
            "UPDATE alerts SET outcome = '', reason = '', again_at = NULL, received_at = ?, "
            "seen_at = ? WHERE id = ?",
            (now, now, there["id"]),
        )
        return True
    # Sent again it fires still: whether its run lives is looked at now, not in a minute.
    db.execute("UPDATE alerts SET seen_at = ?, looked_at = 0 WHERE id = ?", (now, there["id"]))
    return False


def _incident(db: sqlite3.Connection, key: str) -> str:
    """The first eight digits of the key; the next eight where another alert has these."""
    for at in range(0, len(key) - 7, 8):
        name = key[at : at + 8]
        sql = "SELECT 1 FROM alerts WHERE incident = ? AND key != ?"
        if db.execute(sql, (name, key)).fetchone() is None:
            return name
    raise Transient("eight incidents of one name: this cannot be")
