"""What the readings of a service mean; nothing that was not measured is ever ok."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.check_memory import CheckMemory, Remembered
from blocks.check_policy import CheckPolicy
from blocks.models import ServiceState, Serving, ServingConfig
from blocks.service import Service
from flows.decisions import check_services as c
from flows.decisions.check_memory import remember
from flows.decisions.check_services import ServiceReading
from flows.decisions.diagnosis import diagnose
from flows.decisions.finding import Finding
from flows.decisions.health import Expectation
from flows.decisions.log_errors import ErrorGroup, LogErrors
from flows.platform_page import page, slack_message, whole
from flows.platform_report import (
    PlatformReport,
    command,
    folded,
    ordered,
    summary,
    together,
    verdict_of,
)

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
POLICY = CheckPolicy()
SERVICE = Service.model_validate(
    {"url": "http://w:8000", "runtime": {"kind": "docker", "container": "w"}}
)
HEALTHY = Serving(
    reachable=True, health_status=200, model_id="m", max_model_len=8192, decoded=True, decode_s=0.1
)
UP = ServiceState(phase="running", instance="a", started_at=NOW - timedelta(days=3))
READ = ServiceReading(
    name="w",
    state=UP,
    serving=HEALTHY,
    config=ServingConfig(max_model_len=8192),
    errors=LogErrors(count=0),
    image="vllm/vllm-openai:v0.9.2",
)
SEEN = Remembered(at=NOW - timedelta(days=1), instance="a", started_at=UP.started_at)
NO_OPINION = Expectation()
DAY = timedelta(days=1)


def decoding(reading: ServiceReading, expected: Expectation = NO_OPINION) -> Finding:
    return c.decoding(SERVICE, reading, expected, NOW)


def changed(**values: object) -> ServiceReading:
    return READ.model_copy(update=values)


def all_of(reading: ServiceReading, before: Remembered | None = SEEN) -> dict[str, Finding]:
    image = c.image(reading)
    return {
        "decoding": decoding(reading),
        "restarts": c.restarts(reading, before, NOW, POLICY),
        "errors": c.error_lines(reading, NOW - timedelta(days=1), POLICY),
        "drift": c.drift(reading, READ.config, None),
        **({"image": image} if image else {}),
    }


def test_a_service_that_is_well_is_ok_in_everything() -> None:
    assert {f.status for f in all_of(READ).values()} == {"ok"}


# ---- nothing unknown is ok ----------------------------------------------------------------------

maybe = st.none()
states = st.builds(
    ServiceState,
    phase=st.sampled_from(["running", "restarting", "starting", "exited", "missing", "unknown"]),
    exit_code=st.none() | st.integers(0, 255),
    restarts=st.integers(0, 9),
    restarts_known=st.booleans(),
    started_at=maybe
    | st.datetimes(datetime(2026, 11, 1), datetime(2026, 11, 21)).map(
        lambda at: at.replace(tzinfo=UTC)
    ),
    instance=st.sampled_from(["", "a", "b", "7"]),
)
servings = st.builds(
    Serving,
    reachable=st.booleans(),
    health_status=st.sampled_from([None, 200, 401, 500]),
    model_id=st.sampled_from([None, "m"]),
    max_model_len=st.sampled_from([None, 8192]),
    decoded=st.sampled_from([None, True, False]),
)
configs = st.builds(ServingConfig, max_model_len=st.sampled_from([None, 4096, 8192]))
readings = st.builds(
    ServiceReading,
    name=st.just("w"),
    state=maybe | states,
    serving=maybe | servings,
    config=maybe | configs,
    errors=maybe
    | st.builds(
        LogErrors,
        count=st.integers(0, 3),
        reaches=maybe | st.sampled_from([NOW - timedelta(hours=h) for h in (1, 24, 25)]),
    ),
    log_cut=st.sampled_from(["", "its last 4 MiB"]),
    image=maybe | st.sampled_from(["", "a:latest", "a:1", "a@sha256:00", "a", "r:5000/a"]),
)
remembered = st.none() | st.builds(
    Remembered,
    at=st.just(NOW - timedelta(days=1)),
    instance=st.sampled_from(["", "a"]),
    restarts=st.integers(0, 9),
    started_at=st.none() | st.just(NOW - timedelta(days=2)),
)


@given(readings, remembered)
def test_a_reading_with_a_hole_is_never_ok_for_that_check(
    reading: ServiceReading, before: Remembered | None
) -> None:
    found = all_of(reading, before)
    state, serving = reading.state, reading.serving
    parts = (
        serving and serving.health_status,
        serving and serving.model_id,
        serving and serving.decoded,
    )
    if state is None or state.phase == "unknown" or any(part is None for part in parts):
        assert found["decoding"].status != "ok"
    if state is None or state.phase == "unknown" or state.started_at is None:
        assert found["restarts"].status == "unknown"
    elif before is None or before.started_at is None:
        recent = state.started_at >= NOW - timedelta(hours=24)
        assert (found["restarts"].status == "unknown") == (recent and not state.restarts_known)
    else:
        assert (found["restarts"].status == "ok") == (state.started_at == before.started_at)
    assert (found["drift"].status == "unknown") == (reading.config is None)
    errors = reading.errors
    part = reading.log_cut and errors and (errors.reaches is None or errors.reaches > NOW - DAY)
    if errors is None or (part and errors.count == 0):
        assert found["errors"].status == "unknown"
    else:
        assert found["errors"].status == ("warn" if errors.count else "ok")
    if reading.image is None:
        assert found["image"].status == "unknown"
    for finding in found.values():
        assert finding.status != "unknown" or finding.evidence, "unknown says why"
        assert "\n" not in finding.evidence


# ---- decoding -----------------------------------------------------------------------------------


def test_a_frozen_engine_fails_and_calls_for_the_checklist() -> None:
    serving = HEALTHY.model_copy(update={"decoded": False, "problem": "no token within 24 s"})
    found = decoding(changed(serving=serving))
    assert (found.status, found.suggests) == ("fail", "remediate-outage")
    assert "no token within 24 s" in found.evidence


@pytest.mark.parametrize(
    ("age_s", "status"), [(10, "warn"), (600, "warn"), (601, "fail"), (None, "unknown")]
)
def test_loading_warns_until_the_start_timeout(age_s: float | None, status: str) -> None:
    began = None if age_s is None else NOW - timedelta(seconds=age_s)
    state = UP.model_copy(update={"started_at": began})
    found = decoding(changed(state=state, serving=Serving(reachable=False, problem="refused")))
    assert found.status == status and "refused" in found.evidence


CASES = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": "remediate-oom",
    "OSError: [Errno 98] Address already in use": "",
    "INFO fine": "remediate-outage",
}


@pytest.mark.parametrize("line", CASES)
def test_the_log_of_a_dead_service_names_the_procedure(line: str) -> None:
    dead = ServiceState(phase="exited", exit_code=1, started_at=NOW)
    cause = diagnose(f"ERROR 11-21 01:00:00 [core.py:1] {line}\n")
    found = decoding(changed(state=dead, serving=None, diagnosis=cause))
    assert (found.status, found.suggests) == ("fail", CASES[line])
    if cause.label != "healthy_noise":
        assert cause.label in found.evidence and (found.suggests or found.advice)


def test_what_is_no_llm_server_answers_and_does_not_decode() -> None:
    serving = Serving(reachable=True, health_status=200)
    found = decoding(changed(serving=serving), Expectation(decodes=False))
    assert (found.check, found.status) == ("answering", "ok")


# ---- restarts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "value", "status"),
    [
        ({}, "0", "ok"),
        ({"restarts": 1, "started_at": NOW}, "1", "warn"),
        ({"restarts": 3, "started_at": NOW}, "3", "fail"),
        ({"started_at": NOW}, "1", "warn"),
        ({"instance": "b", "started_at": NOW}, "1", "warn"),
        ({"instance": "b", "restarts": 2, "started_at": NOW}, "3", "fail"),
    ],
)
def test_restarts_since_the_last_check(state: dict, value: str, status: str) -> None:
    found = c.restarts(changed(state=UP.model_copy(update=state)), SEEN, NOW, POLICY)
    assert (found.value, found.status) == (value, status)
    assert found.suggests == ("remediate-crash" if status == "fail" else "")


@pytest.mark.parametrize(
    ("state", "value"),
    [
        ({"restarts": 20, "started_at": NOW}, "15"),
        ({"instance": "8", "restarts": 7, "started_at": NOW}, "2"),
        ({"instance": "8", "restarts": 5, "started_at": NOW}, "1"),
        ({"instance": "8", "restarts": 0, "started_at": NOW}, "1"),
        ({"instance": "8", "restarts": 2, "started_at": NOW}, "3"),
        ({"instance": "c0", "restarts": 20, "started_at": NOW}, "21"),
        # The status command was changed: what runs is the same.
        ({"instance": "c0", "restarts": 20}, "0"),
    ],
)
def test_the_runtimes_own_count_is_taken_where_it_goes_on(state: dict, value: str) -> None:
    before = SEEN.model_copy(update={"instance": "7", "restarts": 5})
    if "instance" not in state:
        state = {"instance": "7"} | state
    found = c.restarts(changed(state=UP.model_copy(update=state)), before, NOW, POLICY)
    assert found.value == value


def test_twenty_crashes_that_nobody_counted_are_not_one() -> None:
    gone = UP.model_copy(
        update={"instance": "b", "started_at": NOW - timedelta(hours=1), "restarts_known": False}
    )
    found = c.restarts(changed(state=gone), SEEN, NOW, POLICY)
    assert (found.status, found.value) == ("warn", "≥ 1") and c.UNCOUNTED in found.evidence
    first = c.restarts(changed(state=gone), None, NOW, POLICY)
    assert (first.status, first.value, first.advice) == ("unknown", "", c.COUNT)
    assert (
        gone.started_at
        and first.evidence == f"started {c.ago(gone.started_at, NOW)}; {c.UNCOUNTED}"
    )
    same = UP.model_copy(update={"restarts_known": False})
    assert c.restarts(changed(state=same), SEEN, NOW, POLICY).status == "ok"
    assert c.restarts(changed(state=same), None, NOW, POLICY).status == "ok", "3 days up"


@pytest.mark.parametrize(
    ("days", "count", "value"), [(3, 5, "0"), (0.5, 5, "5"), (0.5, 0, "0"), (0.5, 1, "1")]
)
def test_without_a_last_check_the_window_counts(days: float, count: int, value: str) -> None:
    state = UP.model_copy(update={"restarts": count, "started_at": NOW - timedelta(days=days)})
    for before in (None, Remembered(at=NOW)):
        assert c.restarts(changed(state=state), before, NOW, POLICY).value == value


# ---- error lines, image, drift ------------------------------------------------------------------


def test_error_lines_name_the_top_three() -> None:
    groups = tuple(ErrorGroup(count=9 - n, sample=f"message {n}") for n in range(5))
    found = c.error_lines(
        changed(errors=LogErrors(count=35, groups=groups)), NOW - timedelta(days=1), POLICY
    )
    assert (found.status, found.value, found.threshold) == ("warn", "35", "< 1 in 24 h")
    assert found.evidence == "9× message 0; 8× message 1; 7× message 2; and 2 more"


@pytest.mark.parametrize(
    ("hours", "count", "status", "value"),
    [
        (2, 0, "unknown", "0 since 07:00"),
        (2, 3, "warn", "3 since 07:00"),
        (None, 0, "unknown", "0 in what was read"),
        (None, 3, "warn", "3 in what was read"),
        (24, 0, "ok", "0"),
        (30, 3, "warn", "3"),
    ],
)
def test_none_in_a_part_of_the_log_is_no_proof_of_none(
    hours: int | None, count: int, status: str, value: str
) -> None:
    reaches = None if hours is None else NOW - timedelta(hours=hours)
    reading = changed(errors=LogErrors(count=count, reaches=reaches), log_cut="its last 4 MiB")
    found = c.error_lines(reading, NOW - DAY, POLICY)
    assert (found.status, found.value) == (status, value)
    assert ("only a part was read: its last 4 MiB" in found.evidence) == (value != str(count))
    whole = c.error_lines(reading.model_copy(update={"log_cut": ""}), NOW - DAY, POLICY)
    assert whole.value == str(count)


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ("vllm/vllm-openai:v0.9.2", "ok"),
        ("vllm/vllm-openai:latest", "warn"),
        ("vllm/vllm-openai", "warn"),
        ("ghcr.io/berriai/litellm:main-latest", "warn"),
        ("ghcr.io/berriai/litellm:main", "warn"),
        ("vllm/vllm-openai:nightly", "warn"),
        ("grafana/loki:stable", "warn"),
        ("vllm/vllm-openai:latest-cu128", "warn"),
        ("ghcr.io/berriai/litellm:main-v1.50.0-stable", "ok"),
        ("registry:5000/a/b", "warn"),
        ("registry:5000/a/b:1", "ok"),
        ("a:latest@sha256:" + "0" * 64, "ok"),
        ("sha256:" + "0" * 64, "ok"),
    ],
)
def test_an_image_is_pinned_by_a_version_or_a_digest(image: str, status: str) -> None:
    found = c.image(changed(image=image))
    assert found and found.status == status


def test_what_is_no_container_has_no_image_to_pin() -> None:
    assert c.image(changed(image="")) is None


def test_drift_is_held_against_what_was_applied_then_against_the_last_check() -> None:
    old, new = ServingConfig(max_model_len=4096), ServingConfig(max_model_len=8192)
    assert c.drift(READ, new, old).status == "ok"
    found = c.drift(READ, None, old)
    assert (found.status, found.value, found.threshold) == (
        "warn",
        "max_model_len 8192",
        "max_model_len 4096",
    )
    assert (found.suggests, found.advice) == ("apply-serving", "-p max_model_len=4096")
    first = c.drift(READ, None, None)
    assert (first.status, first.evidence) == ("unknown", c.FIRST)


def test_drift_that_no_procedure_takes_back_is_for_a_person() -> None:
    found = c.drift(READ, ServingConfig(), None)
    assert (found.status, found.suggests) == ("warn", "") and found.advice


# ---- memory -------------------------------------------------------------------------------------


@given(st.none() | st.builds(CheckMemory, at=st.just(NOW)), st.lists(readings, max_size=1))
def test_memory_never_forgets_for_a_reading_that_failed(
    before: CheckMemory | None, seen: list[ServiceReading]
) -> None:
    known = CheckMemory(at=NOW, services={"w": SEEN.model_copy(update={"config": READ.config})})
    after = remember(known, seen, NOW)
    if seen and (seen[0].state is None or seen[0].state.started_at is None):
        assert after.services["w"].instance == "a"
    if seen and seen[0].config is None:
        assert after.services["w"].config == READ.config
    assert set(after.services) == {r.name for r in seen}
    assert set(remember(before, seen, NOW).services) <= {r.name for r in seen}


# ---- the report ---------------------------------------------------------------------------------

findings = st.lists(
    st.builds(
        Finding,
        check=st.sampled_from(["decoding", "drift", "error|lines"]),
        subject=st.sampled_from([f"s{n}" for n in range(40)]),
        status=st.sampled_from(["ok", "warn", "fail", "unknown"]),
        value=st.text(max_size=20),
        evidence=st.text(max_size=400) | st.just("| x <script>\n![a](http://b)"),
        suggests=st.sampled_from(["", "remediate-outage"]),
    ),
    max_size=60,
)


def report(found: list[Finding], **more: object) -> PlatformReport:
    values: dict[str, object] = {
        "procedure": "check-platform",
        "stack": "lab",
        "run_id": "1b9d6bcd",
        "actor": "ada",
        "source": "cli",
        "started_at": NOW,
        "duration_s": 1.0,
        "verdict": verdict_of(found),
        "message": summary(found, 40),
        "findings": ordered(found),
        "services": tuple(f"s{n}" for n in range(40)),
    }
    return PlatformReport.model_validate({**values, **more})


@given(findings)
def test_the_page_fits_one_screen_and_breaks_no_table(found: list[Finding]) -> None:
    text = page(report(found))
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len(rows) <= 2 + 15
    wrong = len(folded(f for f in found if f.status != "ok"))
    assert ("more:" in text) == (wrong > 15)
    for line in rows:
        assert line.replace("\\|", "").count("|") == 6, line
    assert "<script" not in text and not any("![a](" in r.replace("!\\[", "") for r in rows)
    assert sum(line.startswith("| ") for line in whole(report(found)).split("\n")) == (
        1 + len(folded(found)) if found else 0
    )


@given(findings)
def test_the_slack_message_stays_within_the_limits(found: list[Finding]) -> None:
    title, body = slack_message(report(found))
    sections = body.split("\n\n")
    assert len(title) <= 150 and len(sections) <= 49
    assert all(len(section) <= 3000 for section in sections)
    wrong = folded(f for f in found if f.status != "ok")
    if not wrong:
        assert "\n" not in body
    if len(wrong) > 12:
        assert f"and {len(wrong) - 12} more" in body


@given(findings)
def test_worst_first_and_the_worst_decides(found: list[Finding]) -> None:
    order = [f.status for f in report(found).findings]
    assert order == sorted(order, key=["fail", "unknown", "warn", "ok"].index)
    kinds = set(order)
    wanted = "failed" if "fail" in kinds else "inconclusive" if "unknown" in kinds else "passed"
    assert verdict_of(found) == (wanted if found else "inconclusive")


def test_equal_findings_are_one_row() -> None:
    many = [
        Finding(check="drift", subject=f"s{n}", status="unknown", evidence=c.FIRST)
        for n in range(5)
    ]
    (row,) = folded(many)
    assert row.what == "drift · 5 of them: s0, s1, ..."
    assert "first check" in page(report(many)) and page(report(many)).count("first check") == 1


def test_a_dead_thing_is_one_row_for_all_its_checks() -> None:
    late = "not read within 30 s"
    gone = [
        Finding(check=check, subject=name, status="unknown", evidence=late, threshold=check)
        for check in ("decoding", "restarts")
        for name in ("a", "b")
    ]
    other = Finding(check="drift", subject="a", status="unknown", evidence=c.FIRST)
    assert [row.what for row in folded([*gone, other])] == [
        "decoding, restarts · a, b",
        "drift · a",
    ]


def test_the_procedure_is_a_command_that_can_be_copied() -> None:
    one = Finding(check="decoding", subject="s1", status="fail", suggests="remediate-outage")
    host = one.model_copy(update={"subject": "host motoko"})
    drifted = one.model_copy(update={"suggests": "apply-serving", "advice": "-p max_model_len=4"})
    lab = report([one, host])
    assert command(lab, one) == "runbooks run remediate-outage --stack lab --service s1"
    assert command(lab, host) == "runbooks run remediate-outage --stack lab"
    assert command(lab, drifted).endswith("--service s1 -p max_model_len=4")
    proxy = one.model_copy(update={"suggests": "align-token-limits"})
    assert command(lab, proxy) == "runbooks run align-token-limits --stack lab -p proxy=s1"
    both = together([lab, report([one], stack="other")])
    assert both.stack == "*" and both.verdict == "failed"
    assert [command(both, f) for f in both.findings][2] == (
        "runbooks run remediate-outage --stack other --service s1"
    )
