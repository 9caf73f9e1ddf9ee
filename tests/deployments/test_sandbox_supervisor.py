"""The local supervisor: one process per service, its end always known."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deployments.sandbox import supervisor
from deployments.sandbox.local import LocalService, Sandbox, SandboxError
from deployments.sandbox.processes import alive, birth, read_env_file, write_json

QUICK = {"startup_s": 0.02}


@pytest.fixture
def box(tmp_path):
    with Sandbox.create(tmp_path / "box") as box:
        yield box


@pytest.fixture
def sleeper(box):
    """Put any argv under supervision; returns the command function of the service."""

    def make(argv, name="s", **spec):
        home = box.dir / name
        home.mkdir()
        write_json(home / "service.json", {"argv": argv, **spec})
        box.services[name] = LocalService(name, 0, home, "arguments", None)
        return name

    return make


def state(box, name):
    return json.loads((box.dir / name / "state.json").read_text())


def python(code):
    return [sys.executable, "-S", "-c", code]


LOOP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); " + (
    "time.sleep(60)"
)


def eventually(check, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
    return value


@pytest.mark.parametrize("style", ["yaml", "env-file", "arguments"])
def test_a_service_outlives_its_command_and_reads_its_config(box, style):
    service = box.add_vllm("v", style=style, params=QUICK, serving={"max_model_len": 4096})
    assert box.run("v", "status").returncode == supervisor.STOPPED
    box.start("v", ready_s=5)
    assert box.run("v", "status").returncode == supervisor.RUNNING
    models = httpx.get(f"{service.url}/v1/models").json()["data"][0]
    assert (models["id"], models["max_model_len"]) == ("wintermute", 4096)
    if service.config:
        key = service.keys["max_model_len"]
        text = service.config.read_text()
        assert key in text
        service.config.write_text(text.replace("4096", "2048"))
        box.restart("v", ready_s=5)
        assert httpx.get(f"{service.url}/v1/models").json()["data"][0]["max_model_len"] == 2048
        assert "Using max model len 2048" in box.logs("v")
        assert "Using max model len 4096" not in box.logs("v")
        assert "Using max model len 4096" in box.logs("v", "--previous")
        assert "Using max model len 4096" in box.logs("v", "--all")
    box.stop("v")
    status = box.status("v")
    assert (status["phase"], status["exit_code"], status["pid"]) == ("exited", 0, None)
    assert status["finished_at"] > status["started_at"]


def test_own_keys_of_a_yaml_file_are_understood(box):
    service = box.add_vllm("v", params=QUICK, keys={"max_model_len": "context_length"})
    assert "context_length: 8192" in service.config.read_text()
    box.start("v", ready_s=5)
    assert "Using max model len 8192" in box.logs("v", "--tail", "200")
    fragment = box.stack()["services"]["v"]
    assert fragment["serving"]["key_map"]["max_model_len"] == "context_length"
    assert fragment["runtime"]["status"][-2:] == ["status", "v"]


def test_failed_start_keeps_its_exit_code_and_log(box):
    box.add_vllm("v", params=QUICK, serving={"max_model_len": 16384})
    with pytest.raises(SandboxError, match="Engine core initialization failed"):
        box.start("v", ready_s=5)
    assert box.status("v")["exit_code"] == 1
    assert "estimated maximum model length is 10752" in box.logs("v")


def test_start_is_a_no_op_while_it_runs(box, sleeper):
    name = sleeper(python(LOOP))
    box.start(name)
    pid = box.status(name)["pid"]
    box.start(name)
    assert box.status(name)["pid"] == pid


def test_starts_at_the_same_time_make_one_process(box, sleeper):
    name = sleeper(python("open('starts', 'a').write('x'); import time; time.sleep(60)"))
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda _: box.run(name, "start").returncode, range(6)))
    assert codes == [0] * 6
    eventually((box.dir / name / "starts").exists)
    time.sleep(0.1)
    assert (box.dir / name / "starts").read_text() == "x"


def test_starts_and_stops_in_a_storm_end_in_one_known_state(box, sleeper):
    name = sleeper(python(LOOP))
    verbs = ["start", "restart", "stop", "start", "restart", "stop", "restart"]
    with ThreadPoolExecutor(7) as pool:
        list(pool.map(lambda v: box.run(name, v), verbs))
    box.stop(name)
    assert box.status(name)["phase"] == "exited"
    assert not alive(state(box, name)["pid"], state(box, name)["born"])


def test_unknown_services_and_bad_argv_are_told_apart(box, sleeper):
    argv = [sys.executable, "-m", "deployments.sandbox.supervisor", "--dir", str(box.dir)]
    for name in ("nobody", "../box", ""):
        done = subprocess.run([*argv, "status", name], capture_output=True, text=True, check=False)
        assert done.returncode == supervisor.UNKNOWN
        assert "unknown service" in done.stderr
    name = sleeper(["/no/such/program"])
    box.start(name)
    assert box.wait_exited(name)["exit_code"] == 127
    assert "No such file" in box.logs(name)


def test_stop_kills_the_group_and_a_deaf_process(box, sleeper):
    child = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', "
        + ("'import time; time.sleep(60)']); open('ready', 'w'); ")
        + DEAF
    )
    name = sleeper(python(child), stop_s=0.3)
    box.start(name)
    eventually(lambda: "up" in box.logs(name))
    group = box.status(name)["pid"]
    begun = time.monotonic()
    box.stop(name)
    assert 0.25 < time.monotonic() - begun < 20
    assert box.status(name)["exit_code"] == 137
    assert not box.status(name)["oom_killed"]
    eventually(lambda: not living(group))


def living(group: int) -> list[str]:
    out = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in out.stdout.splitlines()]
    return [s for g, s in rows if int(g) == group and not s.startswith("Z")]


def test_kill_9_of_the_child_is_recorded(box, sleeper):
    name = sleeper(python(LOOP))
    box.start(name)
    os.kill(box.status(name)["pid"], signal.SIGKILL)
    status = box.wait_exited(name)
    assert (status["exit_code"], status["oom_killed"], status["running"]) == (137, False, False)


def test_host_oom_is_told_from_a_plain_kill(box):
    box.add_vllm("v", params={**QUICK, "host_oom_at_start": True})
    box.start("v")
    status = box.wait_exited("v")
    assert (status["exit_code"], status["oom_killed"]) == (137, True)
    box.fault("v", host_oom_at_start=False)
    box.start("v", ready_s=5)
    assert not box.status("v")["oom_killed"]


def test_kill_9_of_the_babysitter_leaves_a_service_that_can_be_stopped(box, sleeper):
    name = sleeper(python(LOOP))
    box.start(name)
    os.kill(state(box, name)["sitter"], signal.SIGKILL)
    eventually(lambda: not alive(state(box, name)["sitter"], state(box, name)["sitter_born"]))
    status = box.status(name)
    assert status["running"]
    assert "unsupervised" in status["detail"]
    pid = status["pid"]
    box.start(name)
    assert box.status(name)["pid"] == pid
    box.restart(name)
    assert box.status(name)["pid"] != pid
    assert box.status(name)["detail"] == ""
    assert birth(pid) == ""


def test_both_killed_is_exited_with_an_unknown_code(box, sleeper):
    name = sleeper(python(LOOP))
    box.start(name)
    s = state(box, name)
    os.kill(s["sitter"], signal.SIGKILL)
    os.kill(s["pid"], signal.SIGKILL)
    status = box.wait_exited(name)
    assert (status["exit_code"], status["running"]) == (None, False)
    assert "exit code unknown" in status["detail"]
    box.start(name)
    assert box.status(name)["running"]


def test_a_recycled_pid_is_never_mistaken(box, sleeper):
    name = sleeper(python(LOOP))
    box.start(name)
    box.stop(name)
    bystander = subprocess.Popen(python("import time; time.sleep(60)"))
    try:
        forged = {**state(box, name), "phase": "running", "pid": bystander.pid}
        write_json(box.dir / name / "state.json", forged)
        assert not box.status(name)["running"]
        box.stop(name)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_restart_policy_counts_and_gives_up(box, sleeper):
    name = sleeper(python("print('try', flush=True); raise SystemExit(3)"), restart="on-failure:2")
    box.start(name)
    status = box.wait_exited(name)
    assert (status["exit_code"], status["restarts"]) == (3, 2)
    assert box.logs(name) == "try\n"
    assert box.logs(name, "--all") == "try\n" * 3
    box.start(name)
    assert box.wait_exited(name)["restarts"] == 2  # counted from the new start


def test_restart_policy_leaves_a_clean_end_alone_and_obeys_stop(box, sleeper):
    clean = sleeper(python("pass"), "clean", restart="on-failure:3")
    box.start(clean)
    assert box.wait_exited(clean)["restarts"] == 0
    failing = sleeper(python("raise SystemExit(1)"), "failing", restart="on-failure:50")
    box.start(failing)
    eventually(lambda: box.status(failing)["restarts"] >= 2)
    box.stop(failing)
    before = box.status(failing)
    time.sleep(0.5)
    assert box.status(failing) == before
    assert before["phase"] == "exited"


def test_a_fault_reaches_the_running_server_and_can_be_removed(box):
    service = box.add_vllm("v", params=QUICK)
    box.start("v", ready_s=5)
    assert box.fault("v", health_status=500, frozen=True) == {"health_status": 500, "frozen": True}
    assert httpx.get(f"{service.url}/health").status_code == 500
    assert box.fault("v", health_status=None) == {"frozen": True}
    assert httpx.get(f"{service.url}/health").status_code == 200
    assert box.fault("v", clear=True) == {}
    with pytest.raises(ValueError, match="unknown setting"):
        box.fault("v", nope=1)


def test_logs_since_leave_out_older_starts(box, sleeper):
    name = sleeper(python("import os; print(os.getpid())"))
    box.start(name)
    box.wait_exited(name)
    time.sleep(0.05)
    between = time.time()
    box.start(name)
    box.wait_exited(name)
    assert len(box.logs(name, "--since", str(between)).split()) == 1
    assert len(box.logs(name, "--since", "2020-01-01T00:00:00Z").split()) == 2


def test_calls_are_quick(box, sleeper):
    name = sleeper(python(LOOP))
    took = []
    for verb in ("start", "status", "start", "status", "stop"):
        begun = time.monotonic()
        box.run(name, verb)
        took.append(time.monotonic() - begun)
    assert sorted(took)[len(took) // 2] < 1, took  # 0.04 s on an idle machine


def test_supervisor_imports_nothing_heavy():
    code = (
        "import sys; import deployments.sandbox.supervisor; "
        "print([m for m in ('asyncio', 'subprocess', 'pydantic', 'prefect', 'docker') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_environment_files_are_read_as_handbooks_write_them(tmp_path):
    path = tmp_path / ".env"
    path.write_text("# c\nexport A=1\nB='two # 2' # c\nC=3 # c\n\nnot a line\nD=a=b\n")
    assert read_env_file(path) == {"A": "1", "B": "two # 2", "C": "3", "D": "a=b"}
