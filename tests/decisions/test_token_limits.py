"""The proxy's limits against the servers' contexts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.check_policy import TokenLimits
from blocks.service import Service
from flows.decisions.finding import Finding
from flows.decisions.token_limits import (
    Misalignment,
    aligned,
    backend_of,
    is_burst,
    judge_limits,
    misalignments,
    realigned,
    too_long,
    wanted,
)

RULE = TokenLimits()


@pytest.mark.parametrize(
    ("length", "burst", "limit"),
    [
        (16384, False, 14000),
        (16384, True, 15000),
        (12288, False, 10500),
        (8192, False, 7000),
        (8192, True, 7500),
        (4096, False, 3500),
        (2048, False, 1750),
        (131072, False, 112000),
    ],
)
def test_the_handbooks_numbers(length: int, burst: bool, limit: int) -> None:
    assert wanted(length, RULE, burst) == limit


@given(st.integers(256, 2_000_000))
def test_what_is_set_lies_in_the_range_and_a_burst_profile_gets_more(length: int) -> None:
    plain, burst = wanted(length, RULE, False), wanted(length, RULE, True)
    assert RULE.low <= plain / length <= RULE.high
    assert RULE.high <= burst / length <= RULE.burst_high
    assert aligned(plain, length, RULE, False) and aligned(burst, length, RULE, True)
    assert plain <= burst


@given(st.integers(1, 255), st.booleans())
def test_a_tiny_context_still_gets_a_limit_below_it(length: int, burst: bool) -> None:
    assert 1 <= wanted(length, RULE, burst) <= length


SHARES = st.floats(0.01, 1)


@given(st.integers(256, 10**6), SHARES, SHARES, SHARES, st.integers(1, 5000))
def test_any_rule_is_kept(length: int, a: float, b: float, share: float, round_to: int) -> None:
    low, high = sorted((a, b))
    rule = TokenLimits(low=low, high=high, share=share, round_to=round_to)
    limit = wanted(length, rule, False)
    assert 1 <= limit <= length * high + 1e-6 or limit == 1
    if (high - low) * length >= 1:
        assert limit >= length * low - 1e-6


LENGTHS = st.dictionaries(st.sampled_from(["a", "b", "a#2", "c-burst"]), st.integers(256, 10**6))
WRITTEN = st.dictionaries(
    st.sampled_from([f"{m}.max_input_tokens" for m in ("a", "b", "a#2", "c-burst", "z")]),
    st.integers(1, 10**6),
)


@given(WRITTEN, LENGTHS)
def test_after_aligning_nothing_is_left_to_align(
    limits: dict[str, int], lengths: dict[str, int]
) -> None:
    found = misalignments(limits, lengths, RULE)
    after = realigned({**limits, "a.tpm": 5}, found)
    assert misalignments(after, lengths, RULE) == []
    assert after["a.tpm"] == 5
    touched = {m.model for m in found}
    for name, value in limits.items():
        assert name.removesuffix(".max_input_tokens") in touched or after[name] == value


def test_misalignments_name_what_is_written_and_wanted() -> None:
    limits = {"a.max_input_tokens": 14000, "b.max_input_tokens": 7000, "b.rpm": 3}
    found = misalignments(limits, {"a": 8192, "b": 8192, "c": 4096}, RULE)
    assert found == [
        Misalignment(model="a", limit=14000, length=8192, wanted=7000),
        Misalignment(model="c", limit=None, length=4096, wanted=3500),
    ]
    assert found[1].summary() == "c: not set of 4096, wanted 3500"


def test_burst_profiles_go_by_their_name() -> None:
    assert is_burst("llama31-8b-wintermute-burst", RULE) and is_burst("x-burst#2", RULE)
    assert not is_burst("bursty", RULE)
    assert not is_burst("x", TokenLimits(burst_suffix=""))
    assert not aligned(15000, 16384, RULE, False)
    assert aligned(15000, 16384, RULE, True)


def judged(
    limits: dict[str, int], lengths: dict[str, int | None], **more: bool
) -> dict[str, Finding]:
    written = {f"{k}.max_input_tokens" if "." not in k else k: v for k, v in limits.items()}
    found = judge_limits("motoko", written, lengths, RULE, **more)
    assert {(f.check, f.subject) for f in found} == {("token limits", "motoko")}
    return {f.value or f.evidence: f for f in found}


def test_a_limit_above_the_context_fails_and_one_outside_the_range_warns() -> None:
    found = judged(
        {"llama31": 14000, "qwen": 8000, "low": 100},
        dict.fromkeys(("llama31", "qwen", "low"), 8192),
    )
    fail = found["llama31: 14000 of 8192"]
    assert (fail.status, fail.threshold) == ("fail", "85-90 %")
    assert fail.suggests == "align-token-limits" and "from 8193 tokens on" in fail.evidence
    assert found["qwen: 8000 of 8192"].status == found["low: 100 of 8192"].status == "warn"


def test_what_is_not_known_is_unknown_and_says_why() -> None:
    found = judged({"far": 7000}, {"far": None, "unset": 8192})
    far, unset = found["far: 7000"], found["unset: not set of 8192"]
    assert far.status == unset.status == "unknown"
    assert "not known" in far.evidence and "routes" in far.advice and not far.suggests
    assert "any length" in unset.evidence and unset.suggests == "align-token-limits"
    (empty,) = judge_limits("motoko", {}, {}, RULE)
    assert empty.status == "unknown" and "no model" in empty.evidence


def test_what_is_aligned_is_one_line() -> None:
    found = judged({"a": 7000, "b": 7000, "c": 1}, dict.fromkeys("abc", 8192))
    assert [f.status for f in found.values()] == ["warn", "ok"]
    assert found["2 models within their range"].status == "ok"
    assert judged({"a": 7000}, {"a": 8192})["a: 7000 of 8192"].status == "ok"


def test_request_and_answer_must_fit_together() -> None:
    limits = {"a": 7000, "a.max_output_tokens": 1500}
    found = judged(limits, {"a": 8192})["a: 7000 of 8192"]
    assert found.status == "warn" and "lower max_output_tokens to 1192" in found.advice
    assert too_long({"a.max_input_tokens": 14000, "a.max_output_tokens": 1024}, {"a": 16384}) == {}


def test_limits_that_litellm_does_not_enforce_are_said() -> None:
    found = judged({"a": 7000}, {"a": 8192}, enforced=False)
    assert found["not enforced"].status == "warn"
    assert "not enforced" not in judged({"a": 7000}, {"a": 8192}, enforced=True)


def service(url: str) -> Service:
    return Service.model_validate({"url": url, "runtime": {"kind": "docker", "container": "c"}})


SERVICES = {
    "wintermute": service("http://wintermute:8000"),
    "armitage": service("http://Armitage.lan"),
    "local": service("http://127.0.0.1:9000"),
    "behind": service("https://gate/molly"),
}


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("http://wintermute:8000/v1", "wintermute"),
        ("http://wintermute:8000", "wintermute"),
        ("http://WINTERMUTE:8000/v1/", "wintermute"),
        ("http://wintermute:8001/v1", None),
        ("http://armitage.lan:80/v1", "armitage"),
        ("http://localhost:9000/v1", "local"),
        ("https://gate/molly/v1", "behind"),
        ("https://gate:443/finn/v1", None),
        ("os.environ/ARMITAGE_URL", None),
        ("http://wintermute:port/v1", None),
        (None, None),
    ],
)
def test_the_service_behind_a_model_goes_by_its_api_base(
    base: str | None, name: str | None
) -> None:
    assert backend_of("m", base, SERVICES, {}) == name


def test_the_inventorys_routes_come_first() -> None:
    base = "http://wintermute:8000/v1"
    assert backend_of("m#2", base, SERVICES, {"m": "armitage"}) == "armitage"
    assert backend_of("m#2", base, SERVICES, {"m": "armitage", "m#2": "local"}) == "local"
    assert backend_of("m", base, SERVICES, {"m": "gone"}) is None
