"""In which order a service that is down is brought back: the handbooks' P0 checklist. Pure.

Source: handbook 001 "P0 - Service Down" (diagnose, fix or roll back, monitor), 002 "Mitigation
Steps" (restart; down and up; roll back the last configuration), 000 "Advanced Troubleshooting".
"""

from typing import Literal

from blocks.models import Frozen
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
)
"""Causes that stand in the configuration: only another one helps, so the last change goes back."""
ELSEWHERE = (
    "model_not_found",
    "model_gated",
    "corrupt_weights",
    "tls_certificate",
    "disk_full",
    "shm_too_small",
    "port_in_use",
    "gpu_memory_held",
    "gpu_arch_unsupported",
    "driver_cuda_mismatch",
    "xid_or_hw_fault",
)
"""Causes outside the service: a restart would take what still runs away and bring nothing."""


class Course(Frozen):
    """What is tried, in this order, and why; empty when only a person can help."""

    measures: tuple[Measure, ...]
    reason: str


def course(
    diagnosis: Diagnosis,
    *,
    crashes: int = 0,
    can_recreate: bool = False,
    can_roll_back: bool = False,
) -> Course:
    """The measures for one outage, mildest first.

    Args:
        diagnosis: of the log of the latest start.
        crashes: automatic restarts and ends seen (count).
        can_recreate: its runtime can make a new container from the old one's configuration.
        can_roll_back: an earlier configuration is on record and differs from the present one.
    """
    label = diagnosis.label
    back: tuple[Measure, ...] = ("rollback",) if can_roll_back else ()
    if label in ELSEWHERE:
        return Course(measures=(), reason=f"{label} lies outside the service")
    if label in CONFIGURED:
        return Course(measures=back, reason=f"{label} stands in its configuration")
    said = diagnosis.evidence[-1].lower() if diagnosis.evidence else ""
    if label == "tokenizer_error" and "initializing tokenizer" not in said:
        return Course(measures=back, reason="the tokenizer does not fit its library")
    unstable = label in UNSTABLE and crashes >= REPEATED
    if unstable or (label in REMEDIES and label not in UNSTABLE):
        return Course(measures=("step-down",), reason=f"{label} is treated by a smaller config")
    again: tuple[Measure, ...] = ("restart", "recreate") if can_recreate else ("restart",)
    return Course(measures=(*again, *back), reason=f"{label}: no cause that a restart cannot mend")
