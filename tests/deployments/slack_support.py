"""A gateway that Slack's stand-in talks to, a stack, and runs that nobody executes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, get_client, tags
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import apause_flow_run

from blocks.audit_chain import day_files
from blocks.audit_log import AuditLog
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack
from deployments.approvals import Waiting, waiting
from deployments.bootstrap import _pool, register
from deployments.connection import POOL
from deployments.gateway.slack_procedures import _loaded
from deployments.gateway.slack_socket import listen
from deployments.gateway.state import Gateway
from deployments.running import load_flow
from deployments.sandbox.slack_server import SlackServer
from deployments.sandbox.slack_state import Ack, Message, View
from flows.approval import Approval
from tests.deployments.gateway_support import runs_of
from tests.flows.support import until

PEOPLE = {
    "members": {"ada": {"slack": "U1"}, "bob": {"slack": "U2"}},
    "groups": {"oncall": "S1"},
    "roles": {"operator": ["ada", "oncall"], "approver": ["bob"]},
    "channels": ["C1"],
}
DIGEST = "abcdef012345"
LOG = "line one\\nHF_TOKEN=hf_verysecretvalue `x` <!channel>\\nlast line\\n"


def inventory(slack: SlackServer, **more: Any) -> StackSpec:
    """A stack whose one service answers nobody."""
    return StackSpec.model_validate(
        {
            "name": f"s-{uuid4().hex[:8]}",
            "services": {
                "wintermute": {
                    "url": "http://127.0.0.1:9",
                    "engine": "http",
                    "runtime": {
                        "kind": "command",
                        "status": ["false"],
                        "status_format": "exit-code",
                        "restart": ["true"],
                        "stop": ["true"],
                        "logs": ["printf", LOG],
                    },
                }
            },
            "slack": slack.spec(),
            "people": PEOPLE,
            **more,
        }
    )


class World:
    """One stack, its gateway and its Slack."""

    def __init__(self, slack: SlackServer, gateway: Gateway, spec: StackSpec) -> None:
        self.slack, self.gateway, self.spec = slack, gateway, spec

    async def type(self, text: str, user: str = "U1", channel: str = "C1") -> Ack:
        """A `/runbook` command; it must be acknowledged in time."""
        ack = await self.slack.command("/runbook", text, user=user, channel=channel)
        assert ack.acked and not ack.faults, ack
        return ack

    async def told(self, *words: str, user: str = "U1") -> Message:
        """The private answer with these words, once it is there."""
        return await until(lambda: self._heard(words, user), 60)

    def _heard(self, words: tuple[str, ...], user: str) -> Message | None:
        for message in reversed(self.slack.ephemerals):
            if message.user == user and all(w in message.words for w in words):
                return message
        return None

    async def ask(self, text: str, *words: str, user: str = "U1", channel: str = "C1") -> Message:
        """Type a command; the private answer with these words."""
        await self.type(text, user, channel)
        return await self.told(*words, user=user)

    async def form(self, user: str = "U1") -> View:
        """The form that is open."""
        return await until(lambda: next((v for v in self.slack.views if v.user == user), None), 60)

    async def runs(self) -> list[FlowRun]:
        """Every run of the stack."""
        return await runs_of(self.spec.name)

    async def stored(self) -> StackSpec:
        """The inventory as it is on the server."""
        return await load_stack(self.spec.name)

    def audit(self) -> str:
        """The audit trail as text."""
        return "".join(p.read_text() for p in day_files(AuditLog().folder))

    @asynccontextmanager
    async def waits(
        self, *, digest: str = DIGEST, actor: str = "ada", stack: str = ""
    ) -> AsyncIterator[tuple[Waiting, "asyncio.Task[Any]"]]:
        """A real run that is paused for the approval of a plan."""
        name = stack or self.spec.name
        kinds = [f"stack:{name}", "service:wintermute", "procedure:remediate-oom"]
        task = asyncio.create_task(_pauses(digest, [*kinds, f"actor:{actor}"]))
        try:
            for _ in range(600):
                if found := await waiting(name):
                    break
                await asyncio.sleep(0.1)
            yield found[0], task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _pauses(digest: str, tagged: list[str]) -> Any:
    @flow(name="remediate-oom")
    async def remediate_oom() -> Any:
        form = Approval.with_initial_data(digest=digest)
        given = await apause_flow_run(
            wait_for_input=form, timeout=120, poll_interval=1, key=f"{digest}-1"
        )
        return given.model_dump()

    with tags(*tagged):
        return await remediate_oom()


async def deploy(*procedures: str) -> None:
    """Deployments with the procedures' real schemas, that nobody executes."""
    async with get_client() as client:
        await _pool(client)
        for procedure in procedures:
            flow_id = await client.create_flow_from_name(procedure)
            await client.create_deployment(
                flow_id=flow_id,
                name=procedure,
                work_pool_name=POOL,
                parameter_openapi_schema=load_flow(procedure).parameters.model_dump(),
                enforce_parameter_schema=True,
            )


@asynccontextmanager
async def world(
    folder: Path, slack: SlackServer, *procedures: str, **more: Any
) -> AsyncIterator[World]:
    """A registered stack and its gateway, connected by Socket Mode."""
    spec = inventory(slack, **more)
    await register(spec)
    await deploy(*procedures)
    for procedure in procedures:
        await asyncio.to_thread(_loaded, procedure)
    gateway = Gateway(folder / "inbox.db")
    gateway._stacks, gateway._tried_at = {spec.name: spec}, float("inf")  # only the test's own
    listening = asyncio.create_task(listen(gateway))
    try:
        await slack.connected()
        yield World(slack, gateway, spec)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await gateway.inbox.close()
