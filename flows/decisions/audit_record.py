"""What the audit trail says of one run: who, what, why, when, and what came of it. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from blocks.audit_models import Data, EndedRun
from blocks.models import Frozen
from flows.decisions.plan import Plan

LONGEST = 1000
"""Characters of one text."""
CUT = 200
"""Characters of one text where the whole record did not fit."""
MOST = 40
"""Of one run: its first reports, its last states, its last approvals; the others are counted."""
_SAID_OF_APPROVAL = re.compile(r"an answer of .* did not count: |\S+ was approved by ", re.DOTALL)
"""Notes of a report, as flows/approval.py writes them."""


def record_of(run: EndedRun, alert: dict[str, str] | None = None) -> dict[str, Any]:
    """The record of one run; what it did not report is `unknown`, never left to be guessed.

    Args:
        run: what Prefect keeps of it.
        alert: of the incident that it belongs to.
    """
    reports = [_report(d) for d in run.data if isinstance(d.data, dict)]
    last = run.states[-1]
    options = _dict(run.parameters.get("options"))
    told = reports[-1] if reports else {}
    by_tag = _tagged(run.tags)
    stacks = by_tag.get("stack") or _names(run.parameters.get("stack"))
    approvals = _approvals(run)
    return {
        "run": run.id,
        "name": run.name,
        "procedure": run.procedure,
        "stacks": stacks,
        "services": by_tag.get("service") or _names(run.parameters.get("service")),
        "who": {
            "actor": _first(told.get("actor"), by_tag.get("actor"), options.get("actor")),
            "source": _first(told.get("source"), by_tag.get("source"), options.get("source")),
            "approver": str(told.get("approver") or ""),
        },
        "asked": _asked(run.parameters),
        "reports": reports[:MOST],
        "reports_left_out": max(0, len(reports) - MOST),
        "approvals": approvals[-MOST:],
        "approvals_left_out": max(0, len(approvals) - MOST),
        "why": {
            "incident": run.incident,
            "alert": {str(k): _short(v) for k, v in (alert or {}).items()},
            "diagnosis": str(told.get("diagnosis") or ""),
            "evidence_sha256": str(told.get("evidence_sha256") or ""),
        },
        "created": _iso(run.created) if run.created else None,
        "started": _iso(run.started) if run.started else None,
        "ended": _iso(run.ended),
        "states": [
            {"type": s.type, "name": s.name, "at": _iso(s.at), "message": _short(s.message)}
            for s in run.states[-MOST:]
        ],
        "states_left_out": max(0, len(run.states) - MOST),
        "verdict": worst([str(r["verdict"]) for r in reports]),
        "state": {"id": last.id, "type": last.type, "name": last.name},
        "links": {"run": f"/runs/flow-run/{run.id}", "artifacts": [d.id for d in run.data][:MOST]},
    }


def bare(run: EndedRun, why: str) -> dict[str, Any]:
    """The record of a run whose data cannot be read or written: it must not hold up others.

    What anybody may make as long as they like (name, tags, states) is cut, so that it always fits.
    """
    known = [t for t in run.tags if t.partition(":")[0] in ("actor", "service", "source", "stack")]
    cut = {
        "name": _short(run.name, CUT),
        "procedure": _short(run.procedure, CUT),
        "tags": tuple(_short(t, CUT) for t in known[:MOST]),
        "states": tuple(
            s.model_copy(update={"name": _short(s.name, CUT), "message": _short(s.message, CUT)})
            for s in run.states
        ),
    }
    record = record_of(run.model_copy(update={**cut, "data": (), "parameters": {}}))
    links = {**record["links"], "artifacts": [d.id for d in run.data][:MOST]}
    said = f"{_short(why)}; its reports and parameters are left out, its name and tags are cut"
    return {**record, "asked": "", "links": links, "note": said}


VERDICTS = ("passed", "planned", "blocked", "inconclusive", "failed", "error", "unknown")
"""The best first; `unknown`: the run did not say."""


def worst(verdicts: Iterable[str]) -> str:
    """Of several; of none, and of a word that is no verdict, `unknown`."""
    found = [v if v in VERDICTS else "unknown" for v in verdicts]
    return max(found, key=VERDICTS.index, default="unknown")


class Known:
    """The runs that the trail has, as far back as it matters: its memory stays small.

    A run that was taken up again after its end has another last state: it is another record.
    """

    def __init__(self, since: str, window: "Window") -> None:
        self.since, self.window = since, window
        self.newest, self._ends = "", dict[str, str]()
        self._prune_at = 4096

    def add(self, record: dict[str, Any]) -> None:
        """Take note of a record of the trail; of another kind than `run` nothing is noted."""
        if record.get("kind") != "run":
            return
        ended = str(record.get("ended"))
        self.newest = max(self.newest, ended)
        self._ends[key_of(record)] = ended
        if len(self._ends) > self._prune_at:
            begin = self.begin()
            self._ends = {k: e for k, e in self._ends.items() if e >= begin}
            self._prune_at = 2 * len(self._ends) + 4096

    def begin(self) -> str:
        """From when on runs are read: the window before the newest; `since` only reaches further.

        Where it began later, what ended in between would never be read again. Empty: the first.
        """
        catch_up = self.window.before(self.newest)
        return min(self.since or catch_up, catch_up)

    def has(self, record: dict[str, Any]) -> bool:
        """Whether the trail has this end of this run."""
        return key_of(record) in self._ends


class Window(Frozen):
    """How far before the newest record runs are looked at again: one may have been missed."""

    days: int = 2

    def before(self, newest: str) -> str:
        """An ISO time; empty for none."""
        if not newest:
            return ""
        return (datetime.fromisoformat(newest) - timedelta(days=self.days)).isoformat()


def key_of(record: dict[str, Any]) -> str:
    """One end of one run."""
    return f"{record.get('run')}/{_dict(record.get('state')).get('id')}"


# ---- the parts ----------------------------------------------------------------------------------


def _report(found: Data) -> dict[str, Any]:
    data = found.data
    diagnosis = _dict(data.get("diagnosis"))
    evidence = diagnosis.get("evidence") or data.get("findings") or []
    return {
        "artifact": found.id,
        "data_sha256": _sha256(data),
        "procedure": str(data.get("procedure") or ""),
        "stack": str(data.get("stack") or ""),
        "service": str(data.get("service") or data.get("host") or ""),
        "actor": str(data.get("actor") or ""),
        "source": str(data.get("source") or ""),
        "approver": str(data.get("approver") or ""),
        "incident": str(data.get("incident") or ""),
        "verdict": str(data.get("verdict") or "unknown"),
        "blocked_by": str(data.get("blocked_by") or ""),
        "message": _short(data.get("message")),
        "seen": _short(data.get("seen")),
        "diagnosis": str(diagnosis.get("label") or ""),
        "evidence_sha256": _sha256(evidence) if evidence else "",
        "plan": _plan(data.get("plan")),
        "attempts": [_attempt(_dict(a)) for a in _list(data.get("attempts"))[:MOST]],
    }


def _approvals(run: EndedRun) -> list[str]:
    """Who approved a plan, and whose answer did not count and why."""
    told = [_list(d.data.get("notes")) for d in run.data if isinstance(d.data, dict)]
    return [
        _short(note)
        for notes in told
        for note in notes
        if isinstance(note, str) and _SAID_OF_APPROVAL.match(note)
    ]


def _plan(data: Any) -> dict[str, Any] | None:
    """Before and after of what changes, and the digest that was approved."""
    try:
        plan = Plan.model_validate(data)
    except ValidationError:
        return {"unreadable": _sha256(data)} if data else None
    changes = {k: [before, after] for k, (before, after) in plan.changes.items()}
    return {
        "digest": plan.digest,
        "how": plan.how,
        "service": plan.service,
        "changes": changes,
        "reason": _short(plan.reason),
    }


def _attempt(data: dict[str, Any]) -> dict[str, Any]:
    checked = _dict(data.get("verification"))
    return {
        "plan": _plan(data.get("plan")),
        "kept": bool(data.get("kept")),
        "outcome": str(checked.get("outcome") or ""),
        "undo": _short(data.get("undo")),
    }


def _iso(at: datetime) -> str:
    """In UTC: as text they sort as they are in time."""
    return at.astimezone(UTC).isoformat()


def _asked(parameters: dict[str, Any]) -> str:
    """What was asked for, as JSON; the digest of it where that is long."""
    rest = {k: v for k, v in parameters.items() if k not in ("stack", "service", "options")}
    text = _json(rest) if rest else ""
    return text if len(text) <= LONGEST else f"sha256:{_sha256(rest)}"


def _tagged(tags: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for tag in tags:
        name, _, value = tag.partition(":")
        if value:
            found.setdefault(name, []).append(value)
    return found


def _first(*values: Any) -> str:
    for value in values:
        one = value[0] if isinstance(value, list) and value else value
        if one:
            return _short(one)
    return "unknown"


def _names(value: Any) -> list[str]:
    return [_short(value)] if value else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any, longest: int = LONGEST) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _sha256(value: Any) -> str:
    """Of the canonical JSON: whoever has the artifact can compare."""
    return hashlib.sha256(_json(value).encode()).hexdigest()
