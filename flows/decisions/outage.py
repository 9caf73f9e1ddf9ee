"""In which order a service that is down is brought back: the handbooks' P0 checklist. Pure.

Source: handbook 001 "P0 - Service Down" (diagnose, fix or roll back, monitor), 002 "Mitigation
Steps" (restart; down and up; roll back the last configuration), 000 "Advanced Troubleshooting".
"""

from typing import Literal

from blocks.models import Frozen
from blocks.service import Engine
from flows.decisions.crash import REPEATED, UNSTABLE
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.remedies import REMEDIES

Measure = Literal["step-down", "restart", "recreate", "rollback"]

CONFIGURED = (
    "bad_cli_argument",
    "max_len_exceeds_model",
    "quantization_mismatch",
    "dtype_unsupported",
    "oom_startup_weights",
    "tokenizer_error",
)
"""Causes of a failed start that stand in the configuration: only another one helps, so the last
change goes back."""
OUTSIDE = (
    "model_not_found",
    "model_gated",
    "corrupt_weights",
    "tls_certificate",
    "shm_too_small",
    "port_in_use",
    "gpu_memory_held",
    "gpu_arch_unsupported",
    "driver_cuda_mismatch",
)
"""Causes of a failed start that lie outside the service: the next start fails as well. In the log
of one that had come up, such a line is a client's request or a download, and no cause."""
PHYSICAL = ("xid_or_hw_fault", "disk_full")
"""Causes that a restart never mends: it would only take away what still runs."""


class Course(Frozen):
    """What is tried, in this order, and why; empty when only a person can help."""

    measures: tuple[Measure, ...]
    reason: str


def course(
    diagnosis: Diagnosis,
    *,
    engine: Engine = "vllm",
    crashes: int = 0,
    edited: bool = False,
    can_recreate: bool = False,
    can_roll_back: bool = False,
) -> Course:
    """The measures for one outage, mildest first.

    Args:
        diagnosis: of the log of the latest start.
        engine: what serves; the labels are those of vLLM.
        crashes: automatic restarts and ends seen (count).
        edited: its numbers were changed since that start.
        can_recreate: its runtime can make a new container from the old one's configuration.
        can_roll_back: a configuration that is known to have worked is on record.
    """
    label = diagnosis.label
    back: tuple[Measure, ...] = ("rollback",) if can_roll_back else ()
    again: tuple[Measure, ...] = ("restart", "recreate") if can_recreate else ("restart",)
    anew = Course(measures=(*again, *back), reason=f"{label}: no cause that a restart cannot mend")
    if engine != "vllm" or diagnosis.facts.get("weak_evidence"):
        return anew
    if label in PHYSICAL:
        return Course(measures=(), reason=f"{label} lies outside the service")
    if not diagnosis.ready:
        if label in OUTSIDE:
            return Course(measures=(), reason=f"{label} lies outside the service")
        if label in CONFIGURED and not _stalled(diagnosis):
            return Course(measures=back, reason=f"{label} stands in its configuration")
    unstable = label in UNSTABLE and crashes >= REPEATED
    if unstable or (label in REMEDIES and label not in UNSTABLE):
        # It ran with these numbers before: where no step is left, a restart still may help.
        more = again if diagnosis.ready or edited else ()
        words = f"{label} is treated by a smaller config"
        return Course(measures=("step-down", *more), reason=words)
    return anew


def _stalled(diagnosis: Diagnosis) -> bool:
    """A tokenizer that hangs (handbook 000) may be mended by a restart; a wrong one is not."""
    said = diagnosis.evidence[-1].lower() if diagnosis.evidence else ""
    return diagnosis.label == "tokenizer_error" and "initializing tokenizer" in said
