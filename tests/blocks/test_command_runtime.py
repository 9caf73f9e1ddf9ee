"""The command runtime against real processes: small scripts stand in for systemctl and friends."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blocks import command
from blocks.command import capture, perform
from blocks.command_runtime import CommandRuntime
from blocks.command_status import read_status
from blocks.errors import Permanent, Transient, Unsafe
from blocks.models import Receipt, ServiceState, ServingConfig
from blocks.runtime import Runtime
from blocks.service import CommandRuntimeSpec, EnvFileSource, YamlSource
from blocks.serving_file import list_backups

SERVER = """
import pathlib, sys, time
home = pathlib.Path(sys.argv[1])
(home / "started.log").open("a").write((home / "v.yaml").read_text().splitlines()[1] + "\\n")
time.sleep(60)
"""
# restart | stop | status of one background process, as a start script of a small shop does it.
CONTROL = """
import json, os, pathlib, signal, subprocess, sys, time
home, what = pathlib.Path(sys.argv[1]), sys.argv[2]
pid_file = home / "pid"

def alive():
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, 0)
        return pid if "Z" not in open(f"/proc/{pid}/stat").read().split(")")[1][:3] else 0
    except (OSError, ValueError):
        return 0

if (home / "broken").exists():
    sys.exit("unit is masked")
if what in ("restart", "stop"):
    print(what, "called")
    if pid := alive():
        os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)
    (home / "calls").open("a").write(what + "\\n")
if what == "restart":
    before = (home / "started.log").stat().st_size if (home / "started.log").exists() else 0
    server = subprocess.Popen([sys.executable, "-S", str(home / "server.py"), str(home)])
    pid_file.write_text(str(server.pid))
    while not (home / "started.log").exists() or (home / "started.log").stat().st_size == before:
        time.sleep(0.005)
if what == "status":
    pid = alive()
    print(json.dumps({"running": bool(pid), "pid": pid, "detail": "control.py"}))
"""
CONFIG = "# config of vllm\nmax_model_len: 16384  # tokens\nmax_num_seqs: 8\n"


class Shop:
    """A directory with a config, a server and the script that runs it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "v.yaml"
        self.file.write_text(CONFIG)
        (home / "server.py").write_text(SERVER)
        (home / "control.py").write_text(CONTROL)
        self.source = YamlSource(kind="yaml", path=str(self.file))

    def argv(self, what: str) -> tuple[str, ...]:
        return (sys.executable, "-S", str(self.home / "control.py"), str(self.home), what)

    def runtime(self, **more: object) -> CommandRuntime:
        spec = {
            "restart": self.argv("restart"),
            "stop": self.argv("stop"),
            "status": self.argv("status"),
            "logs": ("cat", str(self.home / "started.log")),
            "status_format": "json",
            "timeout_s": 20,
        }
        spec = CommandRuntimeSpec(kind="command", **{**spec, **more})
        return CommandRuntime("lab/wintermute", spec, self.source)

    def calls(self) -> list[str]:
        path = self.home / "calls"
        return path.read_text().split() if path.exists() else []

    def started_with(self) -> list[str]:
        return (self.home / "started.log").read_text().splitlines()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    if (tmp_path / "pid").exists():
        with_pid = int((tmp_path / "pid").read_text())
        try:
            os.kill(with_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.fixture
async def running(shop: Shop) -> Shop:
    await perform(shop.argv("restart"), cwd=None, timeout_s=20, output=shop.home / "first.log")
    return shop


async def half(runtime: CommandRuntime) -> Receipt:
    now = await runtime.read_config()
    receipt = await runtime.prepare(now.changed(max_model_len=8192), "run-1")
    return Receipt.model_validate_json(receipt.model_dump_json())  # as after a kill -9


# --- the change and its way back -----------------------------------------------------------


def test_it_is_a_runtime(shop: Shop) -> None:
    runtime: Runtime = shop.runtime()
    assert runtime


async def test_prepare_changes_nothing_but_makes_a_backup(running: Shop) -> None:
    runtime = running.runtime()
    before = await runtime.state()
    receipt = await half(runtime)
    assert running.file.read_text() == CONFIG
    assert await runtime.state() == before
    assert receipt.was_running
    assert receipt.before == ServingConfig(max_model_len=16384, max_num_seqs=8)
    assert [b.run_id for b in list_backups(running.source)] == ["run-1"]
    assert not await runtime.applied(receipt)


async def test_act_edits_and_restarts_and_restore_brings_both_back(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    old = (await runtime.state()).instance
    await runtime.act(receipt)
    assert running.file.read_text() == CONFIG.replace("16384", "8192")
    assert await runtime.applied(receipt)
    state = await runtime.state()
    assert state.running
    assert state.instance != old

    await running.runtime().restore(receipt)
    assert running.file.read_text() == CONFIG
    assert (await runtime.state()).running
    assert not await runtime.applied(receipt)
    assert running.started_with() == [
        "max_model_len: 16384  # tokens",
        "max_model_len: 8192  # tokens",
        "max_model_len: 16384  # tokens",
    ]
    assert (await runtime.read_log()).decode().splitlines() == running.started_with()


async def test_restore_and_commit_may_be_repeated(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    await runtime.act(receipt)
    await runtime.commit(receipt)
    await runtime.commit(receipt)
    assert await runtime.applied(receipt)
    await runtime.restore(receipt)
    await runtime.restore(receipt)
    assert running.file.read_text() == CONFIG
    assert (await runtime.state()).running


async def test_a_service_that_was_down_is_down_after_restore(shop: Shop) -> None:
    runtime = shop.runtime()
    receipt = await half(runtime)
    assert not receipt.was_running
    await runtime.act(receipt)
    assert (await runtime.state()).running
    await runtime.restore(receipt)
    assert (await runtime.state()).phase == "exited"
    assert shop.file.read_text() == CONFIG


async def test_act_killed_before_or_after_the_edit_is_finished_or_undone(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    await runtime.restore(receipt)  # killed before the edit
    assert running.file.read_text() == CONFIG

    receipt = await half(runtime)
    broken = running.runtime(restart=("false",))
    with pytest.raises(Permanent, match="restart command false exited 1"):
        await broken.act(receipt)
    assert running.file.read_text() != CONFIG
    assert not await runtime.applied(receipt)  # edited, but the old process still runs
    await runtime.act(receipt)  # finishes it
    assert await runtime.applied(receipt)
    await runtime.restore(receipt)
    assert running.file.read_text() == CONFIG


async def test_applied_does_not_guess_while_the_status_fails(running: Shop) -> None:
    receipt = await half(running.runtime())
    await running.runtime().act(receipt)
    with pytest.raises(Transient, match="cannot tell what runs"):
        await running.runtime(status=("false",)).applied(receipt)


async def test_act_refuses_a_file_that_was_edited_since_prepare(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    running.file.write_text(CONFIG + "# mine\n")
    calls = running.calls()
    with pytest.raises(Unsafe) as caught:
        await runtime.act(receipt)
    assert caught.value.reason == "drifted"
    assert running.calls() == calls
    assert running.file.read_text() == CONFIG + "# mine\n"


async def test_restore_never_overwrites_what_a_person_wrote_after_the_change(
    running: Shop,
) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    await runtime.act(receipt)
    mine = CONFIG.replace("16384", "4096")
    running.file.write_text(mine)
    calls = running.calls()
    for _ in range(2):
        with pytest.raises(Unsafe, match="edited by somebody after the change"):
            await runtime.restore(receipt)
    assert running.file.read_text() == mine
    assert running.calls() == calls
    kept = [b for b in list_backups(running.source) if b.run_id.startswith("drifted-")]
    assert [Path(b.path).read_text() for b in kept] == [mine]


async def test_restore_brings_back_a_file_that_is_gone(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    await runtime.act(receipt)
    running.file.unlink()
    await runtime.restore(receipt)
    assert running.file.read_text() == CONFIG


async def test_restore_names_a_backup_that_is_gone_or_damaged(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    await runtime.act(receipt)
    backup = Path(receipt.data["backup"])
    backup.write_text("x: 1\n")
    with pytest.raises(Permanent, match="damaged"):
        await runtime.restore(receipt)
    backup.unlink()
    with pytest.raises(Permanent, match="does not exist"):
        await runtime.restore(receipt)


async def test_a_foreign_or_damaged_receipt_is_refused(running: Shop) -> None:
    runtime = running.runtime()
    receipt = await half(runtime)
    with pytest.raises(Permanent, match="receipt is of lab/other"):
        await runtime.restore(receipt.model_copy(update={"service": "lab/other"}))
    with pytest.raises(Permanent, match="damaged"):
        await runtime.restore(receipt.model_copy(update={"data": {}}))


async def test_prepare_refuses_what_could_not_be_undone(running: Shop) -> None:
    now = await running.runtime().read_config()
    after = now.changed(max_model_len=8192)
    with pytest.raises(Permanent, match="nothing to change"):
        await running.runtime().prepare(now, "r")
    for what in ("restart", "stop", "status"):
        with pytest.raises(Permanent, match="'no-such-tool' is not found"):
            await running.runtime(**{what: ("no-such-tool", "x")}).prepare(after, "r")
    (running.home / "broken").touch()
    with pytest.raises(Transient, match="cannot tell whether it runs.*unit is masked"):
        await running.runtime().prepare(after, "r")
    assert list_backups(running.source) == []


async def test_secrets_of_the_file_are_not_in_the_receipt(running: Shop) -> None:
    (running.home / "v.env").write_text("API_KEY=s3cr3t\nMAX_MODEL_LEN=16384\n")
    runtime = running.runtime()
    runtime.source = EnvFileSource(kind="env-file", path=str(running.home / "v.env"))
    assert "s3cr3t" not in (await half(runtime)).model_dump_json()


# --- commands ------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


async def test_a_failed_restart_tells_the_last_line_and_where_the_rest_is(running: Shop) -> None:
    receipt = await half(running.runtime())
    runtime = running.runtime(
        restart=tuple(python("import sys; print('a'); sys.exit('b: no GPU')"))
    )
    with pytest.raises(Permanent, match=r"exited 1: b: no GPU .*last-command\.log"):
        await runtime.act(receipt)
    log = running.home / "v.yaml.runbooks" / "last-command.log"
    assert sorted(log.read_text().split("\n")) == ["", "a", "b: no GPU"]
    assert log.stat().st_mode & 0o077 == 0


async def test_a_server_left_in_the_background_does_not_block_and_keeps_its_output(
    tmp_path: Path,
) -> None:
    child = "import time\nfor i in range(40):\n  print(i, flush=True); time.sleep(.03)"
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {child!r}])"
    output = tmp_path / "out.log"
    done = await perform(python(script), cwd=None, timeout_s=20, output=output)
    assert done.code == 0
    assert "39" not in output.read_text()  # did not wait for it
    async with asyncio.timeout(10):
        while "39" not in output.read_text():  # it outlives the call: no closed pipe kills it
            await asyncio.sleep(0.05)


async def test_capture_does_not_wait_for_a_background_child_holding_the_pipe() -> None:
    script = "import subprocess; print('up', flush=True); subprocess.Popen(['sleep', '60'])"
    begun = time.monotonic()
    done = await capture(python(script), cwd=None, timeout_s=50)
    assert done.out == b"up\n"
    assert time.monotonic() - begun < 30


async def test_the_last_bytes_are_kept_while_the_rest_is_dropped() -> None:
    script = "import sys\nfor i in range(200000): print('x' * 40)\nsys.stderr.write('end')"
    done = await capture(python(script), cwd=None, timeout_s=20, max_bytes=1000, merge=True)
    assert len(done.out) == 1000
    assert done.out.endswith(b"xx\nend")


async def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_GRACE_S", 0.2)
    pid_file = tmp_path / "pid"
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    script = (
        ignore + "import subprocess; "
        f"p = subprocess.Popen(['sh', '-c', 'trap \"\" TERM; echo $$ > {pid_file}; sleep 30'])\n"
        "time.sleep(30)"
    )
    with pytest.raises(Transient, match=r"did not end within 0\.7 s and was killed"):
        await capture(python(script), cwd=None, timeout_s=0.7)
    child = int(pid_file.read_text())
    async with asyncio.timeout(5):
        while os.path.exists(f"/proc/{child}") and "Z" not in _stat(child):
            await asyncio.sleep(0.02)


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except OSError:
        return "Z"


async def test_a_cancelled_command_is_killed(tmp_path: Path) -> None:
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); "
    task = asyncio.create_task(capture(python(script + "time.sleep(30)"), cwd=None, timeout_s=60))
    async with asyncio.timeout(5):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")


async def test_a_restart_that_floods_its_output_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "OUTPUT_CAP", 1 << 16)
    script = "import time\nwhile True: print('x' * 1000, flush=True); time.sleep(.001)"
    with pytest.raises(Transient, match="wrote more than"):
        await perform(python(script), cwd=None, timeout_s=20, output=tmp_path / "o")


async def test_what_cannot_be_started_is_named(tmp_path: Path) -> None:
    for argv, cwd, message in (
        (["no-such-tool"], None, "no-such-tool cannot be started: No such file"),
        ([str(tmp_path)], None, "Permission denied"),
        (["true"], str(tmp_path / "gone"), "gone is no directory"),
        (["a\0b"], None, "bad argument"),
    ):
        with pytest.raises(Permanent, match=message):
            await capture(argv, cwd=cwd, timeout_s=5)
    with pytest.raises(Permanent, match="cannot be written"):
        await perform(["true"], cwd=None, timeout_s=5, output=tmp_path / "a" / "b" / "c")


async def test_commands_get_the_environment_the_directory_and_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOKS_TEST", "x y")
    script = (
        "import os, sys; print(os.getcwd(), os.environ['RUNBOOKS_TEST'], repr(sys.stdin.read()))"
    )
    done = await capture(python(script), cwd=str(tmp_path), timeout_s=20)
    assert done.out.decode().strip() == f"{tmp_path} x y ''"


async def test_no_shell_is_involved() -> None:
    assert (await capture(["echo", "$HOME; ls *"], cwd=None, timeout_s=5)).out == b"$HOME; ls *\n"


async def test_logs_that_fail_or_follow_for_ever_are_named(shop: Shop) -> None:
    with pytest.raises(Permanent, match="logs command cat exited 1: cat: .*No such file"):
        await shop.runtime().read_log()
    endless = shop.runtime(logs=("tail", "-f", str(shop.file)), timeout_s=0.3)
    with pytest.raises(Transient, match="no -f"):
        await endless.read_log()


async def test_no_descriptor_is_left_behind() -> None:
    await capture(["true"], cwd=None, timeout_s=5)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await capture(["true"], cwd=None, timeout_s=5)
        with pytest.raises(Permanent):
            await capture(["no-such-tool"], cwd=None, timeout_s=5)
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before


# --- status --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("no-such-tool",),
        ("sleep", "30"),
        ("false",),
        ("echo", "not json"),
        ("echo", "[]"),
        ("echo", '{"phase": "happy"}'),
        ("echo", '{"running": "yes"}'),
        ("echo", '{"running": true, "restarts": "many"}'),
        ("true",),
    ],
)
async def test_a_status_that_fails_is_unknown_never_up_or_down(
    shop: Shop, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await shop.runtime(status=argv, timeout_s=0.5).state()
    assert state.phase == "unknown"
    assert state.detail


def systemd(**pairs: object) -> ServiceState:
    text = "\n".join(f"{k}={v}" for k, v in pairs.items())
    return read_status("systemd", 0, text.encode(), b"")


def test_systemd_running() -> None:
    assert systemd(
        ActiveState="active",
        SubState="running",
        Result="success",
        ExecMainStatus=0,
        ExecMainCode=0,
        NRestarts=2,
        ExecMainPID=77,
        ExecMainStartTimestamp="Fri 2026-11-20 23:29:16 UTC",
        ExecMainExitTimestamp="",
    ) == ServiceState(
        phase="running",
        restarts=2,
        started_at=datetime(2026, 11, 20, 23, 29, 16, tzinfo=UTC),
        instance="77",
        detail="active (running), result success",
    )


def test_systemd_killed_by_the_kernel_for_memory() -> None:
    state = systemd(
        ActiveState="failed",
        SubState="failed",
        Result="oom-kill",
        ExecMainStatus=9,
        ExecMainCode=2,
        NRestarts=0,
        ExecMainPID=77,
        ExecMainStartTimestamp="@1763681356",
        ExecMainExitTimestamp="@1763681400",
    )
    assert (state.phase, state.exit_code, state.oom_killed, state.instance) == (
        "exited", 137, True, "",
    )  # fmt: skip
    assert state.finished_at == datetime.fromtimestamp(1763681400, UTC)


@pytest.mark.parametrize(
    ("active", "sub", "phase"),
    [
        ("activating", "auto-restart", "restarting"),
        ("activating", "auto-restart-queued", "restarting"),
        ("activating", "start", "starting"),
        ("activating", "start-pre", "starting"),
        ("reloading", "reload", "running"),
        ("deactivating", "stop-sigterm", "unknown"),
        ("inactive", "dead", "exited"),
        ("failed", "failed", "exited"),
        ("active", "exited", "unknown"),
        ("maintenance", "", "unknown"),
    ],
)
def test_systemd_phases(active: str, sub: str, phase: str) -> None:
    state = systemd(ActiveState=active, SubState=sub, ExecMainCode=1, ExecMainStatus=1)
    assert state.phase == phase
    assert state.exit_code == (1 if phase in ("exited", "restarting") else None)


def test_systemd_oddities() -> None:
    assert systemd(LoadState="not-found", ActiveState="inactive").phase == "missing"
    assert systemd(Foo=1).phase == "unknown"
    assert systemd(ActiveState="inactive", ExecMainCode=0, ExecMainStatus=0).exit_code is None
    odd = systemd(
        ActiveState="active", SubState="running", ExecMainStartTimestamp="n/a", NRestarts=""
    )
    assert (odd.started_at, odd.restarts, odd.restarts_known) == (None, 0, False)
    assert systemd(ActiveState="active", SubState="running", NRestarts=0).restarts_known


def docker(**state: object) -> ServiceState:
    return read_status("docker-state", 0, json.dumps(state).encode(), b"")


STATE = {
    "Status": "exited",
    "Running": False,
    "Paused": False,
    "Restarting": False,
    "OOMKilled": True,
    "Dead": False,
    "Pid": 0,
    "ExitCode": 137,
    "Error": "",
    "StartedAt": "2026-11-20T23:29:16.820026377Z",
    "FinishedAt": "2026-11-20T23:31:05.110693269Z",
}


def test_docker_state() -> None:
    assert docker(**STATE) == ServiceState(
        phase="exited",
        exit_code=137,
        oom_killed=True,
        started_at=datetime(2026, 11, 20, 23, 29, 16, 820026, UTC),
        finished_at=datetime(2026, 11, 20, 23, 31, 5, 110693, UTC),
        restarts_known=False,
        detail="exited",
    )
    up = {
        **STATE,
        "Status": "running",
        "Running": True,
        "OOMKilled": False,
        "Pid": 5,
        "ExitCode": 0,
    }
    state = docker(**up)
    assert (state.phase, state.exit_code, state.instance, state.finished_at) == (
        "running", None, "5", None,
    )  # fmt: skip
    assert docker(**{**up, "Paused": True, "Status": "paused"}).phase == "unknown"
    assert docker(**{**up, "Restarting": True, "Status": "restarting"}).phase == "restarting"
    assert docker(**{**STATE, "Status": "created"}).phase == "exited"
    whole = docker(State=up, RestartCount=3, Id="abc", Config={"Image": "vllm:1", "Env": ["K=s"]})
    assert (whole.restarts, whole.restarts_known, whole.image) == (3, True, "vllm:1")
    assert docker(State=up, RestartCount=0, Config=None).restarts_known
    assert docker().phase == "unknown"
    gone = read_status("docker-state", 1, b"", b"Error: No such object: vllm\n")
    assert gone.phase == "missing"
    down = read_status("docker-state", 1, b"", b"Cannot connect to the Docker daemon")
    assert (down.phase, "Cannot connect" in down.detail) == ("unknown", True)
    torn = read_status("docker-state", 1, b'{"Config": {"Env": ["API_KEY=hush"]}}', b"")
    assert torn.phase == "unknown" and "hush" not in torn.detail


INSPECTED = {
    "Id": "abc",
    "State": {**STATE, "Status": "running", "Running": True, "Pid": 5},
    "RestartCount": 0,
    "Config": {"Image": "vllm/vllm-openai:latest"},
}


async def test_the_image_is_what_the_inspection_names(shop: Shop) -> None:
    def runtime(said: object, form: str = "docker-state", code: int = 0) -> CommandRuntime:
        script = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"
        argv = (sys.executable, "-S", "-c", script, json.dumps(said), str(code))
        return shop.runtime(status=argv, status_format=form)

    assert await runtime(INSPECTED).image() == "vllm/vllm-openai:latest"
    with pytest.raises(Permanent, match=r"write status: docker inspect --format '\{\{json \.\}\}'"):
        await runtime(INSPECTED["State"]).image()
    with pytest.raises(Permanent, match="no such container"):
        await runtime("Error: No such object: vllm", code=1).image()
    with pytest.raises(Transient, match="its status tells nothing"):
        await runtime("Cannot connect", code=1).image()
    assert await runtime({"running": True}, "json").image() == ""


async def test_a_container_that_was_restarted_in_place_is_applied(shop: Shop) -> None:
    said = shop.home / "inspected.json"
    said.write_text(json.dumps(INSPECTED))
    more = {"status": ("cat", str(said)), "status_format": "docker-state", "restart": ("true",)}
    runtime = shop.runtime(**more)
    receipt = await half(runtime)
    await runtime.act(receipt)
    assert not await runtime.applied(receipt), "the process of before still runs"
    again = INSPECTED["State"] | {"StartedAt": "2026-11-21T09:00:00Z"}
    said.write_text(json.dumps(INSPECTED | {"State": again}))
    assert await runtime.applied(receipt), "docker restart keeps the container's id"


def test_json_status() -> None:
    full = {
        "phase": "exited", "exit_code": 1, "oom_killed": True, "restarts": 2, "pid": 9,
        "started_at": "2026-11-20T23:29:16+01:00", "finished_at": None, "detail": "x",
    }  # fmt: skip
    state = read_status("json", 0, json.dumps(full).encode(), b"")
    assert state == ServiceState(
        phase="exited", exit_code=1, oom_killed=True, restarts=2, instance="9", detail="x",
        started_at=datetime.fromisoformat("2026-11-20T23:29:16+01:00"),
    )  # fmt: skip
    powershell = read_status("json", 0, '{"running": true}'.encode("utf-16"), b"")
    assert (powershell.phase, powershell.restarts_known) == ("running", False)
    assert read_status("json", 0, b'\xef\xbb\xbf{"running": false}', b"").phase == "exited"
    assert read_status("json", 3, b'{"running": true}', b"").phase == "unknown"


@pytest.mark.parametrize(
    ("code", "phase"),
    [(0, "running"), (3, "exited"), (4, "missing"), (1, "unknown"), (-9, "unknown")],
)
def test_exit_code_status(code: int, phase: str) -> None:
    state = read_status("exit-code", code, b"", b"said")
    assert (state.phase, state.restarts_known) == (phase, False)
