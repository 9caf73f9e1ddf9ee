"""Records of the audit trail as jsonl, CSV or markdown."""

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from blocks.audit_chain import OURS, canonical
from flows.decisions.plan import shown

Record = dict[str, Any]
COLUMNS = (
    "at",
    "kind",
    "procedure",
    "stack",
    "service",
    "verdict",
    "state",
    "actor",
    "source",
    "approver",
    "approvals",
    "change",
    "digest",
    "diagnosis",
    "alert",
    "incident",
    "message",
    "evidence_sha256",
    "run",
    "seq",
    "hash",
)
_IN_MD = ("at", "kind", "what", "verdict", "who", "change", "why", "run")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""A cell that begins so is calculated by spreadsheets (OWASP: CSV injection)."""


def write(file: TextIO, records: Iterable[Record], since: datetime, form: str) -> int:
    """Write what happened since then; how many records. One at a time: any number fits.

    Args:
        file: to write to.
        records: of the trail, in its order.
        since: a run counts by its end, anything else by when it was written down.
        form: `jsonl`, `csv` or `md`.
    """
    count = 0

    def chosen() -> Iterator[Record]:
        nonlocal count
        for record in records:
            if _at(record) >= since:
                count += 1
                yield record

    {"jsonl": _jsonl, "csv": _csv, "md": _md}[form](file, chosen())
    return count


def _at(record: Record) -> datetime:
    try:
        found = datetime.fromisoformat(str(record.get("ended") or record["at"]))
    except (ValueError, KeyError):
        return datetime.max.replace(tzinfo=UTC)  # shown rather than hidden
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _jsonl(file: TextIO, records: Iterator[Record]) -> None:
    for record in records:
        file.write(canonical(record).decode() + "\n")


def _csv(file: TextIO, records: Iterator[Record]) -> None:
    table = csv.writer(file, lineterminator="\r\n")
    table.writerow(COLUMNS)
    for record in records:
        found = row(record)
        table.writerow([safe(found[name]) for name in COLUMNS])


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return f"'{text}" if text.lstrip(" '\"").startswith(_FORMULA) or text[:1] in _FORMULA else text


def _md(file: TextIO, records: Iterator[Record]) -> None:
    file.write("# Audit trail\n\n")
    file.write(f"| {' | '.join(_IN_MD)} |\n{'|---' * len(_IN_MD)}|\n")
    for record in records:
        one = row(record)
        what = "/".join(filter(None, (one["stack"], one["service"])))
        who = one["actor"] + (f", from {one['source']}" if one["source"] else "")
        who += f"; approved by {one['approver']}" if one["approver"] else ""
        why = ", ".join(filter(None, (one["diagnosis"], one["alert"], one["incident"])))
        cells = {
            "at": one["at"][:19].replace("T", " "),
            "kind": one["kind"],
            "what": f"{one['procedure']} {what}".strip(),
            "verdict": one["verdict"] or one["message"],
            "who": who,
            "change": one["change"],
            "why": why,
            "run": one["run"][:8],
        }
        file.write(f"| {' | '.join(_cell(cells[name]) for name in _IN_MD)} |\n")


def _cell(text: str) -> str:
    """No mark-up, no second row: what a record says is only text."""
    text = " ".join(text.split())[:300]
    return "".join(f"\\{c}" if c in "\\|`*_[]<>#!~" else c for c in text)


def row(record: Record) -> dict[str, str]:
    """The record by columns; of a kind that has none of them, all it says is in `message`."""
    who, why = _dict(record.get("who")), _dict(record.get("why"))
    told = [r for r in record.get("reports") or [] if isinstance(r, dict)]
    plans = _plans(told)
    own: dict[str, Any] = {
        **{name: record.get(name, "") for name in COLUMNS},
        "at": record.get("ended") or record.get("at"),
    }
    if record.get("kind") == "run":
        own |= {
            "stack": ", ".join(map(str, record.get("stacks") or [])),
            "service": ", ".join(map(str, record.get("services") or [])),
            "state": _dict(record.get("state")).get("name", ""),
            **{name: who.get(name, "") for name in ("actor", "source", "approver")},
            "approvals": "; ".join(map(str, record.get("approvals") or [])),
            "change": "; ".join(filter(None, map(_change, plans))),
            "digest": ", ".join(dict.fromkeys(str(p.get("digest", "")) for p in plans)),
            "diagnosis": why.get("diagnosis", ""),
            "alert": _dict(why.get("alert")).get("name", ""),
            "incident": why.get("incident", ""),
            "evidence_sha256": why.get("evidence_sha256", ""),
            "message": " / ".join(str(r.get("message", "")) for r in told),
        }
    elif not record.get("message"):
        rest = {k: v for k, v in record.items() if k not in OURS and k not in COLUMNS}
        own["message"] = json.dumps(rest, sort_keys=True) if rest else ""
    return {name: _text(own[name]) for name in COLUMNS}


def _plans(reports: list[Record]) -> list[Record]:
    """What was carried out; where nothing was, what was planned."""
    done = [a for r in reports for a in r.get("attempts") or [] if isinstance(a, dict)]
    return [p for x in done or reports if isinstance(p := x.get("plan"), dict)]


def _change(plan: Record) -> str:
    if plan.get("how", "apply") != "apply":
        return str(plan["how"])
    pairs = _dict(plan.get("changes")).items()
    return ", ".join(f"{k} {shown(v[0])} -> {shown(v[1])}" for k, v in pairs if len(v) == 2)


def _dict(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
