"""One row of the inbox, and the table that holds it."""

import json
import sqlite3
from typing import Any, Literal

from blocks.alert_routes import Severity
from blocks.models import Frozen

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


JSON = ("labels", "parameters")


def row(found: sqlite3.Row) -> Row:
    """A row as it was read."""
    values = dict(found)
    return Row.model_validate(values | {k: json.loads(values[k]) for k in JSON})
