"""The worker that can be nudged: it starts a run at once, and is a process worker in all else."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelling, Scheduled
from prefect.workers.process import ProcessWorker

from deployments.nudge import nudge, nudge_path
from deployments.warm_worker import WarmWorker, _listener
from tests.conftest import PrefectServer
from tests.real.zygote_site import Deployment, Site, said, sync_client, until

pytestmark = pytest.mark.timeout(240)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the zygote forks on Linux only")
NEVER = "60"
"""A poll that no test waits for: what starts within it was nudged."""


@pytest.fixture
def short() -> Iterator[Path]:
    """A home whose sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="nudge-") as folder:
        yield Path(folder)


# ---- the nudge ----------------------------------------------------------------------------------


def test_nobody_there_is_told_apart(short: Path) -> None:
    assert nudge(short) is False
    assert nudge(short / "no" / "such" / "folder") is False
    nudge_path(short).write_text("no socket")
    assert nudge(short) is False


def test_nudge_never_blocks_when_nobody_reads(short: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(nudge_path(short)))
        said = []
        flood = threading.Thread(target=lambda: said.extend(nudge(short) for _ in range(3000)))
        flood.start()
        flood.join(60)
        assert not flood.is_alive(), "a full socket held it up"
    assert said[0] is True
    assert said[-1] is False


def test_home_is_that_of_the_process(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOKS_HOME", str(short))
    with _listener(nudge_path(short)) as end:
        assert nudge() is True
        assert end.recv(64)


def test_listener_is_private_and_leaves_nothing(short: Path) -> None:
    path = nudge_path(short)
    with _listener(path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_second_listener_is_refused_and_the_first_stays(short: Path) -> None:
    path = nudge_path(short)
    with _listener(path) as first:
        with pytest.raises(OSError, match="another worker of this home"), _listener(path):
            pass
        assert nudge(short)
        assert first.recv(64)


def test_socket_of_a_killed_worker_is_taken_over(short: Path) -> None:
    path = nudge_path(short)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    with _listener(path) as end:
        assert nudge(short)
        assert end.recv(64)


def test_folder_that_others_may_write_to_is_refused(short: Path) -> None:
    short.chmod(0o777)
    with pytest.raises(PermissionError, match="not private"), _listener(nudge_path(short)):
        pass


def test_it_is_a_type_of_its_own_by_name_and_a_process_worker_to_its_pool() -> None:
    assert ProcessWorker.get_worker_class_from_type("warm") is WarmWorker
    assert ProcessWorker.get_worker_class_from_type("process") is ProcessWorker
    assert WarmWorker.type == "process"


# ---- the worker ---------------------------------------------------------------------------------


class Warm:
    """A site with a warm worker that practically never polls by itself."""

    def __init__(self, site: Site, client: SyncPrefectClient, pool: str) -> None:
        self.site, self.pool, self.log = site, pool, site.folder / f"{pool}.log"
        self.deployment = Deployment(client, pool, site.code, shlex.join(site.command))
        self.worker = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-P", "-m", "deployments.warm_worker", "--pool", self.pool]
        before = self.log.read_text().count("started!") if self.log.exists() else 0
        process = self.site.popen(argv, self.log.name, PREFECT_WORKER_QUERY_SECONDS=NEVER)
        until(lambda: self.log.read_text().count("started!") > before, 90)
        return process

    def nudge(self) -> None:
        until(lambda: nudge(self.site.folder), 30)

    def ran(self, **parameters: object) -> tuple[Path, UUID]:
        """Start a run and nudge."""
        out = self.site.out()
        run = self.deployment.run(out, **parameters)
        self.nudge()
        return out, run.id


@pytest.fixture(scope="module")
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with sync_client() as client:
        yield client


@pytest.fixture(scope="module")
def warm(
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Warm]:
    site = Site(tmp_path_factory.mktemp("warm"), prefect_server.env)
    try:
        site.start_zygote()
        yield Warm(site, client, "warm")
    finally:
        site.close()


@LINUX
def test_nudged_run_begins_at_once_as_a_fork(warm: Warm) -> None:
    out, run_id = warm.ran()
    got = said(out, 50)  # the next poll comes after 42 s at least
    assert got["forked"] and got["parent"] == warm.site.zygote.pid
    ended = warm.deployment.ended(warm.deployment.client.read_flow_run(run_id))
    assert ended.state and ended.state.name == "Completed"
    assert "mismatch" not in warm.log.read_text()


@LINUX
def test_many_nudges_start_each_run_once(warm: Warm) -> None:
    outs = [warm.site.out() for _ in range(4)]
    runs = []
    for out in outs:
        nudge(warm.site.folder)  # before the run is there
        runs.append(warm.deployment.run(out))
        for _ in range(20):
            nudge(warm.site.folder)
    for run in runs:
        warm.nudge()
        ended = warm.deployment.ended(run, 60)
        assert ended.state and ended.state.name == "Completed"
        assert ended.run_count == 1
    assert len({said(out)["pid"] for out in outs}) == 4


@LINUX
def test_killed_run_is_crashed_and_the_worker_lives(warm: Warm) -> None:
    out, run_id = warm.ran(seconds=120)
    os.kill(said(out, 50)["pid"], signal.SIGKILL)
    ended = warm.deployment.ended(warm.deployment.client.read_flow_run(run_id), 50)
    assert ended.state and ended.state.type == "CRASHED"
    assert warm.worker.poll() is None


@LINUX
def test_cancelled_run_is_stopped(warm: Warm) -> None:
    out, run_id = warm.ran(seconds=120)
    pid = said(out, 50)["pid"]
    client = warm.deployment.client
    client.set_flow_run_state(run_id, Cancelling())
    ended = warm.deployment.ended(client.read_flow_run(run_id), 50)
    assert ended.state and ended.state.name == "Cancelled"
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert out.with_suffix(".undone").exists()


@LINUX
def test_environment_is_each_run_s_own(warm: Warm) -> None:
    outs = [warm.site.out(), warm.site.out()]
    client, deployment = warm.deployment.client, warm.deployment.id
    variables = {"env": {"ZYGOTE_TEST_MARK": "one"}}
    client.create_flow_run_from_deployment(
        deployment, parameters={"out": str(outs[0])}, job_variables=variables
    )
    client.create_flow_run_from_deployment(deployment, parameters={"out": str(outs[1])})
    warm.nudge()
    one, two = (said(out, 50) for out in outs)
    assert [one["mark"], two["mark"]] == ["one", None]
    assert one["forked"] and two["forked"]


@LINUX
def test_future_run_waits_for_its_time(warm: Warm) -> None:
    out, due = warm.site.out(), datetime.now(UTC) + timedelta(seconds=4)
    warm.deployment.client.create_flow_run_from_deployment(
        warm.deployment.id, parameters={"out": str(out)}, state=Scheduled(scheduled_time=due)
    )
    warm.nudge()  # within Prefect's prefetch: its process waits, the body does not begin early
    # Prefect says how long to wait in whole answers; what counts is that it waits at all.
    assert said(out, 50)["body"] >= due.timestamp() - 1


@LINUX
def test_labels_follow_later(warm: Warm) -> None:
    _, run_id = warm.ran()
    client = warm.deployment.client
    labels = until(
        lambda: (got := client.read_flow_run(run_id).labels).get("prefect.worker.name") and got,
        60,
    )
    assert labels["prefect.work-pool.name"] == warm.pool


@LINUX
def test_killed_worker_is_followed_by_another_while_a_run_goes_on(warm: Warm) -> None:
    out, run_id = warm.ran(seconds=5)
    said(out, 50)
    warm.worker.kill()
    warm.worker.wait()
    warm.worker = warm.start()
    # The first run's launcher outlived its worker: it ends by itself, and says so to the server.
    first = warm.deployment.ended(warm.deployment.client.read_flow_run(run_id), 60)
    assert first.state and first.state.name == "Completed"
    second, _ = warm.ran()
    assert said(second, 50)["forked"]


@LINUX
def test_plain_worker_works_beside_it_on_the_same_pool(warm: Warm) -> None:
    """The plain one takes over with the same pool, unnudged, when the warm one is gone."""
    plain = warm.site.start_worker(warm.pool, PREFECT_WORKER_QUERY_SECONDS="1")
    _, run_id = warm.ran()
    shared = warm.deployment.ended(warm.deployment.client.read_flow_run(run_id), 60)
    warm.worker.terminate()
    assert warm.worker.wait(40) == 0
    assert not nudge(warm.site.folder)
    alone = warm.site.out()
    run = warm.deployment.run(alone)
    assert said(alone, 90)["forked"], "the pool's command is the plain worker's too"
    for ended in (shared, warm.deployment.ended(run, 60)):
        assert ended.state and ended.state.name == "Completed" and ended.run_count == 1
    assert "mismatch" not in warm.log.read_text()
    plain.terminate()
    plain.wait(40)
    warm.worker = warm.start()


@LINUX
def test_stopped_worker_ends_its_runs(warm: Warm) -> None:
    out, run_id = warm.ran(seconds=120)
    pid = said(out, 50)["pid"]
    warm.worker.terminate()
    assert warm.worker.wait(40) == 0
    until(lambda: not Path(f"/proc/{pid}").exists(), 30)
    assert out.with_suffix(".undone").exists()
    warm.worker = warm.start()


@LINUX
def test_zygote_is_recycled_when_it_has_no_run(warm: Warm) -> None:
    site = warm.site
    site.zygote.terminate()
    site.zygote.wait(30)
    site.env["RUNBOOKS_ZYGOTE_RUNS"] = "2"
    site.start_zygote()
    old = site.zygote
    slow, _ = warm.ran(seconds=4)
    assert said(slow, 50)["parent"] == old.pid
    quick, _ = warm.ran()
    assert said(quick, 50)["parent"] == old.pid
    assert old.wait(60) == 0
    assert slow.with_suffix(".undone").exists(), "it ended under a run"
    late, run_id = warm.ran()
    assert not said(late, 90)["forked"], "meanwhile runs start without it"
    del site.env["RUNBOOKS_ZYGOTE_RUNS"]
    site.start_zygote()
    again, _ = warm.ran()
    assert said(again, 50)["parent"] == site.zygote.pid


def test_number_of_runs_is_checked() -> None:
    from deployments.zygote import RUNS, runs_of

    assert [runs_of({}), runs_of({"RUNBOOKS_ZYGOTE_RUNS": "7"})] == [RUNS, 7]
    for bad in ("0", "-1", "many", "1.5", "²"):
        with pytest.raises(SystemExit, match="RUNBOOKS_ZYGOTE_RUNS"):
            runs_of({"RUNBOOKS_ZYGOTE_RUNS": bad})
