"""Runs that a zygote forks are runs like any other: supervised, isolated, and never lost."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelling

from deployments.zygote import SUN_PATH, socket_path
from deployments.zygote_imports import code_stamp
from tests.conftest import PrefectServer
from tests.real.zygote_site import Deployment, Site, said, sync_client, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="the probe reads /proc"),
]


@pytest.fixture(scope="module")
def site(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("zygote"), prefect_server.env)
    try:
        site.start_zygote()
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with sync_client() as client:
        yield client


@pytest.fixture(scope="module")
def probe(site: Site, client: SyncPrefectClient) -> Deployment:
    """Runs that the tests launch themselves."""
    return Deployment(client, "launched", site.code, "")


@pytest.fixture(scope="module")
def worked(site: Site, client: SyncPrefectClient) -> Deployment:
    """Runs that a real process worker launches."""
    deployment = Deployment(client, "worked", site.code, shlex.join(site.command))
    site.start_worker("worked")
    return deployment


def test_a_worker_s_run_is_a_fork_of_the_zygote(site: Site, worked: Deployment) -> None:
    out = site.out()
    run = worked.run(out)
    got = said(out, 60)
    ended = worked.ended(run)
    assert ended.state and ended.state.name == "Completed"
    assert (got["parent"], got["forked"]) == (site.zygote.pid, True)
    assert got["argv"] == [os.path.join(*_engine())]
    assert not got["matplotlib"]
    zygote = Path(f"/proc/{site.zygote.pid}/fd")
    sockets = {os.readlink(fd) for fd in zygote.iterdir()} & set(got["fds"].values())
    assert not {s for s in sockets if s.startswith("socket:")}, "a child holds the zygote's sockets"
    until(lambda: f"printed by {got['pid']}" in (site.folder / "worked.log").read_text())


def _engine() -> tuple[str, str]:
    import prefect

    return str(Path(str(prefect.__file__)).parent), "engine.py"


def test_a_killed_run_is_crashed_by_its_worker(site: Site, worked: Deployment) -> None:
    run = worked.run(site.out(), mode="kill")
    ended = worked.ended(run)
    assert ended.state and ended.state.type == "CRASHED"
    assert "status code: -9" in (ended.state.message or "")
    assert site.zygote.poll() is None


def test_a_cancelled_run_undoes_and_is_cancelled(site: Site, worked: Deployment) -> None:
    out = site.out()
    run = worked.run(out, seconds=60)
    said(out)
    worked.client.set_flow_run_state(run.id, Cancelling())
    ended = worked.ended(run)
    assert ended.state and ended.state.name == "Cancelled"
    assert out.with_suffix(".undone").exists()


def test_a_killed_launcher_lets_the_run_undo_and_is_crashed(site: Site, worked: Deployment) -> None:
    out = site.out()
    run = worked.run(out, seconds=60)
    got = said(out)
    os.kill(_launcher(site, str(run.id)), signal.SIGKILL)
    until(out.with_suffix(".undone").exists)
    until(lambda: not Path(f"/proc/{got['pid']}").exists())
    ended = worked.ended(run)
    assert ended.state and ended.state.type == "CRASHED"


def _launcher(site: Site, run_id: str) -> int:
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit():
            try:
                argv = (proc / "cmdline").read_bytes()
                env = (proc / "environ").read_bytes()
            except OSError:
                continue
            if site.command[-1].encode() in argv and f"FLOW_RUN_ID={run_id}".encode() in env:
                return int(proc.name)
    raise AssertionError("no launcher")


def test_a_launcher_ends_as_its_run_does(site: Site, probe: Deployment) -> None:
    waits = [
        site.launch(probe.run(site.out())),
        site.launch(probe.run(site.out(), mode="exit")),
        site.launch(probe.run(site.out(), mode="kill")),
        site.launch("not-a-run"),
    ]
    assert [p.wait(60) for p in waits] == [0, 7, -9, 1]


def test_sigterm_reaches_the_run_and_a_second_death_is_final(site: Site, probe: Deployment) -> None:
    out = site.out()
    launcher = site.launch(probe.run(out, seconds=60))
    got = said(out)
    launcher.terminate()
    assert launcher.wait(60) == -signal.SIGTERM
    assert out.with_suffix(".undone").exists()
    assert not Path(f"/proc/{got['pid']}").exists()


def test_a_launcher_killed_after_sigterm_takes_the_run_with_it(
    site: Site, probe: Deployment
) -> None:
    out = site.out()
    launcher = site.launch(probe.run(out, seconds=60))
    got = said(out)
    os.kill(got["pid"], signal.SIGSTOP)  # an undo that takes longer than Prefect waits
    launcher.terminate()
    time.sleep(0.3)
    launcher.kill()
    until(lambda: not Path(f"/proc/{got['pid']}").exists())
    assert not out.with_suffix(".undone").exists()


def test_runs_share_no_environment(site: Site, probe: Deployment) -> None:
    outs = [site.out(), site.out(), site.out()]
    other = str(site.env["PREFECT_API_URL"]).replace("127.0.0.1", "localhost")
    waits = [
        site.launch(probe.run(outs[0], seconds=1), ZYGOTE_TEST_MARK="one"),
        site.launch(
            probe.run(outs[1], seconds=1), PREFECT_API_URL=other, PREFECT_LOGGING_LEVEL="DEBUG"
        ),
        # A setting that decorators read at import: only a fresh interpreter has it right.
        site.launch(probe.run(outs[2]), PREFECT_TASKS_DEFAULT_RETRIES="3"),
    ]
    assert [p.wait(60) for p in waits] == [0, 0, 0]
    one, two, three = (said(o) for o in outs)
    assert [one["mark"], two["mark"]] == ["one", None]
    assert [one["api"], two["api"]] == [site.env["PREFECT_API_URL"], other]
    assert one["level"] != two["level"] == "DEBUG"
    assert one["random"] != two["random"]
    assert [one["forked"], two["forked"], three["forked"]] == [True, True, False]
    assert three["parent"] == site.zygote.pid, "the child itself became the fresh interpreter"


def test_ten_at_once(site: Site, probe: Deployment) -> None:
    outs = [site.out() for _ in range(10)]
    waits = [site.launch(probe.run(o)) for o in outs]
    assert [p.wait(90) for p in waits] == [0] * 10
    got = [json.loads(o.read_text()) for o in outs]
    assert {g["parent"] for g in got} == {site.zygote.pid}
    assert len({g["pid"] for g in got}) == len({g["random"] for g in got}) == 10


def test_a_hostile_or_cut_request_does_not_hurt(site: Site, probe: Deployment) -> None:
    import socket

    for words in (b"", b"\xff\xff\xff\xff", b"\0\0\0\x04junk", b"\0\0\1\0cut"):
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(str(site.socket))
            end.send(words)
            if words.endswith(b"junk"):
                assert end.recv(100).startswith(b"R")
    assert site.launch(probe.run(site.out())).wait(60) == 0
    assert site.zygote.poll() is None
    assert site.socket.stat().st_mode & 0o777 == 0o600


def test_without_a_zygote_the_launcher_becomes_the_engine(site: Site, probe: Deployment) -> None:
    outs = [site.out(), site.out()]
    waits = [
        site.launch(probe.run(outs[0]), RUNBOOKS_ZYGOTE=str(site.folder / "nobody.sock")),
        site.launch(probe.run(outs[1], mode="kill"), RUNBOOKS_ZYGOTE=""),
    ]
    assert [p.wait(90) for p in waits] == [0, -9]
    for launcher, out in zip(waits, outs, strict=True):
        assert (said(out)["pid"], said(out)["forked"]) == (launcher.pid, False)


def test_a_zygote_that_dies_loses_no_run(site: Site, probe: Deployment) -> None:
    """Before the fork the launcher runs it; after it, it supervises the orphan by itself."""
    outs = [site.out() for _ in range(4)]
    runs = [
        site.launch(probe.run(outs[0], seconds=3)),
        site.launch(probe.run(outs[1], seconds=60)),
        site.launch(probe.run(outs[2], mode="kill", seconds=3)),
    ]
    got = [said(o) for o in outs[:3]]
    site.zygote.send_signal(signal.SIGSTOP)
    early = site.launch(probe.run(outs[3]))
    time.sleep(0.5)
    site.zygote.kill()
    site.zygote.wait()
    try:
        runs[1].terminate()
        assert [p.wait(60) for p in runs] == [0, -15, -9]
        assert outs[1].with_suffix(".undone").exists()
        assert early.wait(60) == 0
        assert said(outs[3])["pid"] == early.pid
        assert all(g["forked"] for g in got)
    finally:
        site.start_zygote()


def test_a_zygote_that_hangs_starts_no_run_twice(site: Site, probe: Deployment) -> None:
    out, never = site.out(), site.out()
    site.zygote.send_signal(signal.SIGSTOP)
    launcher = site.launch(probe.run(out))
    killed = site.launch(probe.run(never))
    time.sleep(0.3)
    killed.kill()
    try:
        assert launcher.wait(60) == 0
        first = said(out)
        assert first["pid"] == launcher.pid
    finally:
        site.zygote.send_signal(signal.SIGCONT)
    time.sleep(1)
    assert said(out) == first, "the zygote forked a second one when it woke"
    assert not never.exists(), "a launcher killed before its run began takes it back"
    assert site.zygote.poll() is None


def test_edited_code_is_never_run_stale(site: Site, probe: Deployment) -> None:
    long, out = site.out(), site.out()
    before = site.launch(probe.run(long, mode="exit", seconds=5))
    said(long)
    edited = site.code / "flows" / "report.py"
    edited.write_text(edited.read_text() + "\n")
    launcher = site.launch(probe.run(out))
    assert launcher.wait(60) == 0
    assert (said(out)["pid"], said(out)["forked"]) == (launcher.pid, False)
    assert before.wait(60) == 7, "the zygote waits for its runs"
    assert site.zygote.wait(60) == 0, "and ends, to be started again with the new code"
    assert not site.socket.exists()


def test_sigterm_ends_the_zygote_after_its_runs(site: Site, probe: Deployment) -> None:
    site.start_zygote()
    out = site.out()
    launcher = site.launch(probe.run(out, seconds=60))
    said(out)
    site.zygote.terminate()
    assert launcher.wait(60) == -signal.SIGTERM
    assert out.with_suffix(".undone").exists()
    assert site.zygote.wait(60) == 0


def test_a_launcher_starts_in_milliseconds(site: Site) -> None:
    def seconds() -> float:
        began = os.times()
        code = "import runpy, sys; sys.argv=['x']; runpy.run_path(sys.orig_argv[-1], run_name='x')"
        argv = [*site.command[:-1], "-c", code, site.command[-1]]
        subprocess.run(argv, check=True)
        ended = os.times()  # of its CPU: the machine may be busy with something else
        return sum(ended[2:4]) - sum(began[2:4])

    assert min(seconds() for _ in range(5)) < 0.2


def test_a_long_home_gets_a_short_private_socket(tmp_path: Path) -> None:
    path = socket_path(tmp_path / ("long" * 30))
    assert len(str(path)) <= SUN_PATH
    assert str(os.getuid()) in path.parent.name
    assert socket_path(Path("/x")) == Path("/x/zygote.sock")


def test_the_stamp_covers_every_package() -> None:
    stamp = code_stamp()
    for name in ("blocks/stack.py", "flows/decisions/plan.py", "tasks/", "deployments/zygote.py"):
        assert any(name in path for path, _, _ in stamp), name


def test_a_fresh_interpreter_may_take_longer_than_the_launchers_patience(
    site: Site, probe: Deployment
) -> None:
    out = site.out()
    launcher = site.launch(probe.run(out, seconds=14), PREFECT_TASKS_DEFAULT_RETRIES="3")
    assert launcher.wait(120) == 0
    assert not said(out)["forked"]
