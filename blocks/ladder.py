"""The step-down ladder of a service: which smaller values an operator allows. No I/O here."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from blocks.models import Frozen

EXAMPLES: dict[str, str] = {
    "max_model_len": "16384, 12288, 8192",
    "gpu_memory_utilization": "0.92, 0.85, 0.80",
    "max_num_seqs": "8, 4, 2, 1",
}


class Ladder(Frozen):
    """The rungs a service may be stepped down to, each list from the highest to the lowest.

    Source: handbook 004, "OOM at Startup" (16384 -> 12288 -> 8192; 0.92 -> 0.85 -> 0.80).
    An empty list means that procedures leave that setting alone, except `max_num_seqs`,
    which is then halved down to 1.
    """

    max_model_len: tuple[int, ...] = Field(default=(), description="Context lengths, tokens")
    gpu_memory_utilization: tuple[float, ...] = Field(
        default=(0.92, 0.85, 0.80), description="Shares of the device's memory, 0..1"
    )
    max_num_seqs: tuple[int, ...] = Field(default=(), description="Concurrent sequences, count")
    fit: Literal["rung", "exact"] = Field(
        default="rung",
        description="`rung`: only lengths of the ladder; `exact`: also the estimate vLLM prints",
    )
    granularity: int = Field(
        default=256, ge=1, description="An exact length is rounded down to this, tokens"
    )
    min_max_model_len: int = Field(
        default=2048, ge=1, description="An exact length is never below this, tokens"
    )

    @field_validator("max_model_len", "gpu_memory_utilization", "max_num_seqs")
    @classmethod
    def _goes_down(cls, rungs: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        name = info.field_name or ""
        given = ", ".join(f"{rung:g}" if rung < 1 else str(rung) for rung in rungs)
        remedy = f"a ladder goes down: {EXAMPLES.get(name, '')}"
        # `not >` also refuses NaN.
        if any(not rung > 0 for rung in rungs):
            raise ValueError(f"{name} [{given}]: every rung is above 0; {remedy}")
        if name == "gpu_memory_utilization" and any(rung > 1 for rung in rungs):
            raise ValueError(f"{name} [{given}]: a share of the memory is at most 1; {remedy}")
        if any(not low < high for high, low in pairwise(rungs)):
            raise ValueError(f"{name} [{given}] does not go down at every rung; {remedy}")
        return rungs
