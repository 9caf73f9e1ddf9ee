"""The journal: killed at any write it holds the old or the new, never half; one holder."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import Permanent, Unsafe
from blocks.journal import (
    KEEP_BACKUPS,
    Act,
    Degraded,
    Entry,
    Journal,
    degraded_services,
    unfinished,
    write_atomically,
)
from blocks.models import Receipt, ServingConfig

NOW = datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC)
BEFORE, AFTER = ServingConfig(max_model_len=16384), ServingConfig(max_model_len=8192)


def entry(run: str = "run-1") -> Entry:
    receipt = Receipt(
        runtime="command",
        service="s/a",
        before=BEFORE,
        after=AFTER,
        was_running=True,
        data={"k": 1},
    )
    return Entry(
        run_id=run, procedure="remediate-oom", actor="me", at=NOW, phase="intent", receipt=receipt
    )


def act(run: str = "run-1", at: datetime = NOW) -> Act:
    return Act(at=at, procedure="remediate-oom", run_id=run, verdict="passed")


def mark(length: int) -> Degraded:
    config = ServingConfig(max_model_len=length)
    return Degraded(original=config, since=NOW, procedure="remediate-oom", run_id="r")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal("s", "a", tmp_path)


def test_the_life_of_a_change(journal: Journal, tmp_path: Path) -> None:
    assert journal.entry() is None and journal.acts() == [] and unfinished(tmp_path) == []
    journal.begin(entry())
    assert journal.entry() == entry() and unfinished(tmp_path) == [("s", "a")]
    journal.advance("verified")
    assert journal.entry() == entry().model_copy(update={"phase": "verified"})
    journal.finish(act())
    assert journal.entry() is None and journal.acts() == [act()] and unfinished(tmp_path) == []


def test_an_unfinished_change_is_never_covered(journal: Journal) -> None:
    journal.begin(entry("first"))
    with pytest.raises(Unsafe, match="must be reconciled first") as e:
        journal.begin(entry("second"))
    assert e.value.reason == "locked"
    found = journal.entry()
    assert found is not None and found.run_id == "first"


def test_an_entry_that_vanished_is_no_success(journal: Journal) -> None:
    with pytest.raises(Permanent, match="vanished"):
        journal.advance("verified")


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it and go on."""


STEPS = {
    "begin": (lambda j: None, lambda j: j.begin(entry())),
    "advance": (lambda j: j.begin(entry()), lambda j: j.advance("verified")),
    "finish": (lambda j: j.begin(entry()), lambda j: j.finish(act())),
    "degrade": (lambda j: None, lambda j: j.mark_degraded(mark(16384))),
    "backup": (lambda j: None, lambda j: j.save_backup("run-1", "apply-serving", BEFORE)),
}


def state(journal: Journal) -> tuple[object, ...]:
    backups = [b.config for b in journal.backups()]
    return journal.entry(), journal.acts(), journal.degraded(), backups


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink", "open"])
def test_killed_at_any_call_it_is_as_before_or_as_after(
    name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, step = STEPS[name]
    whole = Journal("s", "a", tmp_path / "whole")
    before(whole)
    old = state(whole)
    step(whole)
    new = state(whole)
    real = getattr(os, call)
    for number in range(12):
        journal = Journal("s", "a", tmp_path / f"{number}")
        before(journal)
        left = [number]

        def die(*args: object, left: list[int] = left, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, die)
            try:
                step(journal)
                reached = True
            except Killed:
                reached = False
        found = state(Journal("s", "a", tmp_path / f"{number}"))
        # In `finish` the act may be on record while the entry is still there: counted twice
        # after the reconciliation, never lost.
        between = (old[0], new[1], old[2], old[3])
        assert found in (old, new, *([between] if name == "finish" else []))
        # Whatever is left lying about must not be taken for content later.
        step_again = name in ("begin",) and found == old
        if step_again:
            journal.begin(entry())
        if reached:
            return
    assert call in ("unlink", "open", "fsync", "replace")


@given(cut=st.integers(0, 200), junk=st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_torn_and_foreign_lines_of_the_acts_are_skipped(
    cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal = Journal("s", "a", tmp_path_factory.mktemp("j"))
    journal.record(act("one"))
    path = journal.folder / "acts.jsonl"
    line = act("torn").model_dump_json().encode()
    torn = line[: min(cut, len(line) - 1)]
    path.write_bytes(path.read_bytes() + junk.replace(b"\n", b"") + b"\n" + torn)
    assert journal.acts() == [act("one")]


def test_an_act_after_a_torn_line_is_not_lost(journal: Journal) -> None:
    journal.record(act("one"))
    with (journal.folder / "acts.jsonl").open("a") as f:
        f.write('{"at": "2026-11-2')
    journal.record(act("two"))
    assert [a.run_id for a in journal.acts()] == ["one", "two"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"run_id": 1}', "\x00" * 50, "é"])
@pytest.mark.parametrize("name", ["entry.json", "degraded.json"])
def test_a_corrupt_file_is_kept_and_named(name: str, content: str, journal: Journal) -> None:
    journal.folder.mkdir(parents=True)
    (journal.folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(Permanent, match=name):
        journal.entry() if name == "entry.json" else journal.degraded()
    if name == "entry.json":
        with pytest.raises(Permanent):
            journal.begin(entry())
    assert (journal.folder / name).exists()


HOLD = """
import sys, pathlib
from blocks.journal import Journal
with Journal("s", "a", pathlib.Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_holds_a_service_and_the_kernel_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(Unsafe, match="another run is acting on s/a") as e:
            with Journal("s", "a", tmp_path).held():
                pass
        assert e.value.reason == "locked"
        with Journal("s", "b", tmp_path).held():
            pass
        process.kill()
        process.wait(30)
        with Journal("s", "a", tmp_path).held():
            pass


def test_the_lock_is_not_inherited_by_a_spawned_command(journal: Journal) -> None:
    with journal.held():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with journal.held():
            pass
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(30)


def test_the_newest_backups_stay_and_come_newest_first(journal: Journal) -> None:
    for number in range(KEEP_BACKUPS + 5):
        config = ServingConfig(max_model_len=number + 1)
        journal.save_backup(f"{number:08d}-run", "apply-serving", config)
    found = journal.backups()
    lengths = [b.config.max_model_len for b in found]
    assert lengths == list(range(KEEP_BACKUPS + 5, 5, -1))
    (journal.folder / "backups" / f"{found[3].name}.json").write_text("{torn")
    assert len(journal.backups()) == KEEP_BACKUPS - 1


def test_the_first_degraded_mark_wins(journal: Journal, tmp_path: Path) -> None:
    journal.mark_degraded(mark(16384))
    journal.mark_degraded(mark(12288))
    found = journal.degraded()
    assert found is not None and found.original.max_model_len == 16384
    assert degraded_services(tmp_path) == [("s", "a")]
    journal.clear_degraded()
    journal.clear_degraded()
    assert journal.degraded() is None and degraded_services(tmp_path) == []


def test_only_the_owner_may_look(journal: Journal) -> None:
    journal.begin(entry())
    assert journal.folder.stat().st_mode & 0o077 == 0
    assert (journal.folder / "entry.json").stat().st_mode & 0o077 == 0


def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@given(
    rows=st.lists(st.tuples(st.uuids().map(str), st.integers(0, 10**6), st.booleans()), max_size=8)
)
@settings(max_examples=30, deadline=None)
def test_what_is_recorded_is_read_back_in_order(
    rows: list[tuple[str, int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal = Journal("s", "a", tmp_path_factory.mktemp("j"))
    wanted = [
        Act(at=NOW + timedelta(seconds=s), procedure="p", run_id=r, verdict="error", reconciled=x)
        for r, s, x in rows
    ]
    for one in wanted:
        journal.record(one)
    assert journal.acts() == wanted
    lines = journal.folder / "acts.jsonl"
    assert not rows or all(json.loads(line) for line in lines.read_bytes().split(b"\n") if line)
