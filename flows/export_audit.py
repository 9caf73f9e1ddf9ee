"""One record per procedure run, in a chain that shows whether it was altered."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.audit_chain import unwritable
from blocks.audit_export import Exported, exporting, save_exported
from blocks.audit_log import AuditLog, Broken, Snapshot, Verified
from blocks.audit_models import EndedRun
from blocks.audit_spec import S3Spec
from blocks.errors import RunbookError, Unsafe
from blocks.journal import Verdict
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack, registered
from flows.dead_man import HOOKS
from flows.decisions.audit_record import Known, Window, bare, record_of
from flows.decisions.since import parse_since
from flows.procedure import state_of, tag
from flows.report import Options, Report
from tasks.audit import add_runs, copy_trail, verify_trail
from tasks.records import attempted, publish_artifact, publish_slack

NAME = "export-audit"
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
"""Before any run: a first export takes all that Prefect has."""
WAIT_S = 900.0
"""For another export of this machine to end."""


@flow(name=NAME, flow_run_name="export-audit {stack}", **HOOKS)
async def export_audit(
    stack: str = "*",
    since: str = "",
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Add every ended procedure run to the audit trail, prove the whole trail, and copy it.

    Who asked and who approved, what was planned and changed, why, when each state came, and the
    verdict: a line per run in a hash chain under the product's home, in the order of the ends.
    Catches up on missed days; twice, or two at once, adds nothing twice.

    Args:
        stack: Whose copies (audit.s3) are brought up to date, or * for every registered stack's. The trail itself has the runs of all.
        since: From when on ended runs are read again, e.g. 30d or 2026-11-21, where that is further back than two days before the last one that the trail has.
        options: Actor and source; a dry run reads and proves, and adds and copies nothing.
    """  # noqa: E501 - a parameter's line is its help in the UI
    if "auto-scheduled" in (flow_run.tags or ()):
        options = options.model_copy(update={"source": "schedule", "actor": "schedule"})
    await tag(NAME, options, *([] if stack == "*" else [f"stack:{stack}"]))
    begin = parse_since(since, datetime.now(UTC)) if since else None
    export = _Export(stack, begin, options)
    try:
        verdict, message = await export.run()
        blocked = None
    except Unsafe as e:
        verdict, message, blocked = "blocked", str(e), e.reason
    except RunbookError as e:
        verdict, message, blocked = "error", str(e), None
    report = Report(
        procedure=NAME,
        stack=stack,
        service="*",
        run_id=export.run_id,
        actor=options.actor or "unknown",
        source=options.source,
        started_at=export.began,
        duration_s=round(time.monotonic() - export.started, 3),
        verdict=verdict,
        blocked_by=blocked,
        message=message,
        next_step=_NEXT.get(verdict, ""),
        notes=tuple(export.notes),
    )
    await _record(report, export.specs)
    return state_of(report)


_NEXT: dict[Verdict, str] = {
    "failed": "compare the trail with its copy; keep both; then: runbooks audit verify",
    "error": "mend what the message names, then: runbooks audit export",
    "blocked": "wait for the other export",
}


class _Export:
    """One export, as it goes."""

    def __init__(self, stack: str, begin: datetime | None, options: Options) -> None:
        self.stack, self.options = stack, options
        self.run_id, self.began = str(flow_run.id), datetime.now(UTC)
        self.started = time.monotonic()
        self.specs: list[StackSpec] = []
        self.notes: list[str] = []
        self.known = Known(begin.astimezone(UTC).isoformat() if begin else "", Window())

    async def run(self) -> tuple[Verdict, str]:
        """Verdict and message.

        Raises:
            RunbookError: it could not be done; what was added stays and is whole.
        """
        unread = await self._load()
        until = time.monotonic() + WAIT_S
        while True:
            with exporting() as alone:
                if alone:
                    return await self._alone(unread)
            if time.monotonic() > until:
                raise Unsafe("locked", "another export of this machine has not ended")
            await asyncio.sleep(0.3)

    async def _load(self) -> bool:
        """Inventories that say where copies go; whether one could not be read."""
        names = list(await registered()) if self.stack == "*" else [self.stack]
        unread = False
        for name in names:
            try:
                self.specs.append(await load_stack(name))
            except RunbookError as e:
                self.notes.append(f"{name}: {e}; whether it wants a copy is not known")
                unread = True
        return unread

    async def _alone(self, unread: bool) -> tuple[Verdict, str]:
        _, before = await verify_trail(self.known.add)
        if before.first_broken:
            return "failed", _broken(before.first_broken, "nothing was added")
        begin = datetime.fromisoformat(b) if (b := self.known.begin()) else FIRST
        end = self.began + timedelta(days=1)  # by the server's clock, whatever ours says
        dry_run = self.options.dry_run
        added, unknown = await add_runs(begin, end, self._wanted, self._make, dry_run)
        said = f"{added} run{'s' * (added != 1)} {'would be ' * dry_run}added"
        said += f", {unknown} of them without a record" if unknown else ""
        if dry_run:
            return "planned", f"{said}; {before.records} records are whole"
        shot, after = await verify_trail(None)
        if after.first_broken:
            return "failed", _broken(after.first_broken, said)
        said += f"; {after.records} records verified up to {after.hash[:12]}"
        copied, altered = await self._copy(shot, after)
        if altered:
            return "failed", f"{said}; the copy is another one: {altered}"
        if unread or copied is None:
            return "error", f"{said}; not every copy is up to date"
        made = Exported(
            at=self.began, run_id=self.run_id, seq=after.seq, hash=after.hash, copies=copied
        )
        await asyncio.to_thread(save_exported, made, AuditLog().folder)
        return "passed", said

    def _wanted(self, run: EndedRun) -> bool:
        """All but this procedure's own that went well: each export would find the one before."""
        own = run.procedure == NAME and run.states[-1].type == "COMPLETED"
        return not own and run.id != self.run_id

    def _make(self, run: EndedRun, alert: dict[str, str] | None) -> dict[str, Any] | None:
        """The record of a run that the trail does not have yet."""
        try:
            record = record_of(run, alert)
        except Exception as e:  # noqa: BLE001 - one odd run must not hold up all after it
            get_run_logger().exception("the data of run %s cannot be read", run.id)
            record = bare(run, f"its data could not be read: {type(e).__name__}")
        if why := unwritable("run", record):
            get_run_logger().error("run %s: %s", run.id, why)
            record = bare(run, why)
        return None if self.known.has(record) else record

    async def _copy(self, shot: Snapshot, verified: Verified) -> tuple[tuple[str, ...] | None, str]:
        """Where copies are now, None when one could not be made; and what does not fit in one."""
        wanted = {s.audit.s3.model_dump_json(): s.audit.s3 for s in self.specs if s.audit.s3}
        done, altered = list[str](), ""
        for spec in wanted.values():
            try:
                made = await copy_trail(spec, shot, verified)
            except RunbookError as e:
                self.notes.append(f"copy in {_name(spec)}: {e}")
                continue
            altered = altered or made.altered
            said = made.altered or f"{made.new} written, {made.there} compared"
            self.notes.append(f"copy in {_name(spec)}: {said}")
            done.append(_name(spec))
        return tuple(done) if len(done) == len(wanted) else None, altered


def _name(spec: S3Spec) -> str:
    return f"{spec.bucket}/{spec.prefix}"


def _broken(broken: Broken, said: str) -> str:
    return f"the audit trail is broken at {broken}; {said}"


async def _record(report: Report, specs: list[StackSpec]) -> None:
    """Data always, a page where a person should look; and people are told of a broken trail."""
    get_run_logger().info(report.headline)
    if report.verdict in ("failed", "error"):
        for slack in {s.slack.model_dump_json(): s.slack for s in specs if s.slack}.values():
            await _tell(slack, report)
    lines = [f"# {report.headline}", *(f"- {note}" for note in report.notes)]
    page = "\n".join(lines)
    await attempted("record", lambda: publish_artifact(f"{NAME}-record", page, report.headline))
    data = report.model_dump(mode="json")
    await attempted("data", lambda: publish_artifact(f"{NAME}-data", data, report.headline))


async def _tell(slack: SlackSpec, report: Report) -> None:
    text = "\n".join([report.message, *report.notes, f"*You* {report.next_step}"])
    await attempted("Slack", lambda: publish_slack(slack, f"❌ {NAME}", text, None))
