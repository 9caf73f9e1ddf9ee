"""What a server that keeps crashing is treated with: handbook 004, "Random Crashes". Pure."""

from collections.abc import Sequence
from itertools import chain

from blocks.ladder import Ladder
from blocks.models import ServingConfig
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.remedies import DEFAULT_UTILIZATION, Attempt, Step, fewer, growth, wider_kv
from flows.decisions.step_down import Exhausted, NoStep, next_step

UNSTABLE = ("cuda_illegal_access", "engine_dead")
"""Crashes that a smaller configuration may end although none of its numbers is the cause."""
REPEATED = 2
"""Crashes (count) from which instability is taken to be more than one bad request."""


def crash_step(
    config: ServingConfig,
    diagnosis: Diagnosis,
    ladder: Ladder,
    *,
    crashes: int,
    tried: Sequence[ServingConfig] = (),
) -> Step | NoStep | Exhausted:
    """fp8 KV cache -> auto with the context cut to what then fits, then fewer sequences.

    Args:
        config: what is written down.
        diagnosis: of the log of the crashed start.
        ladder: what the service may be stepped down to.
        crashes: how often it crashed (count); once is no reason to change anything.
        tried: configurations that did not help.

    A crash with a cause of its own (out of memory) is left to that cause's step.
    """
    if diagnosis.label not in UNSTABLE:
        return next_step(config, diagnosis, ladder, tried=tried)
    if crashes < REPEATED:
        return NoStep(
            reason="It crashed once, which is no reason to change its configuration",
            advice=f"Restart it (remediate-outage does). {diagnosis.advice}",
        )
    attempt = Attempt(
        label=diagnosis.label,
        config=config,
        facts=dict(diagnosis.facts),
        ladder=ladder,
        default_utilization=DEFAULT_UTILIZATION,
    )
    eight_bit = growth(config.kv_cache_dtype) > 1
    for step in chain(wider_kv(attempt) if eight_bit else (), fewer(attempt)):
        if step.after != config and step.after not in tried:
            return step
    return Exhausted(
        reason=f"{diagnosis.label}: the KV cache is 16 bits wide and "
        f"max_num_seqs {attempt.sequences} has no lower rung",
        advice="Check the driver against the CUDA build, capture the trace "
        "(CUDA_LAUNCH_BLOCKING=1), and look for Xid errors in the kernel's log.",
    )
