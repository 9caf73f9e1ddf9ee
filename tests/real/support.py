"""Containers that procedures are run on, and children that die where they are told to."""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import httpx

from blocks.docker_inspect import policy_of
from blocks.journal import Journal
from blocks.stack import StackSpec, lock_name
from deployments.bootstrap import register
from deployments.running import load_flow
from deployments.sandbox import docker_image
from deployments.sandbox.local import free_port
from flows.report import Options, Report
from tests.conftest import PrefectServer
from tests.flows.support import LADDER, QUICK
from tests.real import driver

SERVICE = "wintermute"
MARK = "runbooks-test"
ARGS = ["--model", "/models/wintermute-tiny", "--served-model-name", SERVICE]
ARGS += ["--max-num-seqs", "8", "--gpu-memory-utilization", "0.92"]


class Container:
    """One stand-in in a container, described by a registered stack of its own."""

    def __init__(self, client: docker.DockerClient, folder: Path) -> None:
        self.client, self.mark = client, uuid4().hex[:8]
        self.name = f"runbooks-test-{self.mark}"
        self.state, self.since = folder / "state", int(time.time()) - 1
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.spec: StackSpec | None = None

    def start(self, length: int, *, policy: str = "no", **extra: Any) -> None:
        labels = {MARK: self.mark, **extra.pop("labels", {})}
        docker_image.run_container(
            self.client,
            self.name,
            [*ARGS, "--max-model-len", str(length)],
            port=self.port,
            env={"SANDBOX_STARTUP_S": "0.05", **extra.pop("env", {})},
            restart_policy={"Name": policy},
            state=self.state,
            labels=labels,
            **extra,
        )

    async def register(self, *, policy: dict[str, Any] | None = None, **stack: Any) -> None:
        service = {
            "url": self.url,
            "served_model_name": SERVICE,
            "runtime": {"kind": "docker", "container": self.name, "stop_timeout_s": 5},
            "ladder": LADDER,
            "policy": {**QUICK, "stabilisation_s": 0.5, **(policy or {})},
            **stack.pop("service", {}),
        }
        document = {"name": f"t-{self.mark}", "services": {SERVICE: service}, **stack}
        self.spec = StackSpec.model_validate(document)
        await register(self.spec)

    @property
    def stack(self) -> str:
        return f"t-{self.mark}"

    @property
    def lock(self) -> str:
        return lock_name(self.stack, SERVICE)

    @property
    def journal(self) -> Journal:
        return Journal(self.stack, SERVICE)

    def fault(self, **faults: Any) -> None:
        """Faults of the running server and of every later start."""
        self.state.mkdir(parents=True, exist_ok=True)
        temporary = self.state / "faults.new"
        temporary.write_text(json.dumps(faults))
        temporary.replace(self.state / "faults.json")

    def doc(self) -> dict[str, Any]:
        return self.client.api.inspect_container(self.name)

    def all(self) -> dict[str, dict[str, Any]]:
        """Name -> inspection of every container of this test, running or not."""
        found = self.client.api.containers(all=True, filters={"label": f"{MARK}={self.mark}"})
        docs = [self.client.api.inspect_container(c["Id"]) for c in found]
        return {d["Name"].lstrip("/"): d for d in docs}

    def most_running(self) -> int:
        """How many of them ran at once, at most, says the engine's event log."""
        filters = {"label": f"{MARK}={self.mark}", "event": ["start", "die"]}
        running: set[str] = set()
        most = 0
        for event in self.client.api.events(
            since=self.since, until=f"{time.time():.6f}", filters=filters, decode=True
        ):
            (running.add if event["Action"] == "start" else running.discard)(event["id"])
            most = max(most, len(running))
        return most

    def model_len(self) -> int | None:
        """What it serves now; None when it does not decode."""
        body = {"model": SERVICE, "prompt": "x", "max_tokens": 1}
        with contextlib.suppress(httpx.HTTPError, LookupError):
            with httpx.Client(base_url=self.url, timeout=2, trust_env=False) as client:
                if client.post("/v1/completions", json=body).status_code == 200:
                    return int(client.get("/v1/models").json()["data"][0]["max_model_len"])
        return None

    def wait_serving(self, length: int) -> None:
        for _ in range(1200):
            if self.model_len() == length:
                return
            time.sleep(0.05)
        raise AssertionError(f"does not serve {length}")

    def wait_exited(self) -> None:
        for _ in range(1200):
            if self.doc()["State"]["Status"] == "exited":
                return
            time.sleep(0.05)
        raise AssertionError("still runs")

    def alone(self, policy: str) -> None:
        """One container, under its name, with its policy; never did two run."""
        assert list(self.all()) == [self.name]
        assert policy_of(self.doc())["Name"] == policy
        assert self.most_running() <= 1

    def sweep(self) -> None:
        for doc in self.all().values():
            self.client.api.remove_container(doc["Id"], force=True, v=True)


async def run(procedure: str, stack: str, **more: Any) -> Report:
    """A run in this process; its report, whatever the verdict."""
    options = Options(actor="ada", source="cli")
    state = await load_flow(procedure)(
        stack=stack, service=SERVICE, options=options, **more, return_state=True
    )
    report = await state.result(raise_on_failure=False)
    assert isinstance(report, Report), state.message
    return report


class Children:
    """Runs that die at a chosen point, forked from one process that has imported everything."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.real.driver", "tests.real.preload"])

    def start(
        self, point: str, procedure: str, stack: str, *, retries: int = 8, **more: Any
    ) -> Any:
        """A child under way."""
        child = self.context.Process(
            target=driver.child,
            args=(
                {
                    "RUNBOOKS_HOME": os.environ["RUNBOOKS_HOME"],
                    "PREFECT_API_URL": self.server.url,
                    "PREFECT_HOME": str(self.server.folder),
                    "PREFECT_CLIENT_MAX_RETRIES": str(retries),
                },
                point,
                procedure,
                stack,
                SERVICE,
                json.dumps(more),
            ),
            daemon=True,
        )
        child.start()
        return child

    def kill(self, point: str, procedure: str, stack: str, **more: Any) -> None:
        """A child that must have died at its point."""
        child = self.start(point, procedure, stack, **more)
        child.join(120)
        code = child.exitcode
        child.kill()
        assert code == -9, f"{point}: exit code {code}"


@contextlib.contextmanager
def swept(made: Container) -> Iterator[Container]:
    try:
        yield made
    finally:
        made.sweep()


async def free(client: Any, name: str) -> None:
    """Give back the slot of a holder that was killed, as its lease's end would."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))
