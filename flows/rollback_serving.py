"""Go back to an earlier serving config (handbooks: "Rollback Procedures")."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from blocks.errors import Permanent
from blocks.journal import Backup
from blocks.models import ServingConfig
from flows.holding import holding
from flows.planning import plan_only
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.run import Run, observe
from flows.serving_change import change_to

BackupName = Annotated[
    str,
    Field(
        description="name of a backup (or its beginning); empty lists them, `previous` takes "
        "the newest that differs from what is in place"
    ),
]


@flow(name="rollback-serving", flow_run_name="rollback-serving {service}")
async def rollback_serving(
    stack: str,
    service: str,
    backup: BackupName = "",
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """List the backups of a server's numbers, or put a chosen one back and verify it.

    Every change of the lifecycle keeps the numbers it replaces, with time and run. Going
    back is itself such a change: guarded, verified, undone when it does not decode.
    Handbook: Rollback Procedures.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack.
        backup: Which backup; empty lists them.
        options: Dry run, approval, actor, source.
    """
    return state_of(
        await perform(
            "rollback-serving", stack, service, options, lambda run: _rollback(run, backup)
        )
    )


async def _rollback(run: Run, name: str) -> Report:
    if not name:
        return _list(run)
    if plan_only(run):
        return await _go_back(run, name)
    async with holding(run):
        return await _go_back(run, name)


def _list(run: Run) -> Report:
    found = run.journal.backups()
    for b in found[:20]:
        numbers = b.config.model_dump(exclude_none=True)
        run.notes.append(
            f"{b.name}: before {b.procedure}: " + ", ".join(f"{k}={v}" for k, v in numbers.items())
        )
    if not found:
        return run.report("planned", "there is no backup yet; each change makes one")
    return run.report(
        "planned",
        f"{len(found)} backup(s), newest {found[0].name}",
        next_step="choose one: -p backup=NAME, or -p backup=previous",
    )


async def _go_back(run: Run, name: str) -> Report:
    seen, _ = await observe(run)
    chosen = choose(run.journal.backups(), name, seen.config)
    reason = f"rollback to {chosen.name} (before {chosen.procedure})"
    return await change_to(run, seen.config, chosen.config, reason=reason)


def choose(backups: list[Backup], name: str, current: ServingConfig) -> Backup:
    """The backup an operator means.

    Raises:
        Permanent: none, or more than one, fits.
    """
    if name == "previous":
        fitting = [b for b in backups if b.config != current][:1]
    else:
        fitting = [b for b in backups if b.name.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(b.name for b in backups[:5]) or "none yet"
    problem = "fits none" if not fitting else f"fits {len(fitting)}"
    raise Permanent(f"backup: {name!r} {problem} of the backups; known: {known}")
