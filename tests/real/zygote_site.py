"""A machine with a zygote and a worker on a copy of the code, for the tests and the benchmark."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessWorker

from deployments.zygote import socket_path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("blocks", "tasks", "flows", "deployments")


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until it is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (got := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return got


class Site:
    """Processes on a copy of the checkout, which others edit while the tests run."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.code = folder, folder / "code"
        skip = shutil.ignore_patterns("__pycache__")
        for name in PACKAGES:
            shutil.copytree(REPOSITORY / name, self.code / name, ignore=skip)
        (self.code / "tests" / "real").mkdir(parents=True)
        shutil.copy(REPOSITORY / "prefect.yaml", self.code)
        shutil.copy(Path(__file__).with_name("zygote_flow.py"), self.code / "tests" / "real")
        self.socket = socket_path(folder)
        self.env = {
            **env,
            "PYTHONPATH": str(self.code),
            "PYTHONDONTWRITEBYTECODE": "",
            "RUNBOOKS_HOME": str(folder),
            "RUNBOOKS_ZYGOTE": str(self.socket),
        }
        self.command = [sys.executable, "-I", "-S", str(self.code / "deployments" / "launch.py")]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.zygote: subprocess.Popen[bytes]

    def popen(self, argv: list[str], log: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a process that `close` ends."""
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                argv,
                env={**self.env, **env},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_zygote(self) -> None:
        """Start it, and wait until it listens."""
        argv = [sys.executable, "-P", "-m", "deployments.zygote", str(self.socket)]
        self.zygote = self.popen(argv, "zygote.log")
        ready = f"zygote {self.zygote.pid}: ready"
        log = self.folder / "zygote.log"
        until(lambda: ready in log.read_text() or self.zygote.poll() is not None, 60)
        assert self.zygote.poll() is None, log.read_text()[-2000:]

    def start_worker(self, pool: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a process worker of this pool."""
        argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
        return self.popen([*argv, "--type", "process"], f"{pool}.log", **env)

    def launch(self, run: FlowRun | UUID | str, **env: str) -> subprocess.Popen[bytes]:
        """Start a run as a worker does, without a worker."""
        run_id = str(getattr(run, "id", run))
        return self.popen(self.command, "launch.log", PREFECT__FLOW_RUN_ID=run_id, **env)

    def out(self) -> Path:
        """Where one run says what it is."""
        return self.folder / f"{uuid4().hex}.json"

    def close(self) -> None:
        """End what was started, the newest first."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def said(out: Path, seconds: float = 60) -> dict[str, Any]:
    """What the run's body said about its process."""
    until(out.exists, seconds)
    got: dict[str, Any] = json.loads(out.read_text())
    return got


class Deployment:
    """The probe flow, in a pool of its own."""

    def __init__(self, client: SyncPrefectClient, pool: str, code: Path, command: str) -> None:
        template = ProcessWorker.get_default_base_job_template()
        if command:
            template["variables"]["properties"]["command"]["default"] = command
        work_pool = WorkPoolCreate(name=pool, type="process", base_job_template=template)
        client.request("POST", "/work_pools/", json=work_pool.model_dump(mode="json"))
        self.client, self.pool = client, pool
        flow = client.create_flow_from_name("probe")
        pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(code)}}
        self.id = client.create_deployment(
            flow,
            pool,
            entrypoint="tests.real.zygote_flow.probe",
            work_pool_name=pool,
            pull_steps=[pull],
        )

    def run(self, out: Path, **parameters: Any) -> FlowRun:
        """POST a run."""
        return self.client.create_flow_run_from_deployment(
            self.id, parameters={"out": str(out), **parameters}
        )

    def ended(self, run: FlowRun, seconds: float = 60) -> FlowRun:
        """The run, once its state is final."""

        def final() -> FlowRun | None:
            got = self.client.read_flow_run(run.id)
            return got if got.state and got.state.is_final() else None

        got: FlowRun = until(final, seconds)
        return got


def sync_client() -> SyncPrefectClient:
    """A client of the server that this process's settings name."""
    return get_client(sync_client=True)
