"""Play a scenario's steps on a whole platform: alert, gateway, run, Slack, and who answers there.

The platform is the `runbooks up` that serves this home; `play_platform.whole` starts one. Plays
share it: each has a stack, a stand-in server and a stand-in for Slack of its own.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prefect import get_client
from prefect.exceptions import ObjectNotFound
from ruamel.yaml import YAML

from blocks.errors import Permanent
from blocks.stack import StackSpec
from blocks.stack_blocks import Stack
from deployments.approvals import waiting
from deployments.bootstrap import register
from deployments.connection import Up, read_up
from deployments.outcome import Outcome, rows_of, runs_of
from deployments.play_platform import ALERT_TOKEN, PATIENCE_S, eventually, secrets
from deployments.sandbox.local import Sandbox
from deployments.sandbox.slack_server import SlackServer
from deployments.sandbox.slack_state import Message
from deployments.scenario_steps import (
    CHANNELS,
    SLACK_IDS,
    AlertStep,
    ClickStep,
    CommandStep,
    Person,
    Step,
    Wait,
)
from deployments.scenarios import SERVICE, Played, Scenario
from deployments.staging import stage

ROUTES = (
    {"match": {"alertname": "ServiceDown"}, "procedure": "remediate-outage"},
    {"match": {"alertname": "ServiceSlow"}, "procedure": "remediate-latency"},
)
TAPS = 3
"""Of a person who is told that the Prefect server does not answer."""
PEOPLE = {
    "members": {name: {"slack": user} for name, user in SLACK_IDS.items()},
    "roles": {"operator": ["ada"], "approver": ["bob", "dora"]},
    "channels": [CHANNELS["incidents"]],
}


async def play_steps(scenario: Scenario, *, keep: bool = False) -> Played:
    """Play one scenario with steps, and compare what came of it with what was expected.

    Raises:
        Permanent: no `runbooks up` serves this home, or the platform did not do as told.
    """
    if read_up() is None:
        raise Permanent("a scenario with steps needs a platform: runbooks scenario play NAME")
    box = Sandbox.create(tempfile.mkdtemp(prefix=f"runbooks-{scenario.name}-"))
    try:
        async with SlackServer() as slack:
            spec = await stage(scenario, box, **_sections(scenario, slack))
            spec = spec.model_copy(update={"name": f"sandbox-{uuid4().hex[:8]}"})
            await register(spec)
            play = Play(spec, box, slack)
            try:
                await play.all(scenario)
                return await play.played(scenario, str(box.dir / "stack.yaml") if keep else "")
            finally:
                await play.leave()
    finally:
        if not keep:
            await asyncio.to_thread(box.stop_all)
            await asyncio.to_thread(shutil.rmtree, box.dir, ignore_errors=True)


def _sections(scenario: Scenario, slack: SlackServer) -> dict[str, Any]:
    """What the gateway finds in the inventory."""
    told = slack.spec(timeout_s=2)
    if not any(step.command or step.click for step in scenario.steps):
        del told["app_token"]  # nobody types: no connection is needed
    alerts = {"token": f"${{{ALERT_TOKEN}}}", "routes": list(ROUTES)}
    return {"alerts": alerts, "slack": told, "people": PEOPLE}


class Play:
    """One stack on the platform while its scenario is played."""

    def __init__(self, spec: StackSpec, box: Sandbox, slack: SlackServer) -> None:
        self.spec, self.box, self.slack = spec, box, slack
        self.began = datetime.now(UTC).replace(microsecond=0)
        self.duplicates = 0
        self._held = 0
        self._serving: dict[str, Any] = {}

    async def all(self, scenario: Scenario) -> None:
        """Every step, one after the other, and the end of what they began."""
        self._serving = self._config()
        await self._post([])  # so the gateway looks for the stack now, not within 30 s
        for step in scenario.steps:
            await self.step(step)
        await self._wait("ended")

    async def played(self, scenario: Scenario, stack_file: str) -> Played:
        """What came of it; what is told a moment later is waited for."""
        outcome = Outcome(self.spec, self.slack, self.duplicates, self._serving)
        problems: list[str] = []

        async def as_expected() -> bool:
            problems[:] = await outcome.problems(scenario.expect, self._config())
            return not problems

        with contextlib.suppress(Permanent):
            await eventually("the outcome", as_expected, PATIENCE_S / 4)
        return Played(
            scenario=scenario.name,
            ok=not problems,
            problems=tuple(problems),
            report=outcome.report,
            stack_file=stack_file,
        )

    async def leave(self) -> None:
        """Give the platform back: it goes on, and knows the stack no more."""
        self._release()
        with contextlib.suppress(ObjectNotFound, TimeoutError):
            async with asyncio.timeout(PATIENCE_S), get_client() as client:
                slug = Stack.get_block_type_slug()
                found = await client.read_block_document_by_name(self.spec.name, slug)
                await client.delete_block_document(found.id)

    async def step(self, step: Step) -> None:
        """One step.

        Raises:
            Permanent: it did not come to what the step waits for.
        """
        if step.alert:
            await self._alert(step.alert)
        elif step.command:
            await self._command(step.command)
        elif step.click:
            await self._click(step.click)
        elif step.edit:
            self._edit(step.edit)
        elif step.kill:
            pid = self._up.children[step.kill]
            os.kill(pid, signal.SIGKILL)
            self._held = 0 if self._held == pid else self._held
        elif step.hold:
            self._held = self._up.children[step.hold]
            os.kill(self._held, signal.SIGSTOP)
        elif step.release:
            self._release()
        elif step.slack:
            await (self.slack.stop() if step.slack == "down" else self.slack.start())
        elif step.wait:
            await self._wait(step.wait)

    @property
    def _up(self) -> Up:
        if (up := read_up()) is None:
            raise Permanent("the platform of this play has ended")
        return up

    def _release(self) -> None:
        if self._held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._held, signal.SIGCONT)
            self._held = 0

    # ---- what comes from outside ----

    async def _alert(self, step: AlertStep) -> None:
        if step.distinct:
            await self._post([self._made(step, n) for n in range(step.count)])
            return
        for _ in range(step.count):
            await self._post([self._made(step, 0)])

    def _made(self, step: AlertStep, number: int) -> dict[str, Any]:
        labels = {"alertname": step.name, "service": SERVICE, "severity": "critical", **step.labels}
        labels |= {"instance": str(number)} if step.distinct else {}
        known = hashlib.sha256(repr(sorted(labels.items())).encode()).hexdigest()
        over = step.status == "resolved"
        return {
            "status": step.status,
            "labels": labels,
            "annotations": {"summary": f"{step.name} on {labels['service']}"},
            "startsAt": self.began.isoformat(),
            "endsAt": (self.began + timedelta(hours=1)).isoformat() if over else NEVER,
            "generatorURL": "http://prometheus.sandbox/graph",
            "fingerprint": known[:16],
        }

    async def _post(self, alerts: list[dict[str, Any]]) -> None:
        """One notification, again and again until it is accepted, as Alertmanager does."""
        body = {"version": "4", "status": "firing", "receiver": "runbooks", "alerts": alerts}
        header = {"Authorization": f"Bearer {secrets()[ALERT_TOKEN]}"}
        url = f"{self._up.gateway}/alerts/{self.spec.name}"

        async def accepted() -> bool:
            async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
                try:
                    answer = await client.post(url, json=body, headers=header)
                except httpx.HTTPError:
                    return False
            # 401: it has not read this stack yet.
            if answer.status_code == 202:
                self.duplicates += int(answer.json()["duplicates"])
            return answer.status_code == 202

        await eventually("the gateway to accept the alert", accepted)

    def _edit(self, numbers: dict[str, Any]) -> None:
        """Somebody edits the server's file by hand."""
        service, yaml = self.box.services[SERVICE], YAML()
        document = self._config()
        document.update({service.keys[name]: value for name, value in numbers.items()})
        with self._file.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
        self._serving = self._config()

    def _config(self) -> dict[str, Any]:
        document: dict[str, Any] = YAML().load(self._file.read_text(encoding="utf-8"))
        return document

    @property
    def _file(self) -> Path:
        service = self.box.services[SERVICE]
        if service.style != "yaml" or service.config is None:
            raise Permanent("a scenario with steps has its numbers in a YAML file (style: yaml)")
        return service.config

    # ---- what people do in Slack ----

    async def _command(self, step: CommandStep) -> None:
        user, channel = SLACK_IDS[step.user], CHANNELS[step.channel]
        await self.slack.connected(within_s=PATIENCE_S)
        before = self._heard(user)
        await self.slack.command("/runbook", step.text, user=user, channel=channel)
        await self._answered(step.user, before)

    async def _click(self, step: ClickStep) -> None:
        names = step.user if isinstance(step.user, tuple) else (step.user,)
        await self.slack.connected(within_s=PATIENCE_S)
        card = await eventually(f"a button {step.button}", lambda: self._with(step.button))

        async def tap(name: Person) -> None:
            for _ in range(TAPS):
                before = self._heard(SLACK_IDS[name])
                await self.slack.click(card, step.button, user=SLACK_IDS[name])
                await self._answered(name, before)
                said = [m for m in self.slack.ephemerals if m.user == SLACK_IDS[name]][-1]
                if "Prefect server does not answer" not in said.words:
                    return

        await asyncio.gather(*map(tap, names))

    async def _with(self, button: str) -> Message | None:
        return next((m for m in reversed(self.slack.messages()) if button in m.buttons), None)

    def _heard(self, user: str) -> int:
        return sum(m.user == user for m in self.slack.ephemerals)

    async def _answered(self, name: Person, before: int) -> None:
        async def more() -> bool:
            return self._heard(SLACK_IDS[name]) > before

        await eventually(f"an answer to {name}", more)

    # ---- what is waited for ----

    async def _wait(self, what: Wait) -> None:
        async def asked() -> bool:
            return bool(await waiting(self.spec.name))

        async def ended() -> bool:
            if any(not row.outcome for row in await rows_of(self.spec.name)):
                return False
            runs = await runs_of(self.spec.name)
            return all(run.state and run.state.is_final() for run in runs)

        done = {"approval": asked, "ended": ended}[what]
        await eventually({"approval": "a plan that waits", "ended": "the end"}[what], done)


NEVER = "0001-01-01T00:00:00Z"
