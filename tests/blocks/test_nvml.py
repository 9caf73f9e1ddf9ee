"""NVML against a stand-in of its library: what cannot be asked is None, and nothing raises."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blocks.nvml import NvmlSession, read_gpus
from blocks.nvml_gpu import nv
from tests.real.nvml_stub.plugin import driver, nvml_library
from tests.real.nvml_stub.stub import GIB, Driver

__all__ = ["driver", "nvml_library"]


def test_every_number_of_every_gpu_is_read(driver: Driver) -> None:
    driver.gpu(0, processes=f"4242 {64 * GIB} 4243 {2 * GIB}")
    driver.gpu(1, name="NVIDIA L4", memory_used=0, utilization=0, temperature=31, ecc=3)
    found = read_gpus()
    assert found.problems == () and found.gpus is not None
    assert (found.driver_version, found.cuda_version) == ("550.54.15", "12.4")
    one, two = found.gpus
    assert (one.index, one.name, one.uuid[:12]) == (0, "NVIDIA H200", "GPU-00000000")
    assert (one.memory_used_gib, one.memory_total_gib) == (100, 140)
    assert (one.utilization, one.temperature_c, one.power_w) == (0.42, 55, 350.5)
    assert one.bus_id == "00000000:10:00.0"
    held = [(p.pid, p.name, p.memory_gib) for p in one.processes]
    assert held == [(4242, "process-4242", 64), (4243, "process-4243", 2)]
    assert (two.ecc_uncorrected, two.memory_used_gib, two.utilization) == (3, 0, 0)
    assert one.xid is None, "nobody listened: nothing is known of Xids"
    assert driver.left_open() == 0


def test_an_older_library_is_asked_the_older_way(driver: Driver) -> None:
    driver.gpu(0)
    driver.set(old=1)
    (gpu,) = read_gpus().gpus or ()
    assert (gpu.memory_used_gib, gpu.temperature_c, gpu.unsupported) == (100, 55, ())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "driver is not loaded"),
        (4, "no permission"),
        (18, "different versions"),
        (999, "UNKNOWN"),
        (12, "no NVIDIA driver"),
    ],
)
def test_a_driver_that_does_not_start_is_a_sentence(driver: Driver, code: int, words: str) -> None:
    driver.gpu(0)
    driver.set(init=code)
    found = read_gpus()
    assert found.gpus is None and found.driver_version is None
    assert len(found.problems) == 1 and words in found.problems[0]
    assert found.problems[0].startswith("gpus: ")


@pytest.mark.parametrize("env", [None, "library"])
def test_the_library_is_found_where_the_loader_finds_it(
    nvml_library: Path, tmp_path: Path, env: str | None
) -> None:
    stand_in = Driver(nvml_library, tmp_path / "state")
    stand_in.gpu(0, temperature=77)
    code = "from deployments.reading import reading; print(reading(['/']))"
    environment = {k: v for k, v in stand_in.env.items() if env or k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    reading = json.loads(done.stdout)
    if env:
        assert reading["gpus"][0]["temperature_c"] == 77 and reading["driver_version"]
    else:
        assert reading["gpus"] is None
        assert any("libnvidia-ml.so.1 is not on this machine" in p for p in reading["problems"])
    assert reading["disks"][0]["used_share"] > 0 and reading["memory_share"] > 0


def test_a_driver_that_lists_no_gpu_is_not_a_driver_that_is_missing(driver: Driver) -> None:
    assert read_gpus().gpus == ()


def test_what_a_gpu_does_not_have_is_none_and_named(driver: Driver) -> None:
    driver.gpu(0, ecc="!3", power="!3", utilization=None)
    (gpu,) = read_gpus().gpus or ()
    assert (gpu.ecc_uncorrected, gpu.power_w, gpu.utilization) == (None, None, None)
    assert set(gpu.unsupported) == {"ecc_uncorrected", "power_w", "utilization"}
    assert gpu.temperature_c == 55 and gpu.problem == "" and not gpu.lost


def test_a_number_that_fails_is_none_and_no_lack(driver: Driver) -> None:
    driver.gpu(0, temperature="!4")
    found = read_gpus()
    (gpu,) = found.gpus or ()
    assert gpu.temperature_c is None and gpu.unsupported == () and not gpu.lost
    assert gpu.memory_used_gib == 100
    assert found.problems == ("gpu 0: temperature_c: NO_PERMISSION",)


@pytest.mark.parametrize("code", [15, 16])
def test_one_gpu_off_the_bus_does_not_hide_the_others(driver: Driver, code: int) -> None:
    for index in range(3):
        driver.gpu(index)
    driver.gpu(1, memory_total=f"!{code}")
    found = read_gpus()
    assert [gpu.lost for gpu in found.gpus or ()] == [False, True, False]
    one, lost, _ = found.gpus or ()
    assert lost.temperature_c is None and lost.memory_used_gib is None
    assert one.temperature_c == 55
    assert len(found.problems) == 1 and "gpu 1" in found.problems[0]


@pytest.mark.parametrize(("code", "lost"), [(15, True), (4, False), (999, False)])
def test_a_gpu_that_gives_no_handle_is_told(driver: Driver, code: int, lost: bool) -> None:
    driver.gpu(0)
    driver.gpu(1, handle=f"!{code}")
    _, gpu = read_gpus().gpus or ()
    assert gpu.index == 1 and gpu.lost is lost and gpu.problem
    assert gpu.temperature_c is None and gpu.unsupported == ()


def test_a_session_hears_xids_between_its_readings(driver: Driver) -> None:
    driver.gpu(0)
    driver.gpu(1)
    session = NvmlSession()
    try:
        assert [g.xid for g in session.sample().gpus or ()] == [0, 0], "listened, and none came"
        driver.xid(1, 31)
        driver.xid(1, 79)
        assert [g.xid for g in session.sample().gpus or ()] == [0, 79], "the last one"
        assert [g.xid for g in session.sample().gpus or ()] == [0, 79], "it stays known"
        driver.gpu(1, lost=1)
        _, gone = session.sample().gpus or ()
        assert gone.lost and gone.xid == 79 and gone.temperature_c is None
    finally:
        session.close()
    assert driver.left_open() == 0


def test_a_driver_without_events_leaves_xids_unknown(driver: Driver) -> None:
    driver.gpu(0)
    driver.set(events="!3")
    session = NvmlSession()
    found = session.sample()
    session.close()
    (gpu,) = found.gpus or ()
    assert gpu.xid is None and gpu.temperature_c == 55
    assert any(p.startswith("xid: ") for p in found.problems)


def test_a_gpu_without_events_leaves_only_its_own_xid_unknown(driver: Driver) -> None:
    driver.gpu(0, events="!3")
    driver.gpu(1)
    session = NvmlSession()
    found = session.sample()
    session.close()
    assert [g.xid for g in found.gpus or ()] == [None, 0]


def test_a_driver_that_comes_back_is_read_by_the_same_session(driver: Driver) -> None:
    driver.gpu(0)
    driver.set(init=9)
    session = NvmlSession()
    assert session.sample().gpus is None
    driver.set(init=0)
    assert len(session.sample().gpus or ()) == 1
    session.close()
    assert driver.left_open() == 0


def test_the_second_call_into_a_hung_driver_is_refused_and_not_queued(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import blocks.nvml
    from blocks.deadline import begin

    monkeypatch.setattr(blocks.nvml, "_BUSY_S", 0.2)
    driver.gpu(0, hang=2)
    hung = begin(read_gpus)
    time.sleep(0.1)
    found = read_gpus()
    assert found.gpus is None and "still hangs" in found.problems[0]
    assert (hung.result(10).gpus or ())[0].memory_used_gib == 100


def test_pynvml_says_every_code_that_we_name() -> None:
    from blocks.nvml import _WHY
    from blocks.nvml_gpu import _OLDER_CALL, LOST

    for code in (*_WHY, *LOST, *_OLDER_CALL):
        assert hasattr(nv, f"NVML_ERROR_{code}"), code
