"""A machine's findings: nothing unmeasured is ok, every threshold counts, an Xid has a meaning."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.check_policy import CheckPolicy
from blocks.gpu_host import GpuHostSpec
from blocks.host_reading import DiskReading, GpuProcess, GpuReading, HostReading, nothing
from flows.decisions.check_hosts import driver_problem, judge_host
from flows.decisions.finding import Finding
from flows.decisions.xids import MILD, XIDS, meaning, remedy

POLICY = CheckPolicy()
SPEC = GpuHostSpec(disks=("/", "/models"))
GPU: dict[str, Any] = {
    "index": 0,
    "name": "NVIDIA H200",
    "memory_used_gib": 129.0,
    "memory_total_gib": 140.0,
    "utilization": 1.0,
    "temperature_c": 60.0,
    "power_w": 600.0,
    "ecc_uncorrected": 0,
    "xid": 0,
}
WELL = HostReading(
    cpu_share=0.3,
    memory_share=0.5,
    disks=(
        DiskReading(path="/", used_share=0.4, free_gib=50),
        DiskReading(path="/models", used_share=0.84, free_gib=300),
    ),
    gpus=(GpuReading(**GPU),),
)


def judged(spec: GpuHostSpec = SPEC, **changes: Any) -> dict[str, Finding]:
    found = judge_host("motoko", WELL.model_copy(update=changes), spec, POLICY)
    assert {f.subject for f in found} == {"host motoko"}
    assert len({f.check for f in found}) == len(found)
    return {f.check: f for f in found}


def gpu(**changes: Any) -> tuple[GpuReading, ...]:
    return (GpuReading(**{**GPU, **changes}),)


def test_a_well_machine_is_ok_line_by_line() -> None:
    found = judged()
    assert list(found) == [
        *("cpu", "memory", "disk /", "disk /models", "gpu 0 memory", "gpu 0 temperature"),
        *("gpu 0 ecc", "gpu 0 xid"),
    ]
    assert {f.status for f in found.values()} == {"ok"}
    assert found["disk /models"].value == "84.0 %, 300.0 GiB left"
    assert found["gpu 0 memory"].value == "92.1 % of 140 GiB", "vLLM takes 92 % on purpose"


@pytest.mark.parametrize(
    ("changes", "check", "status", "value"),
    [
        ({"cpu_share": 0.9}, "cpu", "warn", "90.0 %"),
        ({"cpu_share": 0.8999}, "cpu", "ok", "89.9 %"),
        ({"memory_share": 0.95}, "memory", "warn", "95.0 %"),
        ({"gpus": gpu(memory_used_gib=133)}, "gpu 0 memory", "warn", "95.0 % of 140 GiB"),
        ({"gpus": gpu(temperature_c=82.9)}, "gpu 0 temperature", "ok", "82 °C"),
        ({"gpus": gpu(temperature_c=83)}, "gpu 0 temperature", "warn", "83 °C"),
        ({"gpus": gpu(temperature_c=90)}, "gpu 0 temperature", "fail", "90 °C"),
        ({"gpus": gpu(ecc_uncorrected=1)}, "gpu 0 ecc", "fail", "1 uncorrected errors"),
        ({"gpus": gpu(xid=79)}, "gpu 0 xid", "fail", "Xid 79"),
        ({"gpus": gpu(xid=63)}, "gpu 0 xid", "warn", "Xid 63"),
        ({"gpus": gpu(xid=12345)}, "gpu 0 xid", "fail", "Xid 12345"),
        ({"gpus": ()}, "gpus", "fail", "0 GPUs"),
    ],
)
def test_a_threshold_that_is_reached_is_told(
    changes: dict[str, Any], check: str, status: str, value: str
) -> None:
    found = judged(**changes)[check]
    assert (found.status, found.value) == (status, value)


@pytest.mark.parametrize(("share", "status"), [(0.85, "warn"), (0.97, "fail"), (1.0, "fail")])
def test_a_disk_fills_and_then_is_full(share: float, status: str) -> None:
    disks = (DiskReading(path="/", used_share=share), DiskReading(path="/models", used_share=0.1))
    found = judged(disks=disks)
    assert found["disk /"].status == status and found["disk /models"].status == "ok"


@pytest.mark.parametrize(
    ("xid", "words"),
    [(79, "fallen off the bus"), (48, "double-bit ECC"), (31, "page fault"), (74, "NVLink")]
    + [(13, "exception"), (64, "remapped"), (94, "contained"), (95, "uncontained"), (119, "GSP")],
)
def test_an_xid_says_what_it_means_and_what_to_do(xid: int, words: str) -> None:
    found = judged(gpus=gpu(xid=xid, xid_age_s=7200))["gpu 0 xid"]
    assert words in found.evidence and "2.0 h ago" in found.evidence and found.advice


def test_an_xid_before_the_window_is_past_and_one_of_unknown_age_is_not() -> None:
    assert judged(gpus=gpu(xid=79, xid_age_s=25 * 3600))["gpu 0 xid"].status == "ok"
    assert judged(gpus=gpu(xid=79, xid_age_s=23 * 3600))["gpu 0 xid"].status == "fail"
    assert judged(gpus=gpu(xid=79, xid_age_s=None))["gpu 0 xid"].status == "fail"


def test_no_xid_since_a_boot_within_the_window_says_nothing_of_the_time_before() -> None:
    def found(hours: float, window_h: float = 24) -> list[Finding]:
        cards = tuple(
            GpuReading(**{**GPU, "index": i, "xid_reaches_s": hours * 3600}) for i in range(8)
        )
        reading = WELL.model_copy(update={"gpus": cards})
        every = judge_host("motoko", reading, SPEC, CheckPolicy(window_h=window_h))
        return [f for f in every if "xid" in f.check]

    (young,) = found(5 / 60)
    assert (young.check, young.status, young.value) == ("xid", "unknown", "none seen")
    assert "5 min ago" in young.evidence and "and 4 more" in young.evidence
    assert "boot" in young.evidence and young.advice.endswith("journalctl -k -b -1 -g Xid")
    assert len(found(23.9)) == 1 and len(found(24)) == 8
    assert {f.status for f in found(24)} == {"ok"} and found(30, 168)[0].status == "unknown"


def test_an_xid_that_was_seen_counts_however_short_the_log() -> None:
    found = judged(gpus=gpu(xid=79, xid_age_s=60, xid_reaches_s=300))
    assert found["gpu 0 xid"].status == "fail" and "xid" not in found


def test_what_was_not_heard_and_what_was_not_heard_long_enough_is_one_line() -> None:
    young = GpuReading(**{**GPU, "index": 1, "xid_reaches_s": 300.0})
    found = judged(gpus=(*gpu(xid=None), young), problems=("xid: no permission",))["xid"]
    assert found.status == "unknown" and found.value == ""
    assert "Xid errors of gpu 0; xid: no permission; none of gpu 1 since" in found.evidence


def test_every_known_xid_has_a_remedy() -> None:
    assert set(MILD) <= set(XIDS)
    assert all(meaning(x) and remedy(x) for x in (*XIDS, 9999))


def test_who_holds_the_memory_is_named() -> None:
    held = (
        GpuProcess(pid=7, name="Xorg", memory_gib=1),
        GpuProcess(pid=8, name="VLLM::EngineCore", memory_gib=128),
    )
    assert judged(gpus=gpu(processes=held))["gpu 0 memory"].evidence.startswith("VLLM::EngineCore")


def test_a_lost_gpu_fails_once_and_claims_nothing_else() -> None:
    lost = GpuReading(index=1, lost=True, xid=79, problem="fell off the bus (GPU_IS_LOST)")
    found = judged(gpus=(*gpu(), lost))
    assert [c for c in found if c.startswith("gpu 1")] == ["gpu 1"]
    assert found["gpu 1"].status == "fail" and "Xid 79" in found["gpu 1"].evidence
    assert found["gpu 0 temperature"].status == "ok"


def test_what_was_not_measured_is_named_with_its_reason() -> None:
    found = judged(
        cpu_share=None,
        disks=WELL.disks[:1],
        gpus=gpu(temperature_c=None, ecc_uncorrected=None),
        problems=("cpu: only Linux has it", "disk /models: hangs", "gpu 0: NO_PERMISSION"),
    )
    assert found["cpu"].status == "unknown" and "only Linux" in found["cpu"].evidence
    assert found["disk /models"].status == "unknown" and "hangs" in found["disk /models"].evidence
    assert found["gpu 0"].evidence == "not measured: temperature, ECC errors; gpu 0: NO_PERMISSION"


def test_a_gpu_without_ecc_memory_has_no_errors_to_count() -> None:
    found = judged(gpus=gpu(ecc_uncorrected=None, unsupported=("ecc_uncorrected",)))
    assert "gpu 0 ecc" not in found and "gpu 0" not in found
    found = judged(gpus=gpu(temperature_c=None, unsupported=("temperature_c",)))
    assert found["gpu 0"].status == "unknown", "every GPU has a temperature"


def test_xids_that_nobody_looked_for_are_one_unknown_of_the_machine() -> None:
    many = tuple(GpuReading(**{**GPU, "index": i, "xid": None}) for i in range(8))
    found = judged(gpus=many, problems=("xid: /dev/kmsg: Permission denied",))
    assert [c for c in found if "xid" in c] == ["xid"]
    assert found["xid"].status == "unknown" and "Permission denied" in found["xid"].evidence
    assert "and 4 more" in found["xid"].evidence


def test_no_driver_where_gpus_ought_to_be_is_unknown() -> None:
    found = judged(gpus=None, problems=("gpus: libnvidia-ml.so.1 is not on this machine",))
    assert found["gpus"].status == "unknown" and "libnvidia-ml" in found["gpus"].evidence
    spec = GpuHostSpec(disks=("/",), gpus=False)
    assert not [c for c in judged(spec, gpus=None) if "gpu" in c]


def test_a_machine_that_does_not_answer_is_one_line() -> None:
    for reading in (nothing("no answer within 15 s"), HostReading()):
        (found,) = judge_host("motoko", reading, SPEC, POLICY)
        assert found.status == "unknown"
        for part in ("CPU", "memory", "disk /models", "GPUs"):
            assert part in found.evidence
    (found,) = judge_host("m", nothing("no answer within 15 s"), SPEC, POLICY)
    assert "no answer within 15 s" in found.evidence


SHARES = st.none() | st.floats(0, 1)
NUMBERS = st.none() | st.floats(0, 200)
COUNTS = st.none() | st.integers(0, 200)


@given(
    SHARES,
    SHARES,
    SHARES,
    st.none()
    | st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, COUNTS, COUNTS, st.booleans()), max_size=3),
)
def test_nothing_unmeasured_is_ever_ok_and_nothing_measured_bad_is(
    cpu: float | None, memory: float | None, disk: float | None, cards: Any
) -> None:
    gpus = None
    if cards is not None:
        gpus = tuple(
            GpuReading(
                index=i,
                memory_used_gib=used,
                memory_total_gib=total,
                temperature_c=celsius,
                ecc_uncorrected=ecc,
                xid=xid,
                lost=lost,
            )
            for i, (used, total, celsius, ecc, xid, lost) in enumerate(cards)
        )
    disks = (DiskReading(path="/", used_share=disk),)
    reading = HostReading(cpu_share=cpu, memory_share=memory, disks=disks, gpus=gpus)
    found = judge_host("m", reading, GpuHostSpec(), POLICY)
    oks = {f.check for f in found if f.status == "ok"}
    assert all(f.value for f in found if f.status == "ok")
    for check, share, limit in (("cpu", cpu, 0.9), ("memory", memory, 0.9), ("disk /", disk, 0.85)):
        assert (check in oks) == (share is not None and share < limit)
    if not gpus:
        assert not [c for c in oks if "gpu" in c]
    for one in gpus or ():
        assert (f"{one.label} ecc" in oks) == (one.ecc_uncorrected == 0 and not one.lost)
        assert (f"{one.label} xid" in oks) == (one.xid == 0 and not one.lost)
        cool = one.temperature_c is not None and one.temperature_c < 83
        assert (f"{one.label} temperature" in oks) == (cool and not one.lost)
    measured = [cpu, memory, disk, *(x for g in gpus or () for x in (g.ecc_uncorrected, g.xid))]
    if None in measured or gpus is None:
        bad_gpu = any(f.status == "fail" for f in found)
        assert any(f.status == "unknown" for f in found) or bad_gpu


@pytest.mark.parametrize(
    ("driver", "cuda", "words"),
    [
        ("550.54.15", "12.4", ""),
        ("525.60.13", None, ""),
        ("525.60.11", "12.0", "too old for CUDA 12.x"),
        ("535.104", "13.0", "too old for CUDA 13.x"),
        ("580.65.06", "13.0", ""),
        ("580", "13.1", ""),
        ("560.94", "12.6", ""),
        ("470.82.01", "11.4", "vLLM needs 12.x"),
        (None, "12.4", "unknown"),
        ("N/A", "12.4", "unknown"),
        ("550.54.15", "soon", "unknown"),
        ("900.1", "15.0", "unknown"),
    ],
)
def test_the_driver_is_held_against_its_cuda(
    driver: str | None, cuda: str | None, words: str
) -> None:
    said = driver_problem(driver, cuda)
    assert words in said and bool(said) == bool(words)
    assert said.startswith("unknown") == (words == "unknown")
