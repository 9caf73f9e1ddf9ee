"""What `diagnose` promises: the right label, bounded work, and no dependence on chunking."""

import io
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.decisions.diagnosis import Diagnosis, diagnose, explain
from flows.decisions.diagnosis_advice import ADVICE, DEFINITIONS, REMEDIES
from flows.decisions.diagnosis_evidence import _MILD, _STAMP, INDEX, RULES, TAGS
from flows.decisions.diagnosis_facts import _COMPILED, _DEVICE, _PROCESS
from flows.decisions.diagnosis_rules import Label, Tag
from flows.decisions.diagnosis_text import _SECRETS, FULL_LINES, redact

HERE = Path(__file__).parent
LOGS = HERE / "logs"
DEV = HERE.parents[2] / "shared" / "failure-logs" / "dev.jsonl"
CASES = [json.loads(line) for line in (HERE / "diagnosis_cases.jsonl").read_text().splitlines()]
LABELS = get_args(Label)
BANNER = (
    "(APIServer pid=1) INFO 01-01 00:00:00 [x.py:1]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0\n"
)
READY = "INFO:     Application startup complete.\n"
KV = (
    "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens that "
    "can be stored in KV cache (6048).\n"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
DEAD = "RuntimeError: Engine core initialization failed. See root cause above.\n"
TOO_LONG = (
    "ValueError: This model's maximum context length is 4096 tokens. However, you requested 5000\n"
)


def label(log: object, **exit_info: object) -> str:
    return diagnose(log, **exit_info).label  # type: ignore[arg-type]


def wrong(cases: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    found = [(case["id"], case["label"], label(case["log"])) for case in cases]
    return [row for row in found if row[1] != row[2]]


# --- accuracy -------------------------------------------------------------------------------


def test_own_cases_are_at_least_99_percent_right() -> None:
    missed = wrong(CASES)
    assert len(missed) <= len(CASES) // 100, missed


def test_own_cases_cover_every_label() -> None:
    count = Counter(case["label"] for case in CASES)
    assert set(count) == set(LABELS)
    assert min(count.values()) >= 6, count
    assert len(CASES) >= 220
    assert len({case["id"] for case in CASES}) == len(CASES)


def test_labelled_excerpts_are_at_least_95_percent_right() -> None:
    if not DEV.exists():
        pytest.skip("shared/failure-logs/dev.jsonl is not part of a clone")
    cases = [json.loads(line) for line in DEV.read_text().splitlines()]
    missed = wrong(cases)
    assert len(missed) <= len(cases) * 0.05, missed


def test_every_label_has_definition_and_advice() -> None:
    assert set(ADVICE) == set(DEFINITIONS) == set(LABELS)
    assert set(REMEDIES) <= set(LABELS)
    assert {rule.says for rule in RULES} <= set(LABELS) | set(get_args(Tag))
    assert TAGS <= set(get_args(Tag))


# --- whole start-up logs -----------------------------------------------------------------------


def test_kv_cache_start_up_gives_the_cause_and_its_numbers() -> None:
    found = diagnose((LOGS / "kv-cache-too-small.log").read_bytes(), exit_code=1)
    assert found.label == "oom_kv_cache"
    assert found.remedy == "remediate_oom"
    assert found.facts["requested_max_model_len"] == 16384
    assert found.facts["estimated_max_model_len"] == 10752
    assert found.facts["kv_needed_gib"] == 1.5
    assert found.facts["kv_available_gib"] == 0.99
    assert found.facts["vllm_version"] == "0.32.0"
    assert found.facts["exit_code"] == 1
    assert "10752" in found.advice and "16384" in found.advice


def test_missing_model_start_up() -> None:
    with (LOGS / "model-missing.log").open("rb") as file:
        found = diagnose(file, exit_code=1)
    assert found.label == "model_not_found"
    assert found.remedy is None
    assert found.facts["model"] == "/models/does-not-exist"


def test_healthy_start_up() -> None:
    found = diagnose((LOGS / "healthy.log").read_text())
    assert found.label == "healthy_noise"
    assert "no_evidence" not in found.facts
    assert found.facts["kv_cache_tokens"] == 10880


# --- what wins over what ------------------------------------------------------------------------


def test_a_cause_beats_its_consequence_and_requests() -> None:
    noise = "ERROR 01-01 00:00:00 [core.py:1]   File x, line 1, in y\n" * 150
    assert label(BANNER + KV + noise + DEAD, exit_code=1) == "oom_kv_cache"
    assert label(READY + TOO_LONG * 9) == "request_too_long"
    assert label(READY + TOO_LONG * 9 + OOM) == "oom_runtime"
    assert label(READY + TOO_LONG + "EngineDeadError: EngineCore\n") == "engine_dead"


def test_the_last_start_counts_unless_it_shows_nothing() -> None:
    assert label(BANNER + KV + BANNER + DEAD) == "engine_dead"
    assert label(BANNER + OOM + BANNER + KV) == "oom_kv_cache"
    assert label(BANNER + KV + BANNER + "INFO 01-01 loading\n") == "oom_kv_cache"


def test_a_start_that_is_up_again_is_reported_but_not_remedied() -> None:
    found = diagnose(BANNER + KV + BANNER + READY)
    assert found.label == "oom_kv_cache"
    assert found.facts["recovered_in_last_start"] == "true"
    assert found.remedy is None
    assert diagnose(BANNER + KV + BANNER + READY, exit_code=1).label == "engine_dead"


def test_survived_errors_do_not_count() -> None:
    early = "ImportError: libcudart.so.12: cannot open shared object file\n"
    assert label(BANNER + early + READY) == "healthy_noise"
    assert label(BANNER + early + READY + OOM) == "oom_runtime"
    assert label(BANNER + early + READY, exit_code=1) == "engine_dead"


@pytest.mark.parametrize(
    ("log", "exit_code", "oom_killed", "expected"),
    [
        ("", 137, False, "host_oom_killed"),
        (KV, 137, True, "host_oom_killed"),
        (KV, 137, False, "oom_kv_cache"),
        (DEAD, 137, False, "host_oom_killed"),
        (READY + TOO_LONG, 137, False, "host_oom_killed"),
        ("", None, True, "host_oom_killed"),
        ("", 139, False, "engine_dead"),
        ("", 135, False, "shm_too_small"),
        ("", 1, False, "engine_dead"),
        (READY, 1, False, "engine_dead"),
        ("", 0, False, "healthy_noise"),
        (READY, 143, False, "healthy_noise"),
        (READY + "EngineDeadError: EngineCore encountered an issue\n", 0, False, "engine_dead"),
        (READY + TOO_LONG, 1, False, "engine_dead"),
    ],
)
def test_exit_information(log: str, exit_code: int | None, oom_killed: bool, expected: str) -> None:
    found = diagnose(log, exit_code, oom_killed)
    assert found.label == expected
    assert found.facts.get("exit_code") == exit_code


def test_nothing_known_is_never_called_green() -> None:
    for log in ("", b"", "FrobnicationError: the widget exploded\n"):
        found = diagnose(log)
        assert found.label == "healthy_noise"
        assert found.facts["no_evidence"] == "true"
        assert "no proof of health" in found.advice
    assert "FrobnicationError" in diagnose("FrobnicationError: x exploded\n").evidence[0]


def test_a_guess_by_topic_says_so() -> None:
    found = diagnose("ValueError: the tokenizer widget exploded sideways\n")
    assert found.label == "tokenizer_error"
    if "weak_evidence" in found.facts:
        assert found.advice.startswith("No rule knows")


def test_memory_of_another_process() -> None:
    found = diagnose(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a "
        "total capacity of 24.00 GiB of which 12.00 MiB is free. Process 4121 has 22.00 GiB "
        "memory in use. Including non-PyTorch memory, this process has 512.00 MiB memory in use."
    )
    assert found.label == "gpu_memory_held"
    assert found.facts["holder_pids"] == "4121"
    assert found.facts["gpu_total_gib"] == 24.0
    assert found.facts["tried_gib"] == pytest.approx(0.0195, abs=1e-4)


# --- the form of the log does not matter ------------------------------------------------------

SAMPLE = (LOGS / "kv-cache-too-small.log").read_bytes()


@given(st.integers(1, 5000))
@example(1)
@example(len(SAMPLE))
@settings(max_examples=25, deadline=None)
def test_chunk_size_does_not_matter(size: int) -> None:
    chunks = [SAMPLE[at : at + size] for at in range(0, len(SAMPLE), size)]
    assert diagnose(chunks) == diagnose(SAMPLE)


@given(st.lists(st.sampled_from([KV, OOM, READY, BANNER, DEAD, "x" * 9000, "\n", "\r\n", "a\0b"])))
@settings(max_examples=60, deadline=None)
def test_text_bytes_files_and_chunks_agree(parts: list[str]) -> None:
    text = "".join(parts)
    raw = text.encode()
    expected = diagnose(text)
    assert diagnose(raw) == expected
    assert diagnose(io.BytesIO(raw)) == expected
    assert diagnose(io.StringIO(text)) == expected
    assert diagnose(parts) == expected
    assert diagnose(raw[at : at + 7] for at in range(0, len(raw), 7)) == expected


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "vllm-1  | {}",
        "Jan 01 00:00:00 host docker[1]: {}",
        "2025-01-01T00:00:00.000000000Z stderr F {}",
        "\x1b[1;36m(EngineCore pid=1)\x1b[0;0m {}",
        "[rank0]: {}",
        "INFO [app] relayed: {}",
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_prefixes_and_line_ends(form: str, ending: str) -> None:
    for padding in (0, FULL_LINES + 500):
        log = "INFO 01-01 00:00:00 [x.py:1] routine line\n" * padding
        assert label(log + form.format(KV.strip()) + ending) == "oom_kv_cache"


def test_docker_json_lines_utf16_and_capitals() -> None:
    line = json.dumps({"log": "\x1b[31mERROR\x1b[0m " + KV, "stream": "stderr", "time": "x"})
    assert label(line + "\n") == "oom_kv_cache"
    assert label(line[:200]) == "oom_kv_cache"
    assert label(KV.encode("utf-16")) == "oom_kv_cache"
    assert label(KV.upper()) == "oom_kv_cache"
    assert label(b"\xff\xfe\x80" + KV.encode() + b"\x00\xff") == "oom_kv_cache"


def test_the_pre_filter_keeps_every_verdict() -> None:
    routine = "INFO 01-01 00:00:00 [loggers.py:1] Engine 000: routine line\n" * (FULL_LINES + 10)
    lost = [
        case["id"]
        for case in CASES
        if case["label"] not in ("healthy_noise",)
        and label(case["log"]) == case["label"] != label(routine + case["log"])
    ]
    assert len(lost) <= len(CASES) // 50, lost


# --- robustness --------------------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=4000), st.text(max_size=4000)))
@settings(max_examples=150, deadline=None)
def test_anything_gives_a_bounded_answer(log: bytes | str) -> None:
    found = diagnose(log)
    assert isinstance(found, Diagnosis)
    assert len(found.evidence) <= 8
    assert all(len(line) <= 400 for line in found.evidence)
    assert len(explain(found).splitlines()) <= 25


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case["id"])
def test_evidence_is_bounded_and_explained(case: dict[str, str]) -> None:
    found = diagnose(case["log"] * 30)
    assert len(found.evidence) <= 8
    assert all(0 < len(line) <= 400 for line in found.evidence)
    text = explain(found)
    assert found.label in text and len(text.splitlines()) <= 25


def _seconds(call: object, *args: object) -> float:
    started = time.perf_counter()
    call(*args)  # type: ignore[operator]
    return time.perf_counter() - started


def test_no_regular_expression_backtracks() -> None:
    patterns = [(rule.parts[0], rule.regex) for rule in RULES if rule.regex is not None]
    patterns += [("gib memory in use (1.5 ", pattern) for _, _, pattern in _COMPILED]
    patterns += [("process 1 has 1 gib", _PROCESS), ("free memory on device (1/", _DEVICE)]
    patterns += [("password: Bearer sk-a://", pattern) for pattern, _ in _SECRETS]
    patterns += [("warning info: [w1", _MILD), ("2025-01-01 00:00:0", _STAMP)]
    for literal, pattern in patterns:
        words = "".join(c if c.isalnum() else " " for c in pattern.pattern)[:60]
        for seed in (literal, literal + " ", "1" + literal, words, literal[:1], "0", " "):
            text = (seed * 100_000)[:100_000]
            assert _seconds(pattern.search, text) < 2.0, (pattern.pattern, seed)


def test_rule_time_is_linear_in_the_line() -> None:
    for rule in RULES:
        short = (" ".join(rule.parts) + " ") * 20
        assert _seconds(rule.find, short * 100) < 1.0, rule.parts


def test_secrets_do_not_reach_the_evidence() -> None:
    secrets = {
        "hf_": "hf_AbCdEfGhIjKlMnOpQr",
        "sk": "sk-proj-abcdef0123456789",
        "bearer": "Authorization: Bearer abc.def-ghi",
        "password": "password=hunter2hunter2",
        "url": "postgres://user:hunter2hunter2@db:5432/x",
    }
    for secret in secrets.values():
        tail = secret.split()[-1].split("=")[-1].split("user:")[-1].split("@")[0]
        for log in (f"{KV.strip()} {secret}\n", f"{'y' * 9000} {secret} {KV}"):
            found = diagnose(log)
            assert found.label == "oom_kv_cache"
            assert tail not in repr(found), secret
        assert tail not in redact(secret)
    assert "max_tokens=9000" in redact("max_tokens=9000 token=None")
    line = "serve --max-num-batched-tokens 8192 --api-key abcd1234 --hf-token=efgh5678"
    assert redact(line) == (
        "serve --max-num-batched-tokens 8192 --api-key [redacted] --hf-token=[redacted]"
    )
    for secret, tail in {
        "xapp-1-A0-abcdef": "abcdef",
        "LITELLM_SALT_KEY=abcd1234": "abcd1234",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJ": "SflKxwRJ",
        "https://hooks.slack.com/services/T00/B00/abcdefgh": "abcdefgh",
        "redis://:hunter22@cache:6379": "hunter22",
    }.items():
        assert tail not in redact(secret), secret


def test_a_long_stream_needs_little_memory() -> None:
    line = (
        b"(APIServer pid=1) INFO 01-01 00:00:00 [loggers.py:1] Engine 000: routine line, 3 reqs\n"
    )
    chunk = line * 12_000

    def stream() -> Iterator[bytes]:
        for _ in range(30):
            yield chunk
        yield b"z" * 5_000_000
        yield b"\n" + OOM.encode()

    tracemalloc.start()
    try:
        found = diagnose(stream())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.label == "oom_runtime"
    assert peak < 30_000_000


def test_a_text_that_was_cut_off_is_recognised() -> None:
    assert label("OSError: org/model does not appear to have a fil") == "model_not_found"
    assert label("RuntimeError: CUDA out of") == "oom_runtime"
    assert label("WARNING 01-01 00:00:00 [x.py:1] An error: CUDA out of") == "healthy_noise"
    assert label("RuntimeError: failed to") == "healthy_noise"  # too little to tell


def test_a_cut_off_benign_line_stays_benign() -> None:
    line = "WARNING 01-01 00:00:00 custom_all_reduce.py:45] Custom allreduce is disabled"
    assert {label(line[:end]) for end in range(20, len(line))} == {"healthy_noise"}


def test_the_index_leaves_out_no_rule_that_matches() -> None:
    for case in CASES:
        for line in case["log"].lower().split("\n"):
            matching = [n for n, rule in enumerate(RULES) if rule.find(line) >= 0]
            assert set(matching) <= set(INDEX.possible(line)), line
