"""Which smaller serving configuration a diagnosed failure calls for, and the way back. Pure.

Invariant: `next_step` never raises the demand (see `remedies`), so repeated steps terminate.
Source: DESIGN, "Diagnosis and the step-down"; diagnoses.md; handbook 004, "OOM at Startup".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from blocks.ladder import Ladder
from blocks.models import Frozen, ServingConfig
from flows.decisions.remedies import (
    DEFAULT_NUM_SEQS,
    DEFAULT_UTILIZATION,
    REMEDIES,
    Attempt,
    Step,
    growth,
)

__all__ = [
    "Exhausted",
    "Finding",
    "NoStep",
    "Step",
    "is_degraded",
    "next_step",
    "step_back",
]


class Finding(Protocol):
    """What is needed of a diagnosis: its label and the numbers parsed from the log."""

    @property
    def label(self) -> str:
        """One of the labels of diagnoses.md."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Parsed numbers, with units in their names."""


class Exhausted(Frozen):
    """A step-down would be right, but nothing is left to lower."""

    reason: str
    advice: str


class NoStep(Frozen):
    """No step-down is right for this cause; `advice` says what a person must do."""

    reason: str
    advice: str


def next_step(
    config: ServingConfig,
    diagnosis: Finding,
    ladder: Ladder,
    *,
    tried: Sequence[ServingConfig] = (),
    default_utilization: float = DEFAULT_UTILIZATION,
) -> Step | NoStep | Exhausted:
    """The mildest smaller configuration that treats the cause, or why there is none.

    Never equal to `config` or to one of `tried`; never a longer context.
    """
    attempt = Attempt(
        label=diagnosis.label,
        config=config,
        facts=dict(diagnosis.facts),
        ladder=ladder,
        default_utilization=default_utilization,
    )
    refusal = _no_step(attempt, str(getattr(diagnosis, "advice", "")))
    if refusal is not None:
        return refusal
    for remedy in REMEDIES[diagnosis.label]:
        for step in remedy(attempt):
            if step.after != config and step.after not in tried:
                return step
    return _exhausted(attempt)


def _no_step(a: Attempt, advice: str) -> NoStep | None:
    fp8 = growth(a.config.kv_cache_dtype) > 1
    if a.facts.get("weak_evidence") and a.label in REMEDIES:
        return NoStep(
            reason=f"The log only hints at {a.label}; a guess is no reason to change a server",
            advice=advice or "Read the evidence, and run apply-serving if you agree with it.",
        )
    if a.label == "gpu_memory_held":
        pids = str(a.facts.get("holder_pids", "")).strip("[]() ")
        return NoStep(
            reason="Another process holds the GPU's memory: "
            + (f"pid {pids}" if pids else "the log does not name it")
            + a.free(),
            advice=f"Stop {f'pid {pids}' if pids else 'the holder (nvidia-smi names it)'} first; "
            "a smaller configuration would only make room for somebody else's leak.",
        )
    if a.label == "cuda_illegal_access" and not (fp8 and (a.number("repeats") or 0) >= 2):
        return NoStep(
            reason="One illegal memory access is no reason to change the configuration"
            if fp8
            else "The KV cache is not fp8, so its dtype is not the cause",
            advice=advice or "Restart; if it repeats, capture the trace (CUDA_LAUNCH_BLOCKING=1).",
        )
    if a.label == "fp8_kv_unsupported" and (a.config.kv_cache_dtype or "auto") == "auto":
        return NoStep(
            reason="kv_cache_dtype is not set, so the checkpoint itself asks for the fp8 KV cache",
            advice="Serve a checkpoint without a KV-cache scheme, or one this GPU supports.",
        )
    if a.label not in REMEDIES:
        return NoStep(
            reason=f"No smaller configuration remedies {a.label}",
            advice=advice or "Leave the configuration as it is, read the evidence and escalate.",
        )
    requested, limit = a.tokens("requested_max_model_len"), a.limit()[0]
    mine = a.config.max_model_len
    if a.label == "oom_kv_cache" and mine and requested and limit and mine <= limit < requested:
        return NoStep(
            reason=f"The log is of a start with {requested} tokens; the configuration already "
            f"asks for {mine}, which is within the {limit} that fit",
            advice="Restart the service with the configuration it has.",
        )
    return None


def _exhausted(a: Attempt) -> Exhausted:
    limit, words = a.limit()
    rungs = ", ".join(map(str, a.ladder.max_model_len)) or "none"
    if a.label == "oom_kv_cache" and limit and all(r > limit for r in a.ladder.max_model_len):
        return Exhausted(
            reason=f"{words}, which is below every rung of the ladder ({rungs})",
            advice=(
                "Set `fit: exact` on the ladder or add a lower rung; "
                if a.ladder.fit == "rung"
                else f"The shortest exact length allowed is {a.ladder.min_max_model_len}; "
            )
            + "or raise gpu_memory_utilization where memory is free, quantise, or use more GPUs.",
        )
    return Exhausted(
        reason=f"{a.label}: every lower value the ladder allows is in use, was tried or cannot "
        f"fit (context {a.context or 'unknown'}, rungs {rungs})",
        advice="Add lower rungs (or `fit: exact`), or serve a smaller or quantised model, "
        "or use a bigger GPU.",
    )


STEPPED = (
    "max_model_len",
    "gpu_memory_utilization",
    "max_num_seqs",
    "enforce_eager",
    "kv_cache_dtype",
)
"""The fields a step-down lowers."""
IDENTITY = ("model", "quantization", "dtype", "tensor_parallel_size")
"""Where one of these differs, the original configuration is another deployment's."""


def is_degraded(current: ServingConfig, original: ServingConfig) -> bool:
    """True when `current` is the same deployment as `original` with less of something."""
    return _same_deployment(current, original) and any(
        _size(current, name) < _size(original, name) for name in STEPPED
    )


def step_back(
    current: ServingConfig,
    original: ServingConfig,
    ladder: Ladder,
    *,
    mode: Literal["one-rung", "all"] = "all",
) -> Step | None:
    """The way back up towards `original`, never above it; None when nothing can be given back.

    `one-rung` raises one setting by one rung, the context first; `all` raises every one. An
    8-bit KV cache that was dropped stays dropped, and the context below what it paid for: the
    cause was the GPU, the backend or repeated crashes, which a verified start cannot disprove.
    Turning it on again is a person's decision (apply_serving).
    """
    if not _same_deployment(current, original):
        return None
    shrink = growth(original.kv_cache_dtype) / growth(current.kv_cache_dtype)
    values: dict[str, Any] = {}
    for name in STEPPED[:-1]:
        if _size(current, name) >= _size(original, name):
            continue
        rungs = _ways_up(current, original, ladder, name, shrink)
        if rungs:
            values[name] = rungs[-1 if mode == "all" else 0]
            if mode == "one-rung":
                break
    if not values:
        return None
    after = current.changed(**values)
    words = ", ".join(f"{k} {old} -> {new}" for k, (old, new) in current.diff(after).items())
    return Step(
        before=current,
        after=after,
        reason=f"The service runs degraded; {words} is {'all' if mode == 'all' else 'one rung'} "
        "of the way back to its original configuration.",
        expected="What the step-down took away is available again.",
        costs="One restart, and another back down when it does not fit.",
    )


def _ways_up(
    current: ServingConfig, original: ServingConfig, ladder: Ladder, name: str, shrink: float
) -> list[Any]:
    """Values of `name` above the current one up to the original, lowest first."""
    goal, low, top = getattr(original, name), _size(current, name), _size(original, name)
    if name == "enforce_eager":
        return [goal]
    if name == "max_model_len" and shrink > 1:
        if goal is None:
            return []
        top = goal / shrink
        goal = None
    rungs: list[Any] = sorted(r for r in getattr(ladder, name) if low < r <= top)
    if name == "max_num_seqs" and not rungs:
        rungs = [value for value in (int(low) * 2,) if value < top]
    if name == "max_model_len" and shrink > 1:
        exact = int(top) // ladder.granularity * ladder.granularity
        return sorted({*rungs, exact}) if ladder.fit == "exact" and exact > low else rungs
    return [*(rung for rung in rungs if rung < top), goal]


def _same_deployment(current: ServingConfig, original: ServingConfig) -> bool:
    return all(getattr(current, name) == getattr(original, name) for name in IDENTITY)


def _size(config: ServingConfig, name: str) -> float:
    """How much a setting asks for; what is not set asks for vLLM's default."""
    if name == "enforce_eager":
        return 0.0 if config.enforce_eager else 1.0
    if name == "kv_cache_dtype":
        return growth(config.kv_cache_dtype)
    value = getattr(config, name)
    if value is not None:
        return float(value)
    return {"gpu_memory_utilization": DEFAULT_UTILIZATION, "max_num_seqs": DEFAULT_NUM_SEQS}.get(
        name, float("inf")
    )
