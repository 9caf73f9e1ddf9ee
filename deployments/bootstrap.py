"""What a Prefect server needs before procedures run on it: pool, locks, automation, deployments."""

import asyncio
import os
import shlex
import sys
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.automations import Automation
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from blocks.errors import Permanent
from blocks.stack import StackSpec, lock_name
from blocks.stack_blocks import registered, save_stack
from deployments.connection import POOL
from deployments.scheduled import check_dead_man

HEARTBEAT = "runbooks: crash the runs whose heartbeat stopped"
SILENCE = timedelta(seconds=90)
LAUNCHER = "launch.py"


def prefect_yaml() -> Path:
    """The declaration of deployments: in the checkout, or beside the installed package.

    Raises:
        Permanent: neither is there.
    """
    for folder in (
        Path(__file__).resolve().parent.parent,
        Path(sysconfig.get_path("data")) / "share" / "llm-runbooks",
    ):
        if (folder / "prefect.yaml").is_file():
            return folder / "prefect.yaml"
    raise Permanent("prefect.yaml is missing from the installation; install llm-runbooks again")


async def prepare_server(*, schedules: bool = False) -> int:
    """Pool, heartbeat automation, deployments; twice changes nothing. Returns active schedules.

    Schedules run when `schedules` says so or a registered stack does: deploying sets each to
    what prefect.yaml declares, which is off.
    """
    async with get_client() as client:
        await _pool(client)
        await _heartbeat()
    await deploy()
    return (
        await set_schedules(True)
        if schedules or any(stack.get("schedules") for stack in (await registered()).values())
        else 0
    )


async def _pool(client: PrefectClient) -> None:
    try:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        pass


async def use_launcher(pool: str = POOL) -> None:
    """Let the pool's workers start runs through `deployments.launch` of this installation.

    Only for a server of this machine's own: the command names a path. Another command that
    someone set on the pool stays.
    """
    from prefect.workers.process import ProcessWorker

    async with get_client() as client:
        template = (await client.read_work_pool(pool)).base_job_template
        template = template or ProcessWorker.get_default_base_job_template()
        command = template["variables"]["properties"]["command"]
        if command.get("default") and LAUNCHER not in command["default"]:
            return
        if command.get("default") != launch_command():
            command["default"] = launch_command()
            await client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))


def launch_command() -> str:
    """What starts a run: without `site`, which would cost more than all of it."""
    return shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name(LAUNCHER))])


async def _heartbeat() -> None:
    """A flow whose process died without a word is Crashed after the silence, not Running."""
    automation: dict[str, Any] = {
        "name": HEARTBEAT,
        "description": "A run that beats and then falls silent was killed with its worker.",
        "trigger": EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *_ENDS},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        "actions": [
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="its process stopped beating; the next run on the service reconciles",
            )
        ],
    }
    try:
        found = await Automation.aread(name=HEARTBEAT)
    except ValueError:
        await Automation(**automation).acreate()
        return
    for key, value in automation.items():
        setattr(found, key, value)
    await found.aupdate()


_ENDS = {
    f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")
} | {f"prefect.flow-run.{v}" for v in ("Passed", "Planned", "Blocked", "Error", "Inconclusive")}


async def deploy() -> None:
    """Deploy everything in prefect.yaml.

    Raises:
        Permanent: Prefect refused; its own words follow.
    """
    path = prefect_yaml()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
        *("--prefect-file", str(path)),
        cwd=path.parent,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), timeout=180)
    if process.returncode != 0:
        words = out.decode(errors="replace")[-1500:]
        raise Permanent(f"prefect deploy failed ({process.returncode}): {words}")


async def register(spec: StackSpec) -> None:
    """Save an inventory: its blocks, its locks and its work queues.

    Raises:
        Permanent: a ping of a procedure that no schedule starts.
    """
    await check_dead_man(spec)
    async with get_client() as client:
        for name in spec.services:
            await _lock(client, lock_name(spec.name, name))
        await _pool(client)
        for queue in sorted({s.work_queue for s in spec.services.values()} - {"default"}):
            try:
                await client.create_work_queue(name=queue, work_pool_name=POOL)
            except ObjectAlreadyExists:
                pass
    await save_stack(spec)


async def _lock(client: PrefectClient, name: str) -> None:
    """One strict slot. An existing one keeps its holder; a limit edited to 0 or 2 is mended."""
    try:
        found = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        limit = GlobalConcurrencyLimitCreate(name=name, limit=1, active=True)
        try:
            await client.create_global_concurrency_limit(limit)
        except ObjectAlreadyExists:
            pass
        return
    if found.limit != 1 or not found.active:
        await client.update_global_concurrency_limit(
            name, GlobalConcurrencyLimitUpdate(limit=1, active=True)
        )


async def set_schedules(active: bool) -> int:
    """Switch every declared schedule on or off; returns how many there are."""
    count = 0
    async with get_client() as client:
        for deployment in await client.read_deployments(limit=200):
            for schedule in await client.read_deployment_schedules(deployment.id):
                count += 1
                if schedule.active != active:
                    await client.update_deployment_schedule(
                        deployment.id, schedule.id, active=active
                    )
    return count
