"""Seconds from the POST of a remediation to its first mitigating call, under three workers.

A vLLM stand-in is killed, and what the gateway does with an alert is done: a run of
remediate-outage is created, and the worker of this home is nudged. The first mitigating call is
the moment at which the stand-in's supervisor starts it again. In turn and in one run, so that
other load on the machine meets all three alike.
"""

import asyncio
import json
import os
import shlex
import signal
import statistics
import sys
import tempfile
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments.gateway.dispatch import PAUSES_S
from deployments.nudge import nudge
from tests.conftest import PrefectServer
from tests.real.zygote_site import Deployment, Site, sync_client, until

RUNS = 6
SETTLE_S = 6
SERVICE = "wintermute"
PROCEDURE = "remediate-outage"
ENTRYPOINT = "flows.remediate_outage.remediate_outage"
POLICY = {
    "autonomy": "auto",
    "attempts": 20,
    "window_s": 60,
    "cooldown_s": 0,
    "start_timeout_s": 60,
    "stabilisation_s": 0.4,
    "decode_timeout_s": 2,
    "poll_s": 0.1,
}
WAYS = ("plain, default poll", "plain, 1 s poll", "warm and nudged")


class Patient:
    """A service that is killed again and again, in a stack that is registered."""

    def __init__(self, folder: Path) -> None:
        from blocks.stack import StackSpec
        from deployments.bootstrap import register
        from deployments.sandbox.local import Sandbox

        self.box = Sandbox.create(folder)
        made = self.box.add_vllm(
            SERVICE, serving={"max_model_len": 8192}, params={"startup_s": 0.2}
        )
        service = {**made.fragment(), "served_model_name": SERVICE, "policy": POLICY}
        self.stack = f"bench-{uuid.uuid4().hex[:6]}"
        document = {"name": self.stack, "services": {SERVICE: service}}
        asyncio.run(register(StackSpec.model_validate(document)))
        self.box.start(SERVICE, ready_s=20)

    def fail(self) -> None:
        """Kill it."""
        os.kill(self.box.status(SERVICE)["pid"], signal.SIGKILL)
        self.box.wait_exited(SERVICE, 20)

    def started(self) -> float:
        """When its supervisor last started it, Unix time."""
        at = self.box.status(SERVICE)["started_at"]
        return float(at) if isinstance(at, int | float) else datetime.fromisoformat(at).timestamp()


def _treated(
    client: SyncPrefectClient, deployment: Deployment, patient: Patient, home: Path | None
) -> dict[str, float]:
    """One outage: seconds from POST to the restart, and the flow's own part of them."""
    patient.fail()
    options = {"actor": "alertmanager", "source": "alert"}
    parameters = {"stack": patient.stack, "service": SERVICE, "options": options}
    tags = [f"procedure:{PROCEDURE}", f"stack:{patient.stack}", f"service:{SERVICE}"]
    body = {
        "parameters": parameters,
        "idempotency_key": uuid.uuid4().hex,
        "tags": [*tags, "actor:alertmanager", "source:alert"],  # as the gateway gives them
    }
    began = time.time()
    run = _created(client, deployment, body)
    posted = time.time()
    if home:
        assert nudge(home), "the warm worker does not listen"
    ended = deployment.ended(run, 90)
    assert ended.state, "no state"
    assert ended.state.name == "Passed", ended.state.message
    return {
        "act": patient.started() - began,
        "post": posted - began,
        "flow": _first_act_s(client, run.id),
        "start": ended.start_time.timestamp() - began if ended.start_time else 0.0,
    }


def _created(client: SyncPrefectClient, deployment: Deployment, body: dict[str, Any]) -> FlowRun:
    """A run, made as the gateway does: a busy database is asked again at once."""
    path = f"/deployments/{deployment.id}/create_flow_run"
    for pause in PAUSES_S:
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                answer = client._client.post(path, json=body)
            return FlowRun.model_validate(answer.json())
        except PrefectHTTPStatusError:
            time.sleep(pause)
    raise AssertionError("the server stays busy")


def _first_act_s(client: SyncPrefectClient, run_id: UUID) -> float:
    """`first_act_s` of the run's own report: from the flow's body to its first act."""
    of = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))

    def data() -> Any:
        found = client.read_artifacts(artifact_filter=of)
        return next((a.data for a in found if a.key == f"{PROCEDURE}-data"), None)

    got = until(data, 20)
    return float((json.loads(got) if isinstance(got, str) else got)["first_act_s"])


def _deployment(client: SyncPrefectClient, pool: str, site: Site, command: str) -> Deployment:
    """The procedure in a pool of its own."""
    made = Deployment(client, pool, site.code, command)
    pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(site.code)}}
    made.id = client.create_deployment(
        client.create_flow_from_name(PROCEDURE),
        pool,
        entrypoint=ENTRYPOINT,
        work_pool_name=pool,
        pull_steps=[pull],
    )
    return made


def _workers(site: Site, client: SyncPrefectClient) -> dict[str, Deployment]:
    """One pool and one worker for each way."""
    plain, launcher = "", shlex.join(site.command)
    made = {}
    for way, command, poll in zip(WAYS, (plain, plain, launcher), ("10", "1", "1"), strict=True):
        pool = "act-" + way.replace(",", "").replace(" ", "-")
        made[way] = _deployment(client, pool, site, command)
        if command:
            argv = [sys.executable, "-P", "-m", "deployments.warm_worker", "--pool", pool]
            site.popen(argv, f"{pool}.log", PREFECT_WORKER_QUERY_SECONDS=poll)
            until(lambda: nudge(site.folder), 60)
        else:
            site.start_worker(pool, PREFECT_WORKER_QUERY_SECONDS=poll, RUNBOOKS_ZYGOTE="")
    return made


def measure(site: Site, folder: Path, runs: int = RUNS) -> dict[str, list[dict[str, float]]]:
    """`runs` outages for each way, in turn."""
    got: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    patient = Patient(folder)
    try:
        with sync_client() as client:
            deployments = _workers(site, client)
            time.sleep(SETTLE_S)
            for number in range(runs + 1):
                for way, deployment in deployments.items():
                    home = site.folder if way == WAYS[-1] else None
                    seconds = _treated(client, deployment, patient, home)
                    if number:  # its worker may still have been starting at the first one
                        got[way].append(seconds)
    finally:
        patient.box.stop_all()
    return got


def _row(name: str, value: float, unit: str, note: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "note": note}


def _rows(got: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows, p50 = [], {}
    for way, all_of in got.items():
        acts = sorted(one["act"] for one in all_of)
        p50[way] = statistics.median(acts)
        p95 = acts[min(len(acts) - 1, round(0.95 * (len(acts) - 1)))]
        flow = statistics.median(one["flow"] for one in all_of)
        note = f"of {len(acts)}, {acts[0]:.2f} to {acts[-1]:.2f}; in the flow {flow:.2f}"
        rows.append(_row(f"act: POST to restart p50, {way}", p50[way], "s", note))
        rows.append(_row(f"act: POST to restart p95, {way}", p95, "s", ""))
    for way in WAYS[:2]:
        ratio = p50[way] / p50[WAYS[-1]]
        rows.append(_row(f"act: {way} / {WAYS[-1]}", ratio, "x", "p50, same run, same server"))
    return rows


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, note}."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with tempfile.TemporaryDirectory(prefix="act-") as folder:
        server = PrefectServer(Path(folder) / "prefect")
        server.start()
        site = Site(Path(folder) / "site", server.env)
        try:
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
                site.start_zygote()
                return _rows(measure(site, Path(folder) / "box"))
        finally:
            site.close()
            server.stop()


if __name__ == "__main__":
    for line in run():
        print(line)
