"""The thresholds of the daily check, with the handbooks' numbers as defaults. No I/O here."""

from pydantic import Field

from blocks.models import Frozen


class CheckPolicy(Frozen):
    """When a reading is worth a person's attention. Shares are 0..1.

    Source: handbook 003 "System Metrics" (CPU, memory 90 %, disk 85 %, GPU memory 95 %, queue
    50), 002 "Alert Rules", 001 "Success Criteria" (error rate 1 %), 004 (85-90 % of the context).
    What no handbook says is ours: temperatures, certificates, restarts, log lines.
    """

    window_h: float = Field(default=24, gt=0, le=168, description="how far back logs are read, h")
    deadline_s: float = Field(
        default=40, gt=0, le=300, description="of one check of one thing; then it is unknown"
    )
    at_once: int = Field(default=32, ge=1, le=256, description="how many things are read at once")
    cpu: float = Field(default=0.90, gt=0, le=1, description="busy share of a machine's CPUs")
    memory: float = Field(default=0.90, gt=0, le=1, description="used share of its memory")
    disk: float = Field(default=0.85, gt=0, le=1, description="used share of a disk")
    gpu_memory: float = Field(default=0.95, gt=0, le=1, description="used share of a GPU's memory")
    gpu_temperature_warn_c: float = Field(default=83, gt=0, description="warn from here, Celsius")
    gpu_temperature_fail_c: float = Field(default=90, gt=0, description="fail from here, Celsius")
    certificate_warn_days: float = Field(default=30, ge=0, description="warn so long before")
    certificate_fail_days: float = Field(default=7, ge=0, description="fail so long before")
    restarts_fail: int = Field(default=3, ge=1, description="restarts since the last check")
    error_lines_warn: int = Field(default=1, ge=1, description="error lines of a log in the window")
    queue: int = Field(default=50, ge=1, description="requests waiting")
    cache: float = Field(default=0.95, gt=0, le=1, description="used share of the KV cache")


class TokenLimits(Frozen):
    """How long a request the proxy lets through, as a share of the server's max_model_len.

    Source: handbook 004, "Token Limit Errors": 85-90 %, burst profile 15,000 of 16,384.
    """

    share: float = Field(default=0.855, gt=0, le=1, description="what is set, rounded down")
    low: float = Field(default=0.85, gt=0, le=1, description="aligned from here ...")
    high: float = Field(default=0.90, gt=0, le=1, description="... to here")
    burst_share: float = Field(default=0.916, gt=0, le=1, description="the same for burst models")
    burst_high: float = Field(default=0.95, gt=0, le=1, description="a burst model: up to here")
    burst_suffix: str = Field(default="-burst", description="how burst models' names end")
    round_to: int = Field(default=500, ge=1, description="rounded down to this, tokens")
