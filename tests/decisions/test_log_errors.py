"""Error lines of a log: which count, since when, and that no log makes it slow."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decisions.log_errors import SAMPLE_CHARS, group
from flows.decisions.log_window import cut_short, most_lines

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
DAY = NOW - timedelta(hours=24)


def counted(log: str, now: datetime = NOW, since: datetime = DAY) -> dict[str, int]:
    return {g.sample: g.count for g in group(log.encode(), since, now).groups}


def test_the_same_message_with_other_numbers_is_one_group() -> None:
    log = "".join(
        f"(EngineCore pid=3) ERROR 11-20 23:00:0{n} [core.py:1{n}] Request chatcmpl-a{n}b{n}c{n} "
        f"of /models/x{n}/y failed after {n}.5 s at 0x7f{n}a "
        f"(id 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4be{n})\n"
        for n in range(5)
    )
    ((sample, count),) = counted(log).items()
    assert count == 5 and sample.startswith("Request chatcmpl-a0b0c0 of /models/x0/y")


def test_most_frequent_first() -> None:
    log = "".join(f"ERROR 11-21 01:00:00 [a.py:1] {'b' if n % 3 else 'a'}\n" for n in range(9))
    assert list(counted(log).items()) == [("b", 6), ("a", 3)]


def test_a_traceback_is_one_error_and_its_frames_are_none() -> None:
    log = (
        "ERROR 11-21 01:00:00 [core.py:1] Traceback (most recent call last):\n"
        'ERROR 11-21 01:00:00 [core.py:1]   File "/x/y.py", line 3, in foo\n'
        "ERROR 11-21 01:00:00 [core.py:1]     raise ValueError('x')\n"
        "ERROR 11-21 01:00:00 [core.py:1] ValueError: no such thing\n"
        "Traceback (most recent call last):\n"
        '  File "/x/y.py", line 3, in foo\n'
        "    raise RuntimeError\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    )
    assert counted(log) == {
        "ValueError: no such thing": 1,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": 1,
    }
    assert counted('Traceback (most recent call last):\n  File "x", line 1\n') == {
        "Traceback without an error line": 1
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("04:00:00 - LiteLLM Proxy:ERROR: proxy_server.py:12 - no auth", "no auth"),
        (
            '{"message": "db \\"x\\" down", "level": "ERROR", "timestamp": "2026-11-21T03:00:00"}',
            "",
        ),
        ("2026-11-21 03:59:00,123 - root - CRITICAL - no disk", "no disk"),
        ("2026-11-21T03:59:00.1Z ERROR actix: gone", "actix: gone"),
        ('level=error ts=2026-11-21T03:59:00Z msg="gone"', ""),
        ("vllm: error: argument --x: invalid", "vllm: error: argument --x: invalid"),
        ('{"log":"ERROR 11-21 01:00:00 [a.py:1] gone\\n","time":"2026-11-21T01:00:00Z"}', "gone"),
    ],
)
def test_what_counts(line: str, said: str) -> None:
    ((sample, count),) = counted(line + "\n").items()
    assert count == 1 and (not said or sample == said)


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-21 01:00:00 [x.py:1] log level is ERROR",
        'INFO:     1.2.3.4:5 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
        "WARNING 11-21 01:00:00 [x.py:1] ValueError was caught: no",
        '{"message": "finish_reason error", "level": "info", "x": "error"}',
        "the word error in a sentence",
    ],
)
def test_what_does_not_count(line: str) -> None:
    assert counted(line + "\n") == {}


def test_a_secret_in_an_error_is_not_quoted() -> None:
    (sample,) = counted(
        "ERROR 11-21 01:00:00 [a.py:1] bad key sk-abcdefghijkl token=hunter2hunter2\n"
    )
    assert "abcdefgh" not in sample and "hunter2" not in sample


def test_the_window_and_lines_without_a_time_belong_to_the_line_before() -> None:
    log = (
        "ERROR 11-19 01:00:00 [a.py:1] old\n"
        "ValueError: of the old one\n"
        "INFO 11-20 05:00:00 [a.py:1] fine\n"
        "fine, without a time\n"
        "KeyError: of the new one\n"
        "ERROR 11-20 05:00:01 [a.py:1] new\n"
    )
    assert counted(log) == {"KeyError: of the new one": 1, "new": 1}
    found = group(log.encode(), DAY, NOW)
    assert found.reaches == datetime(2026, 11, 19, 1, tzinfo=UTC)


def test_a_stamp_without_a_year_is_never_of_the_future() -> None:
    now = datetime(2027, 1, 1, 1, tzinfo=UTC)
    log = "ERROR 12-31 23:00:00 [a.py:1] new\nERROR 01-02 23:00:00 [a.py:1] a year old\n"
    assert counted(log, now, now - timedelta(hours=24)) == {"new": 1}


def test_a_stamp_without_a_zone_is_of_the_zone_of_now() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=2)))
    log = "ERROR 11-21 05:30:00 [a.py:1] half past three UTC\n"
    assert counted(log, now, NOW - timedelta(minutes=31)) == {"half past three UTC": 1}
    assert counted(log, now, NOW - timedelta(minutes=29)) == {}


def test_times_of_day_are_counted_back_from_the_end() -> None:
    head = " - LiteLLM Proxy:ERROR: proxy_server.py:1 - "
    days = [("10:00:00", "2 days"), ("23:59:00", "2 days late"), ("01:00:00", "old")]
    days += [("05:00:00", "new"), ("23:00:00", "newer"), ("03:59:00", "newest")]
    log = "".join(f"{at}{head}{said}\n" for at, said in days)
    assert set(counted(log)) == {"new", "newer", "newest"}


def test_a_log_without_times_is_counted_whole_and_says_so() -> None:
    found = group(b"ERROR something\nERROR something else\n", DAY, NOW)
    assert (found.count, found.dated, found.reaches) == (2, False, None)
    assert group(b"", DAY, NOW).count == 0


def test_how_far_it_goes_back_is_found_behind_many_lines_that_do_not_tell() -> None:
    access = b'INFO:     1.2.3.4:5 - "POST /v1/completions HTTP/1.1" 200 OK\n'
    log = access * 1000 + b"INFO 11-21 03:00:00 [x.py:1] fine\n" + access
    assert group(log, DAY, NOW).reaches == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("argv", "most"),
    [
        (["docker", "logs", "--tail", "20000", "vllm"], 20000),
        (["docker", "logs", "--tail=300", "vllm-8000"], 300),
        (["journalctl", "-u", "vllm", "-n", "20000", "-o", "cat"], 20000),
        (["journalctl", "--lines=50"], 50),
        (["tail", "-200", "/var/log/x"], 200),
        (["ssh", "-p", "2222", "gpu-1", "tail -n500 /var/log/x"], 500),
        (["sudo", "-n", "docker", "logs", "--tail", "all", "vllm"], None),
        (["bash", "vllm.sh", "logs"], None),
    ],
)
def test_how_many_lines_a_command_prints(argv: list[str], most: int | None) -> None:
    assert most_lines(argv) == most


TAIL = ("docker", "logs", "--tail", "20", "vllm")
CAT = ("bash", "vllm.sh", "logs")
PART = "runtime.logs printed the last 20 lines"
LATE = "what runtime.logs printed begins after the service's start"


@pytest.mark.parametrize(
    ("argv", "lines", "reaches_h", "started_h", "why"),
    [
        (TAIL, 20, 25, 72, ""),
        (TAIL, 20, 3, 72, PART),
        (TAIL, 20, 3, 3, PART),
        (TAIL, 19, 3, 3, ""),
        (TAIL, 19, 3, 3.1, ""),
        (TAIL, 19, 3, 72, LATE),
        (TAIL, 19, 5, 1, ""),
        (TAIL, 19, 3, None, LATE),
        (TAIL, 20, None, 72, PART),
        (TAIL, 19, None, 72, ""),
        (CAT, 20, 3, 72, LATE),
        (CAT, 20, 3, 3, ""),
        (CAT, 20, None, 3, "no line of it tells a time"),
        (CAT, 0, None, 72, ""),
    ],
)
def test_a_log_is_whole_when_it_reaches_back_or_begins_with_the_service(
    argv: tuple[str, ...], lines: int, reaches_h: float | None, started_h: float | None, why: str
) -> None:
    reaches, started = (h and NOW - timedelta(hours=h) for h in (reaches_h, started_h))
    assert cut_short(b"a line\n" * lines, argv, reaches, DAY, started) == why


@pytest.mark.parametrize(
    "block",
    [
        b'INFO:     1.2.3.4:5 - "POST /v1/completions HTTP/1.1" 200 OK\n',
        b"(APIServer pid=1) INFO 11-20 23:00:00 [api.py:3] throughput: 3.2 tokens/s, no error\n",
        b"(EngineCore pid=3) ERROR 11-20 23:00:00 [core.py:12] Request chatcmpl-a1 failed: 3.2 s\n",
        b"Error",
        b"x" * 999 + b"ERROR\n",
        b"ERROR 11-20 23:00:00 " + b"9" * 500 + b"\n",
    ],
    ids=["access", "info", "errors", "one line", "long lines", "numbers"],
)
def test_no_log_makes_it_slow(block: bytes) -> None:
    log = block * (4_000_000 // len(block))
    began = time.process_time()
    group(log, DAY, NOW)
    assert time.process_time() - began < 2, "4 MB take 0.02 to 0.3 s on one core"


LINES = st.sampled_from(
    [
        "ERROR 11-21 01:00:00 [a.py:1] a",
        "ERROR 11-19 01:00:00 [a.py:1] b",
        "INFO 11-20 23:00:00 [a.py:1] c",
        "ValueError: d",
        "12:00:00 - LiteLLM:ERROR: x.py:1 - e",
        "Traceback (most recent call last):",
        "",
    ]
)


@given(st.lists(LINES | st.text(max_size=60), max_size=30), st.binary(max_size=50))
def test_every_log_is_counted(lines: list[str], junk: bytes) -> None:
    log = "\n".join(lines).encode("utf-8", "replace") + b"\n" + junk
    found = group(log, DAY, NOW)
    assert found.count >= sum(g.count for g in found.groups)
    assert all(len(g.sample) <= SAMPLE_CHARS and g.count > 0 for g in found.groups)
    assert found.count <= log.count(b"\n") + 1
