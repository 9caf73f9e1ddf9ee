"""Readings of a machine: the kernel's, a command's, Prometheus'. Unmeasured is None with a why."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks import local_host
from blocks.deadline import ended, within
from blocks.gpu_host import GpuHostSpec, read_host
from blocks.host_metrics import folded, questions
from blocks.host_reading import GpuReading, HostReading
from blocks.kernel_log import joined, kernel_xids, parse
from blocks.local_host import read_local
from blocks.metric_values import Sample
from blocks.nvml import Gpus
from blocks.prometheus_server import PrometheusSpec
from deployments.reading import reading as as_json
from tests.conftest import free_port, missing
from tests.real.nvml_stub.plugin import driver, nvml_library
from tests.real.nvml_stub.stub import Driver

__all__ = ["driver", "nvml_library"]
WHOLE = {"cpu_share": 0.25, "memory_share": 0.5, "disks": [], "gpus": None, "problems": []}


def printing(text: str) -> GpuHostSpec:
    code = "import sys; sys.stdout.write(sys.argv[1])"
    return GpuHostSpec(kind="command", argv=(sys.executable, "-c", code, text))


# ---- the kernel ---------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_this_machine_is_read(tmp_path: Path) -> None:
    found = read_local([str(tmp_path)], gpus=False)
    assert found.problems == () and found.gpus is None
    assert found.cpu_share is not None and 0 <= found.cpu_share <= 1
    total = os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES")
    assert found.memory_share is not None and 0 < found.memory_share <= 1 - free / total + 0.02
    (disk,) = found.disks
    usage = shutil.disk_usage(tmp_path)
    assert disk.used_share == pytest.approx(usage.used / (usage.used + usage.free), abs=0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_the_cpu_share_follows_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    # user nice system idle iowait irq softirq steal
    ticks = iter([[100, 0, 50, 800, 50, 0, 0, 0], [160, 0, 70, 900, 70, 0, 0, 0]])
    monkeypatch.setattr(local_host, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(local_host, "CPU_SAMPLE_S", 0)
    assert local_host._cpu() == pytest.approx(80 / 200), "waiting for a disk is not busy"


def test_where_only_linux_would_tell_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = read_local(["/"], gpus=False)
    assert found.cpu_share is None and found.memory_share is None
    assert "darwin" in found.about("cpu") and "darwin" in found.about("memory")
    assert found.disks[0].used_share is not None


def test_a_disk_that_is_not_there_is_none_with_the_reason() -> None:
    found = read_local(["/", "/no/such/disk"], gpus=False)
    assert found.disks[0].used_share and found.disks[1].used_share is None
    assert "No such file" in found.about("disk /no/such/disk")


def test_a_dead_mount_and_a_hung_driver_hold_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda p: time.sleep(60) if p == "/dead" else real(p))
    monkeypatch.setattr(local_host, "read_gpus", lambda: time.sleep(60) or Gpus())
    began = time.monotonic()
    found = read_local(["/dead", "/"], timeout_s=1)
    assert time.monotonic() - began < 30
    assert found.disks[0].used_share is None and "hangs" in found.about("disk /dead")
    assert found.gpus is None and "hangs" in found.about("gpus")
    assert found.disks[1].used_share is not None and found.cpu_share is not None


def test_a_hung_call_does_not_hold_up_the_end_of_the_loop() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await within(0.1, lambda: time.sleep(60))

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 30


HANGING = """
import asyncio, time
from blocks.deadline import LeaveBehind
async def main():
    asyncio.get_running_loop().set_default_executor(LeaveBehind())
    hung = [asyncio.ensure_future(asyncio.to_thread(time.sleep, 600)) for _ in range(100)]
    await asyncio.sleep(0.1)
    print(await asyncio.to_thread(lambda: "another call is made"))
    [one.cancel() for one in hung]
asyncio.run(main())
print("the loop has ended")
"""


def test_neither_the_loop_nor_the_interpreter_waits_for_what_hangs_in_a_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["another call is made", "the loop has ended"]


async def test_what_is_late_is_left_behind_and_what_ended_is_given_back() -> None:
    async def at_once() -> int:
        return 42

    async def broken() -> int:
        raise ZeroDivisionError

    assert await ended(0.1, asyncio.sleep(60)) is None
    good, bad = await ended(5, at_once()), await ended(5, broken())
    assert good and good.result() == 42
    assert bad and isinstance(bad.exception(), ZeroDivisionError)
    work = asyncio.ensure_future(asyncio.sleep(60))
    waiting = asyncio.ensure_future(ended(60, work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert work.cancelled()


async def test_a_call_in_time_gives_its_result_or_its_error() -> None:
    assert await within(5, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await within(5, lambda: 1 // 0)


# ---- the kernel's log ---------------------------------------------------------------------------

LOG = [
    b"6,0,1000000,-;Linux version 6.8\n",
    b"3,900,2000000,-;NVRM: Xid (PCI:0000:4b:00): 31, pid=77, name=python, Ch 00000008\n",
    b"3,901,3000000,-;NVRM: Xid (PCI:0000:4B:00): 79, GPU has fallen off the bus.\n",
    b"6,902,3100000,-;something else Xid (PCI:0000:4b:00): 13\n SUBSYSTEM=pci\n",
]


def test_the_last_xid_of_a_gpu_is_found_with_its_age() -> None:
    found = parse(LOG, 100.0)
    assert found.last == {"0000:4b:00": (79, 97.0)} and found.whole
    assert found.reaches_s == 99.0 and parse([], 100.0).reaches_s is None


def test_an_overwritten_log_proves_no_absence() -> None:
    assert not parse([b"6,5000,99000000,-;late\n"], 100.0).whole
    assert parse([b"6,5000,99000000,-;late\n"], 100.0 + 25 * 3600).whole, "it reaches back a day"
    assert not parse([], 100.0).whole and not parse([b"garbage", b"a,b,c;d"], 1.0).whole


def test_xids_are_joined_to_their_gpu() -> None:
    gpus = (
        GpuReading(index=0, bus_id="00000000:10:00.0"),
        GpuReading(index=1, bus_id="00000000:4B:00.0"),
    )
    one, two = joined(gpus, parse(LOG, 100.0))[0]
    assert (one.xid, one.xid_age_s) == (0, None) and (two.xid, two.xid_age_s) == (79, 97.0)
    assert one.xid_reaches_s == 99.0, "the machine booted 100 s ago: nothing is known of before"
    (alone, gone), _ = joined(gpus[:1], parse(LOG, 100.0))
    assert alone.xid == 0 and gone.index is None and gone.lost and gone.xid == 79
    (unknown, known), problems = joined(gpus, parse(LOG[2:], 100.0))
    assert unknown.xid is None and known.xid == 79 and "less than 24 h" in problems[0]


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log is root's")
def test_this_machines_kernel_log_is_read_to_its_end() -> None:
    began = time.monotonic()
    found = kernel_xids()
    assert time.monotonic() - began < 10 and all(age >= 0 for _, age in found.last.values())


def test_a_log_that_may_not_be_read_leaves_xids_unknown(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise PermissionError(1, "Operation not permitted", "/dev/kmsg")

    driver.gpu(0)
    monkeypatch.setattr(local_host, "kernel_xids", refused)
    found = read_local(["/"])
    (gpu,) = found.gpus or ()
    assert gpu.xid is None and gpu.temperature_c == 55
    assert "dmesg_restrict" in found.about("xid")


# ---- the model ----------------------------------------------------------------------------------


def test_a_reading_survives_its_json_and_a_newer_one_is_understood() -> None:
    found = HostReading.model_validate_json(as_json(["/"], gpus=False))
    assert found.disks[0].used_share
    newer = {**json.loads(found.model_dump_json()), "fans": 7}
    assert HostReading.model_validate(newer) == found


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        HostReading(cpu_share=value)


# ---- a command ----------------------------------------------------------------------------------


async def test_a_command_that_prints_a_reading_is_understood() -> None:
    found = await read_host(printing("Welcome to motoko\n{oops\n" + json.dumps(WHOLE)), None)
    assert (found.cpu_share, found.memory_share, found.problems) == (0.25, 0.5, ())
    found = await read_host(printing(json.dumps(WHOLE, indent=2)), None)
    assert found.cpu_share == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "printed no reading"),
        ("command not found", "printed no reading"),
        ("[1, 2]", "printed no reading"),
        ("{}", "printed no reading"),
        ('{"cpu_share": 0.5', "printed no reading"),
        ("[" * 100_000, "printed no reading"),
        (json.dumps({**WHOLE, "cpu_share": 7}), "bad cpu_share"),
        (json.dumps({**WHOLE, "cpu_share": float("nan")}), "bad cpu_share"),
        (json.dumps({**WHOLE, "gpus": [{"temperature_c": "hot"}]}), "bad gpus.0.temperature_c"),
    ],
)
async def test_garbage_measures_nothing_and_says_so(text: str, words: str) -> None:
    found = await read_host(printing(text), None)
    assert words in found.problems[0] and found.problems[0].startswith("host: ")
    assert found == HostReading(problems=found.problems), "nothing else is claimed"


async def test_a_command_that_fails_hangs_or_is_not_there_is_a_problem() -> None:
    code = "import sys; sys.stderr.write('ssh: no route to host\\n'); sys.exit(255)"
    spec = GpuHostSpec(kind="command", argv=(sys.executable, "-c", code))
    assert "255: ssh: no route to host" in (await read_host(spec, None)).problems[0]
    spec = GpuHostSpec(kind="command", argv=("no-such-command",))
    assert "cannot be started" in (await read_host(spec, None)).problems[0]
    code = "import time; time.sleep(30)"
    spec = GpuHostSpec(kind="command", argv=(sys.executable, "-c", code), timeout_s=0.3)
    assert "did not end within 0.3 s" in (await read_host(spec, None)).problems[0]


async def test_the_local_kind_is_this_machine_with_its_gpus(driver: Driver) -> None:
    driver.gpu(0, temperature=61)
    found = await read_host(GpuHostSpec(disks=("/",)), None)
    assert found.gpus and found.gpus[0].temperature_c == 61 and found.cpu_share is not None
    assert (await read_host(GpuHostSpec(gpus=False), None)).gpus is None


# ---- Prometheus: what is asked, and what the answers mean ----------------------------------------


def disks(path: str, **values: float) -> dict[str, Sequence[Sample] | str]:
    return {f"disk_{k}": (sample(v, mountpoint=path),) for k, v in values.items()}


def dcgm(value: float, gpu: int = 0, **labels: str) -> Sample:
    whole = {"gpu": str(gpu), "UUID": f"GPU-{gpu}", "modelName": "NVIDIA H200"}
    return sample(value, **{**whole, "DCGM_FI_DRIVER_VERSION": "550.54.15", **labels})


def sample(value: float, **labels: str) -> Sample:
    return Sample(labels=labels, value=value)


CARD: dict[str, Sequence[Sample] | str] = {
    "fb_used": (dcgm(102_400),),
    "fb_free": (dcgm(40_000),),
    "fb_reserved": (dcgm(960),),
    "utilization": (dcgm(42),),
    "temperature": (dcgm(55),),
    "power": (dcgm(350.5),),
    "ecc": (dcgm(0),),
    "xid": (dcgm(0),),
}
NODE: dict[str, Sequence[Sample] | str] = {
    "cpu": (sample(0.25),),
    "memory": (sample(0.5),),
    **disks("/", size=1000e9, free=400e9, avail=350e9),
}


def test_the_labels_and_the_disks_cannot_break_out_of_the_query() -> None:
    asked = questions({"instance": 'a"} or up{x="'}, {}, ["/data (old)", "/m.x"], "5m")
    assert 'instance="a\\"} or up{x=\\""' in asked["cpu"]
    assert 'mountpoint=~"/data \\\\(old\\\\)|/m\\\\.x"' in asked["disk_size"]
    with pytest.raises(ValueError, match="no label"):
        questions({'x="y",z': "1"}, {}, [], "5m")
    asked = questions({"instance": "a:9100"}, {"Hostname": "a"}, [], "90s", gpus=True)
    assert asked["temperature"] == 'DCGM_FI_DEV_GPU_TEMP{Hostname="a"}'
    assert "[90s]" in asked["cpu"] and "disk_size" not in asked
    assert not [k for k in questions({"a": "b"}, {}, [], "5m", gpus=False) if k in CARD]


def test_a_whole_answer_is_a_whole_reading() -> None:
    found = folded({**NODE, **CARD}, ["/"])
    assert found.problems == () and found.driver_version == "550.54.15"
    assert (found.cpu_share, found.memory_share) == (0.25, 0.5)
    assert found.disks[0].used_share == pytest.approx(600 / 950), "as df counts"
    (gpu,) = found.gpus or ()
    assert (gpu.index, gpu.uuid, gpu.name) == (0, "GPU-0", "NVIDIA H200")
    assert (gpu.memory_used_gib, gpu.memory_total_gib) == (100.0, 140.0)
    assert (gpu.utilization, gpu.temperature_c, gpu.power_w) == (0.42, 55, 350.5)
    assert (gpu.ecc_uncorrected, gpu.xid) == (0, 0)


def test_no_series_is_none_and_not_zero() -> None:
    found = folded({}, ["/"])
    assert found.cpu_share is None and found.gpus is None and found.disks[0].used_share is None
    for what in ("cpu", "memory", "disk /", "gpus"):
        assert found.about(what), what


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_none(value: float) -> None:
    answers = {**NODE, **CARD, "cpu": (sample(value),), "temperature": (dcgm(value),)}
    found = folded(answers, ["/"])
    assert found.cpu_share is None and (found.gpus or ())[0].temperature_c is None


def test_labels_that_match_two_machines_measure_none_of_them() -> None:
    found = folded({**NODE, "cpu": (sample(0, instance="a"), sample(0, instance="b"))}, ["/"])
    assert found.cpu_share is None and "match 2 machines" in found.about("cpu")


def test_what_the_exporter_leaves_out_is_none_and_named() -> None:
    found = folded({**NODE, **{k: v for k, v in CARD.items() if k not in ("ecc", "xid")}}, ["/"])
    (gpu,) = found.gpus or ()
    assert gpu.ecc_uncorrected is None and gpu.xid is None
    assert "ECC_DBE_VOL_TOTAL" in found.about("gpus") and "XID_ERRORS" in found.about("xid")


def test_dcgms_own_blanks_are_none() -> None:
    answers = {**NODE, **CARD, "temperature": (dcgm(2147483632),), "ecc": (dcgm(9.2e18),)}
    (gpu,) = folded(answers, []).gpus or ()
    assert gpu.temperature_c is None and gpu.ecc_uncorrected is None


def test_slices_are_added_up_and_the_same_number_of_two_pods_is_not() -> None:
    slices = (dcgm(1024, GPU_I_ID="1"), dcgm(2048, GPU_I_ID="2"))
    free = (dcgm(1024, GPU_I_ID="1"), dcgm(0, GPU_I_ID="2"))
    pods = (dcgm(61, pod="a"), dcgm(61, pod="b"))
    answers = {"fb_used": slices, "fb_free": free, "temperature": pods}
    (gpu,) = folded(answers, []).gpus or ()
    assert (gpu.memory_used_gib, gpu.memory_total_gib, gpu.temperature_c) == (3, 4, 61)


def test_gpus_are_told_apart_and_in_order() -> None:
    answers = {"temperature": (dcgm(70, 1), dcgm(50, 0)), "xid": (dcgm(79, 1), dcgm(0, 0))}
    found = [(g.index, g.temperature_c, g.xid) for g in folded(answers, []).gpus or ()]
    assert found == [(0, 50, 0), (1, 70, 79)]


def test_the_handbooks_own_metrics_are_understood() -> None:
    labels = {"gpu": "0"}
    answers = {
        "handbook_used": (sample(8 * 1024.0**3, **labels),),
        "handbook_utilization": (sample(12, **labels),),
    }
    (gpu,) = folded(answers, []).gpus or ()
    assert (gpu.memory_used_gib, gpu.utilization, gpu.memory_share) == (8, 0.12, None)


async def test_a_machine_in_prometheus_needs_one() -> None:
    spec = GpuHostSpec(kind="prometheus", labels={"instance": "motoko:9100"})
    assert "prometheus section" in (await read_host(spec, None)).problems[0]


VALUES = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**70), 2**70).map(float)


@given(st.dictionaries(st.sampled_from([*CARD, *NODE]), st.lists(VALUES, max_size=3)))
def test_no_number_of_any_exporter_breaks_a_reading(numbers: dict[str, list[float]]) -> None:
    answers: dict[str, Any] = {
        name: tuple(dcgm(v, i, mountpoint="/") for i, v in enumerate(values))
        for name, values in numbers.items()
    }
    found = folded(answers, ["/"])
    assert HostReading.model_validate_json(found.model_dump_json()) == found


# ---- the same, through a real Prometheus ---------------------------------------------------------

EXPORTED = """\
node_cpu_seconds_total{cpu="0",mode="user"} %(busy)s
node_cpu_seconds_total{cpu="0",mode="idle"} %(idle)s
node_cpu_seconds_total{cpu="0",mode="iowait"} 5
node_memory_MemTotal_bytes 1000
node_memory_MemAvailable_bytes 250
node_filesystem_size_bytes{mountpoint="/",device="a"} 1e12
node_filesystem_free_bytes{mountpoint="/",device="a"} 4e11
node_filesystem_avail_bytes{mountpoint="/",device="a"} 4e11
node_filesystem_size_bytes{mountpoint="/data (old)",device="b"} 100
node_filesystem_free_bytes{mountpoint="/data (old)",device="b"} 1
node_filesystem_avail_bytes{mountpoint="/data (old)",device="b"} 1
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-0",modelName="NVIDIA H200"} 1024
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-0",modelName="NVIDIA H200"} 3072
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-0",modelName="NVIDIA H200"} 61
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-0",modelName="NVIDIA H200"} 79
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0",modelName="NVIDIA H200"} NaN
"""


class Exporter(BaseHTTPRequestHandler):
    """node_exporter and dcgm-exporter in one; a machine that is busy three quarters of its time."""

    began = time.monotonic()

    def do_GET(self) -> None:
        passed = time.monotonic() - self.began
        body = (EXPORTED % {"busy": passed * 0.75, "idle": passed * 0.25}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Prometheus that scrapes one machine: its URL, and the machine's instance."""
    if (binary := shutil.which("prometheus")) is None:
        missing("prometheus", "not installed; apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    instance = f"127.0.0.1:{exporter.server_port}"
    scrape = {"job_name": "node", "static_configs": [{"targets": [instance]}]}
    config = {"global": {"scrape_interval": "250ms"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    argv = [str(binary), f"--config.file={folder}/prometheus.yml"]
    argv += [f"--storage.tsdb.path={folder}/d", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    yield f"http://127.0.0.1:{port}", instance
    server.terminate()
    server.wait(timeout=20)
    exporter.shutdown()
    exporter.server_close()


async def test_a_machine_is_read_through_a_real_prometheus(prometheus: tuple[str, str]) -> None:
    url, instance = prometheus
    where = PrometheusSpec(url=url, window="30s")
    paths = ("/", "/data (old)", "/nowhere")
    spec = GpuHostSpec(kind="prometheus", labels={"instance": instance}, disks=paths)
    found = HostReading()
    for _ in range(100):
        found = await read_host(spec, where)
        if found.cpu_share is not None:
            break
        assert found.problems, "nothing yet, and it says so"
        await asyncio.sleep(0.2)
    assert found.cpu_share == pytest.approx(0.75, abs=0.05), found.problems
    assert found.memory_share == 0.75
    assert [d.used_share for d in found.disks] == [0.6, 0.99, None]
    assert "no such mount point" in found.about("disk /nowhere")
    (gpu,) = found.gpus or ()
    assert (gpu.memory_used_gib, gpu.memory_total_gib, gpu.temperature_c) == (1, 4, 61)
    assert gpu.xid == 79 and gpu.utilization is None and gpu.ecc_uncorrected is None
    other = GpuHostSpec(kind="prometheus", labels={"instance": "batou:9100"})
    found = await read_host(other, where)
    assert found.cpu_share is None and found.gpus is None and len(found.problems) == 4


async def test_a_prometheus_that_is_down_is_one_problem() -> None:
    spec = GpuHostSpec(kind="prometheus", labels={"instance": "a:9100"}, timeout_s=5)
    down = PrometheusSpec(url=f"http://127.0.0.1:{free_port()}", timeout_s=1)
    found = await read_host(spec, down)
    assert found == HostReading(problems=found.problems) and len(found.problems) == 1
