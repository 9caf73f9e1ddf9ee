"""The audit trail: every byte counts, and no kill leaves it broken."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocks import audit_log
from blocks.audit_chain import MAX_LINE, START, canonical, day_files, sealed
from blocks.audit_log import AuditLog
from blocks.errors import Permanent


def lines(log: AuditLog) -> list[bytes]:
    return [line for p in day_files(log.folder) for line in p.read_bytes().splitlines(True)]


class Clock:
    """`datetime.now` of the module, moved on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from datetime import UTC, datetime

        self.now_is = datetime(2026, 12, 30, 23, 59, tzinfo=UTC)
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return clock.now_is

        monkeypatch.setattr(audit_log, "datetime", Moved)

    def forward(self, **by: int) -> None:
        from datetime import timedelta

        self.now_is += timedelta(**by)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit")


def made(log: AuditLog, clock: Clock) -> AuditLog:
    """Three days, one of them of another year, and a torn line that was moved aside."""
    for number in range(3):
        log.append("access", {"actor": f"ada-{number}", "words": "ü \u2028 \ud800", "n": 1.5})
    clock.forward(days=1)
    log.extend("run", [{"run": str(n), "nested": {"b": [1, None, True], "a": {}}} for n in (1, 2)])
    with (log.folder / "2026/12/31.jsonl").open("ab") as f:
        f.write(b'{"torn')
    clock.forward(days=1)
    log.append("freeze", {"actor": "bob"})
    return log


@pytest.fixture
def three_days(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    return made(log, Clock(monkeypatch))


def test_the_default_folder_is_the_products(home: Path) -> None:
    AuditLog().append("access", {"actor": "ada"})
    assert len(list((home / "audit").glob("*/*/*.jsonl"))) == 1
    assert (home / "audit").stat().st_mode & 0o077 == 0
    assert all(p.stat().st_mode & 0o077 == 0 for p in (home / "audit").rglob("*.json*"))


def test_each_record_is_one_canonical_line_bound_to_the_one_before(three_days: AuditLog) -> None:
    found = [json.loads(line) for line in lines(three_days)]
    assert [r["seq"] for r in found] == list(range(1, 8))
    assert [r["kind"] for r in found] == [*["access"] * 3, "run", "run", "repair", "freeze"]
    assert [r["day"] for r in found] == [
        *["2026/12/30"] * 3,
        *["2026/12/31"] * 2,
        *["2027/01/01"] * 2,
    ]
    assert found[0]["prev"] == "0" * 64
    assert all(b["prev"] == a["hash"] for a, b in zip(found, found[1:], strict=False))
    assert all(canonical(json.loads(x)) + b"\n" == x for x in lines(three_days))
    verified = three_days.verify()
    assert (verified.records, verified.files, verified.first_broken) == (7, 3, None)
    assert verified.hash == found[-1]["hash"] and not verified.torn
    assert list(three_days.records()) == found


def test_a_torn_line_is_kept_and_noted(three_days: AuditLog) -> None:
    (repair,) = [r for r in three_days.records() if r["kind"] == "repair"]
    assert repair["moved_to"] == "2026/12/31.jsonl.torn-1" and repair["bytes"] == 6
    assert (three_days.folder / repair["moved_to"]).read_bytes() == b'{"torn'


# ---- tampering ----------------------------------------------------------------------------------


def evidence(log: AuditLog) -> list[Path]:
    """Every file that says something."""
    found = (p for p in log.folder.rglob("*") if p.is_file() and p.stat().st_size)
    return sorted(p for p in found)


def test_any_byte_of_any_file(three_days: AuditLog) -> None:
    """All of them, one after the other."""
    rng, seen = random.Random(7), 0
    for path in evidence(three_days):
        good = path.read_bytes()
        name = str(path.relative_to(three_days.folder))
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= rng.randrange(1, 256)
            path.write_bytes(bad)
            broken = three_days.verify().first_broken
            assert broken, (name, at, bad[at])
            # A torn line has no place of its own in the chain: the record that names it is named.
            assert name in (broken.file, broken.why.split(", ")[0].split()[-1]), (broken, at)
            if broken.file == name and name.endswith(".jsonl"):
                assert broken.line == good[:at].count(b"\n") + 1
            seen += 1
        path.write_bytes(good)
    assert seen > 2000 and three_days.verify().first_broken is None


TAMPER = st.sampled_from(["remove", "repeat", "swap", "insert", "cut", "resealed", "moved"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(how=TAMPER, at=st.integers(0, 6), data=st.data())
def test_whatever_is_done_to_records_is_found(
    three_days: AuditLog, how: str, at: int, data: st.DataObject
) -> None:
    copy = AuditLog(three_days.folder.with_name("copy"))
    shutil.rmtree(copy.folder, ignore_errors=True)
    shutil.copytree(three_days.folder, copy.folder)
    whole = lines(copy)
    path = next(p for p in day_files(copy.folder) if whole[at] in p.read_bytes())
    own = path.read_bytes().splitlines(True)
    index = own.index(whole[at])
    if how == "remove":
        del own[index]
    elif how == "repeat":
        own.insert(index, own[index])
    elif how == "swap":
        other = data.draw(st.integers(0, len(own) - 1))
        if other == index:
            return
        own[index], own[other] = own[other], own[index]
    elif how == "insert":
        own.insert(index, sealed("access", {"actor": "eve"}, "2026/12/31", "now", START)[1])
    elif how == "cut":
        own[index] = own[index][: data.draw(st.integers(0, len(own[index]) - 1))]
    elif how == "resealed":  # its own hash is right again
        record = {k: v for k, v in json.loads(own[index]).items() if k not in audit_keys()}
        after = START._replace(seq=at, hash=json.loads(own[index])["prev"])
        own[index] = sealed(
            "access", {**record, "actor": "eve"}, json.loads(own[index])["day"], "x", after
        )[1]
    else:
        other_day = data.draw(st.sampled_from([p for p in day_files(copy.folder) if p != path]))
        ends = (other_day.read_bytes() + own[index], own[index] + other_day.read_bytes())
        other_day.write_bytes(data.draw(st.sampled_from(ends)))
        del own[index]
    path.write_bytes(b"".join(own))
    broken = copy.verify().first_broken
    assert broken and broken.line >= 1, how


def audit_keys() -> frozenset[str]:
    from blocks.audit_chain import OURS

    return OURS


def test_what_is_cut_off_at_the_end_is_missed(three_days: AuditLog) -> None:
    last = three_days.folder / "2027/01/01.jsonl"
    rest = last.read_bytes().splitlines(True)
    last.write_bytes(rest[0])
    broken = three_days.verify().first_broken
    assert broken and str(broken) == "2027/01/01.jsonl:2: record 7 is gone from the end: " + (
        "head.json names it"
    )
    shutil.rmtree(three_days.folder / "2027")
    broken = three_days.verify().first_broken
    assert broken and "record 6 to 7 is gone" in broken.why
    with pytest.raises(Permanent, match="nothing was appended: .* ends with record 5"):
        three_days.append("access", {})
    (three_days.folder / "head.json").unlink()
    broken = three_days.verify().first_broken
    assert broken and broken.file == "head.json"
    with pytest.raises(Permanent, match="is missing"):
        three_days.append("access", {})


def test_a_day_that_is_gone_is_missed_at_the_next(three_days: AuditLog) -> None:
    (three_days.folder / "2026/12/31.jsonl").unlink()
    assert str(three_days.verify().first_broken).startswith(
        "2027/01/01.jsonl:1: is record 6: record 4 to 5 was removed"
    )


def test_nothing_is_appended_to_a_last_record_that_was_changed(log: AuditLog) -> None:
    log.append("access", {"actor": "ada"})
    (path,) = day_files(log.folder)
    path.write_bytes(path.read_bytes().replace(b"ada", b"eve"))
    with pytest.raises(Permanent, match="was changed: its hash"):
        log.append("access", {"actor": "bob"})
    assert len(lines(log)) == 1


# ---- what may be written ------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
def test_any_json_comes_back_as_it_was(tmp_path: Path, value: Any) -> None:
    log = AuditLog(tmp_path / "any")
    log.append("access", {"value": value})
    assert [*log.records()][-1]["value"] == value


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"seq": 1}, "seq is the trail's own"),
        ({"x": float("nan")}, "is no JSON"),
        ({"x": object()}, "is no JSON"),
        ({"x": "y" * MAX_LINE}, "at most"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(log: AuditLog, record: Any, said: str) -> None:
    log.append("access", {2: "b", 10: "a"})  # type: ignore[dict-item]
    with pytest.raises(Permanent, match=said):
        log.append("access", record)
    verified = log.verify()
    assert verified.records == 1 and verified.first_broken is None


def test_a_clock_set_back_writes_into_the_last_day(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    log.append("access", {})
    clock.forward(days=-3)
    log.append("access", {})
    assert [r["at"][:10] for r in log.records()] == ["2026-12-30", "2026-12-27"]
    assert len(day_files(log.folder)) == 1 and log.verify().first_broken is None


def test_an_empty_trail_is_whole(log: AuditLog) -> None:
    assert log.verify().first_broken is None and not log.folder.exists()


def test_a_copy_that_cannot_be_written_is_read(three_days: AuditLog) -> None:
    (three_days.folder / "lock").unlink()
    assert three_days.verify().records == 7
    assert not (three_days.folder / "lock").exists()


# ---- at once, and killed ------------------------------------------------------------------------


def append_some(folder: str) -> int:
    log = AuditLog(Path(folder))
    for number in range(12):
        log.append("access", {"pid": os.getpid(), "n": number})
        if number % 4 == 0:
            verified = log.verify()
            assert verified.first_broken is None, verified
    return os.getpid()


def test_several_processes_write_one_chain(log: AuditLog) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        pids = list(pool.map(append_some, [str(log.folder)] * 3))
    assert log.verify().records == 36
    for pid in set(pids):
        own = [r["n"] for r in log.records() if r["pid"] == pid]
        assert own == list(range(12)) * (len(own) // 12)


FORKS = """
import json, os, signal, sys, time
from pathlib import Path
from blocks.audit_log import AuditLog
for line in sys.stdin:
    if pid := os.fork():
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        print(os.getpid(), flush=True)
        exec(json.loads(line))
        os._exit(7)
"""


class Forks:
    """Children that are at work at once: the imports are done, and only once."""

    def __init__(self) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, code: str) -> int:
        """A child that runs this; its process id."""
        assert self.parent.stdin
        self.parent.stdin.write(json.dumps(code) + "\n")
        self.parent.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.parent.stdout
        return self.parent.stdout.readline().strip()

    def end(self) -> tuple[list[str], int]:
        """What the child said from here on, and its exit code."""
        said = list[str]()
        while not (line := self.line()).startswith("ended "):
            assert line, "the parent is gone"
            said.append(line)
        return said, int(line.split()[1])


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    with made.parent:
        yield made
        made.parent.kill()


WRITER = """
log, n = AuditLog(Path({folder!r})), 0
while True:
    n += 1
    told = log.extend("run", [{{"n": n, "pad": "x" * 200_000}}, {{"n": n, "pad": "y"}}])
    print(told[-1], flush=True)
"""


def test_kills_while_it_writes_leave_a_chain(log: AuditLog, forks: Forks) -> None:
    """What was promised stays; what was cut short is aside and noted; nothing else is lost."""
    rng, promised = random.Random(11), set[str]()
    for _ in range(8):
        child = forks.start(WRITER.format(folder=str(log.folder)))
        promised.add(forks.line())  # it is at work
        time.sleep(rng.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        said, code = forks.end()
        assert code == -signal.SIGKILL
        promised |= set(said)
        verified = log.verify()
        assert verified.first_broken is None, verified
    log.append("access", {"actor": "the next"})
    verified = log.verify()
    assert verified.first_broken is None and not verified.torn
    assert len(promised) >= 8 and promised <= {r["hash"] for r in log.records()}
    assert not list((log.folder / "pending").glob("*"))


def killed_at(forks: Forks, log: AuditLog, call: str, number: int) -> None:
    """One append in a child that dies before its `number`-th call of an `os` function."""
    code = f"""
log, calls, real = AuditLog(Path({str(log.folder)!r})), [], os.{call}
def dies(*a, **k):
    calls.append(1)
    if len(calls) == {number}:
        if {call!r} == "write":
            real(a[0], bytes(a[1])[:9])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
os.{call} = dies
log.append("access", {{"actor": "killed"}})
"""
    forks.start(code)
    assert forks.end()[1] in (-signal.SIGKILL, 7)


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_kill_at_any_step_of_a_repair_is_repaired(log: AuditLog, forks: Forks, call: str) -> None:
    log.append("access", {"actor": "first"})
    (path,) = day_files(log.folder)
    for number in range(1, 7):
        with path.open("ab") as f:
            f.write(b'{"torn %d' % number)
        killed_at(forks, log, call, number)
        assert log.verify().first_broken is None, (call, number)
        log.append("access", {"actor": "next"})
        verified = log.verify()
        assert verified.first_broken is None and not verified.torn, (call, number)
        kept = {p.read_bytes() for p in path.parent.glob("*.torn-*")}
        assert b'{"torn %d' % number in kept
        named = [r["moved_to"] for r in log.records() if r["kind"] == "repair"]
        files = [p for p in log.folder.rglob("*.torn-*") if p.name[0] != "."]
        assert {p.relative_to(log.folder).as_posix() for p in files} == set(named)
        assert len(named) == len(set(named))
