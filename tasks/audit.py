"""Tasks of the audit trail. Adding is not repeated: the next export adds what is missing."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks import audit_store
from blocks.audit_export import prove
from blocks.audit_log import AuditLog, Snapshot, Verified
from blocks.audit_models import EndedRun
from blocks.audit_spec import S3Spec
from blocks.audit_store import Copied
from blocks.errors import Transient
from blocks.incidents import read_incident
from blocks.prefect_runs import ended_runs
from tasks.reads import is_transient

Record = dict[str, Any]


@task(name="verify-trail", cache_policy=NO_CACHE, timeout_seconds=3600)
async def verify_trail(each: Callable[[Record], None] | None) -> tuple[Snapshot, Verified]:
    """Walk along the whole chain as it is now; `each` sees every record that fits.

    Broken, too, without the record that the last export proved.
    """
    log = AuditLog()
    shot, found = await asyncio.to_thread(prove, log, each)
    say = get_run_logger().error if found.first_broken else get_run_logger().info
    said = found.first_broken or "the chain is whole"
    say("%d records in %d files: %s", found.records, found.files, said)
    return shot, found


@task(name="add-runs", cache_policy=NO_CACHE, timeout_seconds=6 * 3600)
async def add_runs(
    since: datetime,
    until: datetime,
    wanted: Callable[[EndedRun], bool],
    make: Callable[[EndedRun, dict[str, str] | None], Record | None],
    dry_run: bool,
) -> tuple[int, int]:
    """Append what `make` makes of every ended run, by its end; how many, and how many unknown.

    A page is on the disk before the next is read. Raises Transient when the server does not
    answer; what was added stays.
    """
    log, added, unknown = AuditLog(), 0, 0
    alerts = _Alerts()
    async for page in ended_runs(since, until):
        runs = [run for run in page if wanted(run)]
        made = [make(run, await alerts.of(run)) for run in runs]
        records = [record for record in made if record]
        if records and not dry_run:
            await asyncio.to_thread(log.extend, "run", records)
        added += len(records)
        unknown += sum(r.get("verdict") == "unknown" for r in records)
    get_run_logger().info("%d runs added, %d of them said nothing", added, unknown)
    return added, unknown


class _Alerts:
    """The alerts of incidents, each asked for once."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, str]] = {}

    async def of(self, run: EndedRun) -> dict[str, str] | None:
        """The alert that led to a run; None without one."""
        name = run.incident
        if not name.isalnum() or len(name) > 40:
            return None
        if name not in self.known:
            if len(self.known) > 500:
                self.known.clear()
            try:
                found = await read_incident(name)
            except httpx.HTTPError as e:
                what = type(e).__name__
                raise Transient(f"Prefect did not tell incident {name} ({what}); again") from e
            self.known[name] = found.opened.alert if found else {}
        return self.known[name]


@task(
    name="copy-trail",
    task_run_name="copy to {spec.bucket}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    timeout_seconds=3600,
    retry_condition_fn=is_transient,
)
async def copy_trail(spec: S3Spec, shot: Snapshot, verified: Verified) -> Copied:
    """Compare one copy and bring it up to date. Raises as `audit_store.copy_trail`."""
    made = await audit_store.copy_trail(spec, shot, verified)
    if made.altered:
        get_run_logger().error(made.altered)
    said = f"{spec.bucket}/{spec.prefix}: {made.new} written, {made.there} compared"
    get_run_logger().info(said)
    return made
