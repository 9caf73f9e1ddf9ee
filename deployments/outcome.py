"""What came of a scenario's steps, read from where it stands: inbox, server, Slack, audit trail."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun

from blocks.audit_chain import day_files
from blocks.audit_log import AuditLog
from blocks.incidents import read_incident
from blocks.stack import StackSpec
from deployments.gateway.inbox_rows import Row, row
from deployments.gateway.state import inbox_file
from deployments.sandbox.slack_server import SlackServer
from deployments.scenario_steps import SLACK_IDS, Came
from deployments.scenarios import Expectation, decodes
from flows.report import Report


async def rows_of(stack: str) -> list[Row]:
    """What the gateway's inbox says of the alerts of a stack, the oldest first."""
    return await asyncio.to_thread(_rows, stack)


def _rows(stack: str) -> list[Row]:
    file = inbox_file()
    if not file.exists():
        return []
    db = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        db.row_factory = sqlite3.Row
        sql = "SELECT * FROM alerts WHERE stack = ? ORDER BY id"
        return [row(r) for r in db.execute(sql, (stack,))]
    finally:
        db.close()


async def runs_of(stack: str) -> list[FlowRun]:
    """Every run that was started for a stack, the oldest first (the first 200)."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"stack:{stack}"]))
    async with get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=wanted, limit=200)
    return sorted(found, key=lambda run: str(run.created))


async def report_of(run: FlowRun) -> Report | None:
    """The record of a run as it was published; None when it is not there."""
    procedure = next((t.partition(":")[2] for t in run.tags if t.startswith("procedure:")), "")
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]),
                key=ArtifactFilterKey(any_=[f"{procedure}-data"]),
            )
        )
    data = found[0].data if found else None
    if data is None:
        return None
    return Report.model_validate_json(data if isinstance(data, str) else json.dumps(data))


class Outcome:
    """What is compared with the expectation; `report` is that of the last run."""

    def __init__(
        self, spec: StackSpec, slack: SlackServer, duplicates: int, before: Mapping[str, Any]
    ) -> None:
        """Of one play; `before` are the numbers of the server's file as people left them."""
        self.spec, self.slack, self.duplicates, self.before = spec, slack, duplicates, before
        self.report: Report | None = None

    async def problems(self, expect: Expectation, now: Mapping[str, Any]) -> list[str]:
        """Everything that is otherwise than expected at this moment, a line each.

        Args:
            expect: what was expected.
            now: the numbers of the server's file.
        """
        runs = await runs_of(self.spec.name)
        self.report = report = await report_of(runs[-1]) if runs else None
        names = {**self.before, **now}
        changes = {k.replace("-", "_"): (self.before.get(k), now.get(k)) for k in names}
        found = report.diagnosis.label if report and report.diagnosis else None
        pairs: list[tuple[str, Any, Any]] = [
            ("diagnosis", expect.diagnosis, found),
            ("verdict", expect.verdict, report.verdict if report else None),
            ("blocked by", expect.blocked_by, report.blocked_by if report else None),
            ("acts", expect.acts, len(report.attempts) if report else 0),
            ("changes", expect.changes, {k: v for k, v in changes.items() if v[0] != v[1]}),
            ("decoding at the end", expect.decoding, await decodes(self.spec, report)),
            ("runs", expect.came.runs, len(runs)),
            *await self._came(expect.came),
        ]
        wrong = [f"{what}: expected {want}, got {got}" for what, want, got in pairs if want != got]
        return wrong + self._missing(expect, report)

    async def _came(self, came: Came) -> list[tuple[str, Any, Any]]:
        rows = await rows_of(self.spec.name)
        members = {r.member for r in rows if r.member}
        users = {m.user for m in self.slack.ephemerals}
        approver = self.report.approver if self.report else ""
        allowed = [f"{name}, from slack" for name in came.approver] or [""]
        return [
            ("alerts", came.alerts, dict(Counter(r.outcome for r in rows))),
            ("duplicates", came.duplicates, self.duplicates),
            ("incident", came.incident, await _incident(members)),
            ("cards", came.cards, sum(not m.thread_ts for m in self.slack.messages())),
            ("answered", set(came.answered), {n for n, u in SLACK_IDS.items() if u in users}),
            ("refused", came.refused, await asyncio.to_thread(_refused, self.spec.name)),
            ("approver", approver if approver in allowed else allowed, approver),
        ]

    def _missing(self, expect: Expectation, report: Report | None) -> list[str]:
        """Words that stand nowhere."""
        told = "\n".join(m.words for m in self.slack.messages())
        said: list[tuple[str, tuple[str, ...], str]] = [
            ("message", (expect.message,), report.message if report else ""),
            ("told", expect.came.told, told),
            ("notes", expect.came.notes, "\n".join(report.notes) if report else ""),
        ]
        for name, words in expect.came.answered.items():
            mine = [m.words for m in self.slack.ephemerals if m.user == SLACK_IDS[name]]
            said.append((f"answered {name}", words, "\n".join(mine)))
        return [
            f"{what}: expected {word!r} in {text[:600]!r}"
            for what, words, text in said
            for word in words
            if word not in text
        ]


async def _incident(members: set[str]) -> str:
    """none, open or ended; several at once are named."""
    found = [i for m in sorted(members) if (i := await read_incident(m))]
    states = ["ended" if i.ended else "open" for i in found]
    return " and ".join(states) or "none"


def _refused(stack: str) -> int:
    """Requests of people that the audit trail says were refused."""
    facts = [
        json.loads(line)
        for file in day_files(AuditLog().folder)
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    mine = [f for f in facts if f["kind"] == "access" and f.get("stack") == stack]
    return sum(not f["allowed"] for f in mine)
