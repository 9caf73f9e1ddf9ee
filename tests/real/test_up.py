"""`runbooks up` as a real process: what it says, survives, restarts and leaves behind."""

import json
import os
import signal
import socket

import pytest

from tests.conftest import free_port
from tests.real.upped import Upped, alive, failed_vllm, of_home, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("up") / "home"


@pytest.fixture(scope="module")
def up(home):
    """One `up` for the tests that leave it serving."""
    with Upped(home, free_port()) as started:
        yield started.ready()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A vLLM stand-in that died; the first run heals it."""
    box, file = failed_vllm(tmp_path_factory.mktemp("box"))
    yield file
    box.stop_all()


def heal(up, stack):
    return up.runbooks("run", "remediate-oom", "--stack", str(stack), "--service", "wintermute")


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    until(f"{pid} ends", lambda: not alive(pid))


def test_run_gives_json_alone_on_standard_output(up, stack):
    words = ("run", "remediate-oom", "--stack", str(stack), "--service", "wintermute", "--json")
    done = up.runbooks(*words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "passed"
    assert report["attempts"][0]["plan"]["after"]["max_model_len"] == 8192


def test_runs_lists_it(up):
    rows = json.loads(up.runbooks("runs", "--json").stdout)
    assert rows[0]["state"] == "Passed"
    listed = up.runbooks("runs")
    assert listed.returncode == 0
    assert "remediate-oom wintermute" in listed.stdout


def test_second_up_of_the_same_home_is_refused(up):
    before = up.children
    with Upped(up.home, up.port) as second:
        assert second.process.wait(60) == 2
        assert f"already serves this home at {up.ui}" in second.said
        assert "Traceback" not in second.said
        # It must not take the first one down, nor its description away.
        assert up.children == before
        assert all(map(alive, before.values()))
        second.home = up.home / "none"  # nothing of the first one is ours to end


@pytest.mark.parametrize("name", ["worker", "zygote", "server"])
def test_killed_child_is_restarted_and_runs_go_on(up, stack, name):
    before = up.children
    kill(before[name])
    until(f"{name} restarted", lambda: up.children.get(name) not in (None, before[name]))
    until("the server answers", up.answers, 60)
    assert f"{name} ended (-9); restarting" in up.said
    others = {k: v for k, v in before.items() if k != name}
    assert {k: v for k, v in up.children.items() if k != name} == others
    done = heal(up, stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no action: the service is healthy" in done.stdout


def test_killed_up_is_cleaned_up_by_the_next(up):
    orphans = of_home(up.home)
    kill(up.process.pid)
    up.process.wait()
    # Now the port of the orphaned server is taken, and freed when it is stopped.
    with Upped(up.home, up.port, "--schedules") as heir:
        heir.ready()
        assert "of an earlier `runbooks up` that was killed" in heir.said
        assert heir.ui == up.ui
        left = {pid: words for pid, words in orphans.items() if alive(pid)}
        assert not left
        # The cap on sqlalchemy: 2.1 stops schedules from being turned into runs, silently.
        scheduled = until("a scheduled run", lambda: scheduled_runs(heir), 120)
        assert {run["parameters"]["stack"] for run in scheduled} == {"*"}
        assert "schedule(s) active" in heir.said
        named = [a["name"] for a in heir.api("/api/automations/filter", {})]
        assert [n for n in named if "heartbeat" in n] == named, named
        assert len(named) == 1  # though it was started twice
        assert heir.stop(signal.SIGTERM) == 0
        assert "stopped" in heir.said
        assert not of_home(up.home)
        assert not (up.home / "up.json").exists()


def scheduled_runs(up):
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return up.api("/api/flow_runs/filter", {**wanted, "sort": "EXPECTED_START_TIME_ASC"})


def test_ctrl_c_stops_everything_and_a_taken_port_is_stepped_over(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Upped(tmp_path / "home", port) as up:
            up.ready()
            assert up.port > port
            assert f"port {port} is taken: using {up.port}" in up.said
            assert {"server", "worker"} <= set(up.children)
            assert up.stop(signal.SIGINT) == 0
            assert "Traceback" not in up.said
            assert not of_home(up.home)
            assert not (up.home / "up.json").exists()


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path):
    with Upped(tmp_path / "home", free_port()) as up:
        until("the server starts", lambda: "server" in up.children or up.process.poll())
        up.stop(signal.SIGINT)
        assert "Traceback" not in up.said
        assert not of_home(up.home)
        assert not (up.home / "up.json").exists()
