"""watch-gpus: what the window saw, the CSV, the page, and no verdict without a measurement."""

import base64
import csv
import json
import re
import signal
import subprocess
import sys
import time
from asyncio import create_task as begin
from asyncio import sleep
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.check_policy import CheckPolicy
from blocks.errors import Permanent
from blocks.gpu_window import MOST_POINTS, Collector
from blocks.host_reading import GpuReading, HostReading
from flows.gpu_charts import gpu_png
from flows.gpu_watch import GpuWatch, judged, page
from flows.report import Options
from flows.watch_gpus import watch_gpus
from tests.conftest import PrefectServer, missing
from tests.flows.support import Slack, artifacts
from tests.real.nvml_stub.plugin import driver, nvml_library
from tests.real.nvml_stub.stub import GIB, Driver

__all__ = ["driver", "nvml_library"]
POLICY = CheckPolicy()


class Watched:
    """A stack with one machine, and the flow on it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.file, self.home = folder / "stack.yaml", home
        self.host: dict[str, Any] = {}
        self.more: dict[str, Any] = {}

    async def run(self, **parameters: Any) -> GpuWatch:
        service = {"runtime": {"kind": "docker", "container": "vllm"}, "url": "http://127.0.0.1:9"}
        stack = {
            "name": "lab",
            "services": {"wintermute": service},
            "hosts": {"motoko": self.host},
            **self.more,
        }
        self.file.write_text(json.dumps(stack))
        wanted: dict[str, Any] = {"window_s": 1, "interval_s": 0.2, "host": "motoko"}
        state = await watch_gpus(str(self.file), **{**wanted, **parameters}, return_state=True)
        report = await state.result(raise_on_failure=False)
        if isinstance(report, BaseException):
            raise report
        assert isinstance(report, GpuWatch)
        green = report.verdict in ("passed", "planned")
        assert state.is_completed() == green and state.name == report.verdict.capitalize()
        return report

    async def meanwhile(self, act: Callable[[], None], rows: int = 1) -> None:
        """Do something once so many rows are written: the watch is under way."""
        for _ in range(400):
            if len(self.rows()) >= rows:
                break
            await sleep(0.02)
        act()

    def rows(self) -> list[dict[str, str]]:
        files = list((self.home / "gpus" / "lab").glob("motoko-*.csv"))
        assert len(files) <= 1
        return list(csv.DictReader(files[0].read_text().splitlines())) if files else []


@pytest.fixture
def watched(tmp_path: Path, home: Path, prefect_server: PrefectServer) -> Watched:
    return Watched(tmp_path, home)


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    monkeypatch.setenv("TEST_SLACK_TOKEN", "xoxb-not-to-be-seen-anywhere")
    stand_in = Slack()
    yield stand_in
    stand_in.close()


async def test_a_well_machine_passes_with_every_sample_in_the_csv(
    watched: Watched, driver: Driver
) -> None:
    driver.gpu(0, temperature=50)
    driver.gpu(1, power="!3", ecc="!3", name="GeForce | RTX")

    warming = begin(
        watched.meanwhile(lambda: driver.gpu(0, temperature=80, utilization=99), rows=4)
    )
    report = await watched.run(options=Options(actor="molly", source="cli"))
    await warming
    assert report.verdict == "passed", report.message
    assert "2 GPUs" in report.message and report.window.failed == 0 and report.next_step == ""
    rows = watched.rows()
    assert len(rows) == 2 * report.window.samples >= 4
    first, last = rows[0], rows[-2]
    assert list(first)[:4] == ["timestamp", "index", "name", "uuid"]
    assert first["memory.used [MiB]"] == "102400" and first["memory.total [MiB]"] == "143360"
    assert (first["temperature.gpu"], last["temperature.gpu"]) == ("50.0", "80.0")
    assert last["utilization.gpu [%]"] == "99.0" and first["power.draw [W]"] == "350.5"
    assert rows[1]["power.draw [W]"] == "" and rows[1]["name"] == "GeForce | RTX"
    assert rows[1]["ecc.errors.uncorrected.volatile.total"] == "" and rows[1]["xid"] == "0"
    spread = report.window.gpus[0].spreads["temperature_c"]
    assert (spread.least, spread.most) == (50, 80) and 50 < spread.mean < 80
    published = await artifacts(report.run_id)
    said = published["watch-gpus-record"]
    assert "50 / " in said and " / 80 |" in said and "GeForce \\| RTX" in said
    (png,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", said)
    assert base64.b64decode(png).startswith(b"\x89PNG")
    assert GpuWatch.model_validate_json(published["watch-gpus-data"]).verdict == "passed"
    assert driver.left_open() == 0
    (file,) = (watched.home / "gpus" / "lab").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_what_happens_within_the_window_fails(watched: Watched, driver: Driver) -> None:
    for index in range(6):
        driver.gpu(index)

    def happen() -> None:
        driver.gpu(1, temperature=91)
        driver.gpu(2, memory_used=139 * GIB)
        driver.gpu(3, ecc=2)
        driver.xid(4, 79)
        driver.gpu(5, lost=1)

    happening = begin(watched.meanwhile(happen, rows=6))
    report = await watched.run(window_s=1.5)
    await happening
    assert report.verdict == "failed" and "and 2 more" in report.message
    bad = {f.check: (f.status, f.value) for f in report.findings if f.status != "ok"}
    assert bad == {
        "gpu 1 temperature": ("fail", "91 °C"),
        "gpu 2 memory": ("warn", "99.2 % of 140 GiB"),
        "gpu 3 ecc": ("fail", "2 uncorrected errors"),
        "gpu 4 xid": ("fail", "Xid 79"),
        "gpu 5": ("fail", "lost"),
    }
    assert report.next_step and [f.status for f in report.findings][0] == "fail"
    rows = watched.rows()
    assert {row["index"] for row in rows} == {"0", "1", "2", "3", "4", "5"}
    assert rows[-1]["lost"] == "1" and rows[-1]["temperature.gpu"] == "" and rows[-2]["xid"] == "79"
    page = (await artifacts(report.run_id))["watch-gpus-record"]
    assert "**lost**" in page and "fallen off the bus" in page


@pytest.mark.parametrize("how", ["not loaded", "temperature"])
async def test_nothing_unmeasured_passes(watched: Watched, driver: Driver, how: str) -> None:
    if how == "not loaded":
        driver.set(init=9)
    else:
        driver.gpu(0, temperature="!4")
    began = time.monotonic()
    report = await watched.run(window_s=60 if how == "not loaded" else 1)
    assert time.monotonic() - began < 20, "no driver: none will come"
    assert report.verdict == "inconclusive" and how in report.message and report.next_step
    assert (watched.rows() == []) == (how == "not loaded")
    page = (await artifacts(report.run_id))["watch-gpus-record"]
    assert "What could not be measured" in page and "unknown" in page


@pytest.mark.parametrize(
    ("readings", "verdict", "words"),
    [
        ([()], "failed", "0 GPUs"),
        ([None], "inconclusive", "nothing was sampled"),
        ([{"xid": None}], "inconclusive", "Xid"),
        ([{"ecc_uncorrected": None}], "inconclusive", "ECC"),
        ([{}, None, None], "inconclusive", "2 readings of 3 failed"),
        ([{}, {}, None], "passed", "2 samples of 1 GPU"),
        ([{"xid": 31}, {"xid": 0}], "failed", "Xid 31"),
        ([{"lost": True}, {}], "failed", "lost"),
    ],
)
def test_the_verdict_is_that_of_the_worst_reading(
    readings: list[Any], verdict: str, words: str
) -> None:
    collector = Collector()
    well = {"index": 0, "memory_used_gib": 1, "memory_total_gib": 2, "temperature_c": 50}
    well |= {"ecc_uncorrected": 0, "xid": 0}
    for at, one in enumerate(readings):
        gpus = (GpuReading(**{**well, **one}),) if isinstance(one, dict) else one
        collector.add(at, HostReading(gpus=gpus))
    found = judged("m", collector.window(3), POLICY)
    assert found[0] == verdict and words in found[1]


async def test_a_driver_that_hangs_does_not_hang_the_run(watched: Watched, driver: Driver) -> None:
    driver.gpu(0)
    watched.host = {"timeout_s": 0.4}

    happening = begin(watched.meanwhile(lambda: driver.gpu(0, hang=2)))
    report = await watched.run()
    await happening
    assert report.verdict == "inconclusive" or report.window.failed > 0
    assert any("the driver hangs" in problem for problem in report.window.problems)
    driver.gpu(0, hang=None)
    await sleep(1.5)  # the call that was left behind comes back, and must find its library


async def test_a_machine_behind_a_command_is_sampled_like_any_other(watched: Watched) -> None:
    gpu = {"index": 0, "name": "NVIDIA H200", "memory_used_gib": 1, "memory_total_gib": 140}
    gpu |= {"temperature_c": 99, "ecc_uncorrected": 0, "xid": 0}
    text = json.dumps({"cpu_share": 0, "memory_share": 0, "gpus": [gpu]})
    watched.host = {"kind": "command", "argv": ["echo", text]}
    report = await watched.run()
    assert report.verdict == "failed" and "99 °C" in report.message
    assert watched.rows()[0]["temperature.gpu"] == "99.0"
    watched.host = {"kind": "command", "argv": ["false"]}
    for file in (watched.home / "gpus" / "lab").iterdir():
        file.unlink()
    report = await watched.run(window_s=60)
    assert report.verdict == "inconclusive" and report.window.failed == 3, "it gives up early"


async def test_a_dry_run_keeps_and_tells_nothing(watched: Watched, driver: Driver) -> None:
    driver.gpu(0)
    report = await watched.run(options=Options(dry_run=True))
    assert report.verdict == "planned" and "1 GPU" in report.message
    assert watched.rows() == [] and await artifacts(report.run_id) == {}


async def test_people_are_told_what_was_exceeded(
    watched: Watched, driver: Driver, slack: Slack
) -> None:
    driver.gpu(0, ecc=1)
    watched.more = {"slack": slack.spec()}
    report = await watched.run()
    (message,) = slack.messages
    assert "FAILED" in str(message) and "uncorrected" in str(message)
    assert any("told #llm" in note for note in report.notes)


async def test_a_file_that_cannot_be_written_costs_only_the_file(
    watched: Watched, driver: Driver
) -> None:
    driver.gpu(0)
    watched.home.mkdir(parents=True)
    (watched.home / "gpus").write_text("in the way")
    report = await watched.run()
    assert report.verdict == "passed" and report.window.csv == ""
    assert any(p.startswith("csv: ") for p in report.window.problems)


async def test_a_machine_that_the_stack_does_not_know_is_named(watched: Watched) -> None:
    with pytest.raises(Permanent, match="'batou' is not in stack 'lab'; known: motoko"):
        await watched.run(host="batou")


def test_a_kill_keeps_what_was_sampled(nvml_library: Path, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        missing("linux", "the stand-in library is found through LD_LIBRARY_PATH")
    stand_in, file = Driver(nvml_library, tmp_path / "state"), tmp_path / "a" / "out.csv"
    stand_in.gpu(0)
    code = (
        "import asyncio, sys\n"
        "from blocks.gpu_host import GpuHostSpec\n"
        "from tasks.host_reads import sample_gpus\n"
        "asyncio.run(sample_gpus.fn('m', GpuHostSpec(), None, sys.argv[1], 3600, 0.2))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(file)], env=stand_in.env)
    try:
        for _ in range(300):
            if file.is_file() and file.read_text().count("\n") >= 4:
                break
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    text = file.read_text()
    assert text.endswith("\n") and len(list(csv.DictReader(text.splitlines()))) >= 3


# ---- the window ---------------------------------------------------------------------------------

READINGS = st.lists(
    st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 120), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@given(READINGS)
def test_least_mean_and_most_are_those_of_what_was_measured(readings: Any) -> None:
    collector = Collector()
    for at, (busy, celsius, ecc) in enumerate(readings):
        gpu = GpuReading(index=0, utilization=busy, temperature_c=celsius, ecc_uncorrected=ecc)
        collector.add(at, HostReading(gpus=(gpu,)))
    (series,) = collector.window(1).gpus
    for name, place in (("utilization", 0), ("temperature_c", 1)):
        values = [r[place] for r in readings if r[place] is not None]
        spread = series.spreads.get(name)
        assert (spread is None) == (values == [])
        if spread:
            assert (spread.least, spread.most) == (min(values), max(values))
            assert spread.mean == pytest.approx(sum(values) / len(values))
            assert spread.count == len(values)
    assert series.worst.ecc_uncorrected == max(r[2] for r in readings)
    assert series.worst.temperature_c == max(
        (r[1] for r in readings if r[1] is not None), default=None
    )


@given(st.lists(st.none() | st.sampled_from([0, 31, 79]), min_size=1, max_size=6))
def test_an_xid_that_was_heard_is_never_forgotten(xids: list[int | None]) -> None:
    collector = Collector()
    for at, xid in enumerate(xids):
        collector.add(at, HostReading(gpus=(GpuReading(index=0, xid=xid),)))
    found = collector.window(1).gpus[0].worst.xid
    heard = [x for x in xids if x]
    assert found == (heard[-1] if heard else 0 if 0 in xids else None)


def test_page_and_chart_do_not_grow_with_the_window() -> None:
    sizes = []
    for samples, gpus in ((50, 16), (3000, 16), (50, 64)):
        collector = Collector()
        for at in range(samples):
            cards = tuple(
                GpuReading(
                    index=i,
                    name="NVIDIA H200 " + "x" * 500,
                    utilization=(at % 100) / 100,
                    memory_used_gib=90,
                    memory_total_gib=140,
                    temperature_c=91,
                    power_w=300 + at % 50,
                    problem="y" * 1000,
                )
                for i in range(gpus)
            )
            problems = tuple(f"gpu {i}: {at} " + "z" * 1000 for i in range(gpus))
            collector.add(at, HostReading(gpus=cards, problems=problems))
        window = collector.window(60, "/home/x.csv")
        assert all(len(s.times_s) <= MOST_POINTS for s in window.gpus)
        verdict, message, findings = judged("motoko", window, POLICY)
        report = GpuWatch(
            stack="lab",
            host="motoko",
            run_id="1",
            actor="a",
            source="ui",
            started_at=datetime.now(UTC),
            duration_s=1,
            verdict=verdict,
            message=message,
            findings=findings,
            window=window,
        )
        chart = gpu_png(window, POLICY)
        assert len(chart) < 400_000
        sizes.append(len(page(report)))
    assert max(sizes) < 40_000, sizes


def test_nothing_sampled_draws_nothing_and_proves_nothing() -> None:
    window = Collector().window(0)
    assert gpu_png(window, POLICY) == ""
    assert judged("m", window, POLICY)[0] == "inconclusive"
