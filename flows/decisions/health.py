"""Is it decoding? The judgement of one look at a service, and of a series of looks."""

from typing import Literal

from blocks.models import Frozen, ServiceState, Serving

Status = Literal["healthy", "loading", "broken", "unknown"]


class Expectation(Frozen):
    """What must be true of a healthy service. `None` = any."""

    model_id: str | None = None
    max_model_len: int | None = None
    decodes: bool = True
    """False for what is no LLM server: its health path answering 200 is all there is to see."""
    instance: str | None = None
    """Container id or pid that must still be the one on stage."""
    restarts: int | None = None
    """Automatic restarts (count) that must not have grown."""


class Health(Frozen):
    """One judgement, with the reason an operator reads."""

    status: Status
    reason: str


NO_ANSWER = (401, 403, 429)
"""Statuses that measure nothing: no key, or throttled on purpose."""


def judge(state: ServiceState, serving: Serving | None, expected: Expectation) -> Health:
    """Judge one look at a service.

    Healthy needs every part measured and right: running, the same instance with no new
    restart, /health 200, the expected model with the expected length, and one decoded token.
    Nothing that could not be measured is ever healthy (DESIGN: verify). A running server
    that does not answer yet is `loading`: whoever waits decides how long.
    """
    if state.phase == "unknown":
        return Health(status="unknown", reason=state.detail or "its state cannot be read")
    if state.phase in ("exited", "missing"):
        code = "" if state.exit_code is None else f", exit code {state.exit_code}"
        oom = ", killed for memory" if state.oom_killed else ""
        return Health(status="broken", reason=f"{state.phase}{code}{oom}")
    if state.phase == "restarting":
        often = f" ({state.restarts} restarts)" if state.restarts_known else ""
        return Health(status="broken", reason=f"in a restart loop{often}")
    if expected.restarts is not None and state.restarts > expected.restarts:
        times = state.restarts - expected.restarts
        return Health(status="broken", reason=f"restarted by itself {times} time(s)")
    if expected.instance and state.instance != expected.instance:
        return Health(status="broken", reason="replaced by somebody else meanwhile")
    if state.phase == "starting":
        return Health(status="loading", reason=state.detail or "its runtime says that it starts")
    return _judge_serving(serving, expected)


def _judge_serving(serving: Serving | None, expected: Expectation) -> Health:
    if serving is None:
        return Health(status="unknown", reason="its API was not asked")
    if not serving.reachable:
        return Health(status="loading", reason=f"not answering yet: {serving.problem}")
    if serving.health_status is None:
        return Health(status="unknown", reason=serving.problem or "/health was not measured")
    if serving.health_status != 200:
        measured = serving.health_status not in NO_ANSWER
        return Health(
            status="broken" if measured else "unknown",
            reason=serving.problem or f"/health answered {serving.health_status}",
        )
    if not expected.decodes:
        return Health(status="healthy", reason="its health path answers 200")
    if serving.model_id is None:
        return Health(
            status="unknown" if serving.decoded is None else "broken",
            reason=serving.problem or "/v1/models lists no model",
        )
    if expected.model_id and serving.model_id != expected.model_id:
        return Health(
            status="broken",
            reason=f"serves {serving.model_id!r}, expected {expected.model_id!r}",
        )
    if expected.max_model_len is not None and serving.max_model_len != expected.max_model_len:
        return Health(
            status="broken",
            reason=f"serves max_model_len {serving.max_model_len}, "
            f"expected {expected.max_model_len}",
        )
    if serving.decoded is None:
        return Health(status="unknown", reason=serving.problem or "decoding was not measured")
    if not serving.decoded:
        return Health(status="broken", reason=f"up but not decoding: {serving.problem}")
    took = serving.decode_s or 0
    return Health(status="healthy", reason=f"decoding ({took:.2f} s for one token)")


Outcome = Literal["passed", "failed", "inconclusive"]


class Watch(Frozen):
    """The state of a verification between two looks. Times are seconds since the start."""

    start_timeout_s: float
    stabilisation_s: float
    patience: int = 2
    """Consecutive looks that must find it up but not decoding before it counts as frozen."""
    healthy_since_s: float | None = None
    progress_at_s: float = 0.0
    """When the log last moved: a model that loads is not cut off."""
    bad_looks: int = 0
    last: Health | None = None


class Judgement(Frozen):
    """How a verification ended."""

    outcome: Outcome
    reason: str


#: A server that keeps logging gets this many start time-outs before it is given up.
MOST_STARTS = 3


def step(watch: Watch, now_s: float, look: Health, *, progressed: bool) -> Watch | Judgement:
    """Fold one look into a verification; a `Judgement` ends it.

    Invariants: `passed` only after `stabilisation_s` of healthy looks without a gap; a look
    that measured nothing never shortens the way to `passed` and alone never makes `failed`.
    """
    progress = now_s if progressed else watch.progress_at_s
    watch = watch.model_copy(update={"last": look, "progress_at_s": progress})
    if look.status == "healthy":
        since = watch.healthy_since_s if watch.healthy_since_s is not None else now_s
        if now_s - since >= watch.stabilisation_s:
            return Judgement(outcome="passed", reason=look.reason)
        return watch.model_copy(update={"healthy_since_s": since, "bad_looks": 0})
    if look.status == "broken":
        fatal = not look.reason.startswith(("up but not decoding", "/health", "/v1/models"))
        bad = watch.bad_looks + 1
        if fatal or watch.healthy_since_s is not None or bad >= watch.patience:
            return Judgement(outcome="failed", reason=look.reason)
        return watch.model_copy(update={"bad_looks": bad})
    if look.status == "loading" and watch.healthy_since_s is not None:
        return Judgement(outcome="failed", reason=f"was healthy, then {look.reason}")
    # unknown, or still loading: the window of health starts anew
    watch = watch.model_copy(update={"healthy_since_s": None})
    if now_s >= watch.start_timeout_s:
        moving = now_s - watch.progress_at_s < watch.start_timeout_s / 2
        if look.status == "loading" and moving and now_s < MOST_STARTS * watch.start_timeout_s:
            return watch
        if look.status == "unknown":
            return Judgement(outcome="inconclusive", reason=look.reason)
        return Judgement(outcome="failed", reason=f"not up after {now_s:.0f} s: {look.reason}")
    return watch
