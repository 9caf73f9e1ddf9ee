"""The stand-in's hardware and faults: one flat set of numbers, re-read while it runs.

Standard library only. Sources: `live_settings`, and what was sent to `POST /sandbox/faults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox import live_settings
else:
    import live_settings

__all__ = ["PRESETS", "Settings", "Source", "UnknownSetting", "coerce"]

UnknownSetting = live_settings.UnknownSetting


@dataclass(frozen=True)
class Settings:
    """Hardware, speed and faults of one stand-in. Memory in GiB, time in seconds."""

    gpu_name: str = "NVIDIA GeForce RTX 3060"
    vram_gib: float = 12.0
    vram_free_gib: float | None = None
    """Free at start-up; `None`: all but the driver's 0.2 GiB."""
    weights_gib: float = 9.25
    non_torch_gib: float = 0.3
    activation_gib: float = 0.5047
    """Peak of the profile run, plus the two shares below."""
    activation_gib_per_seq: float = 0.0
    activation_gib_per_1k_tokens: float = 0.0
    cudagraph_gib: float = 0.25
    """CUDA graphs live outside the utilisation share; `enforce_eager` removes them."""
    cudagraph_gib_per_seq: float = 0.0
    runtime_gib: float = 0.0
    """Spike while serving, outside the utilisation share, plus the share per sequence."""
    runtime_gib_per_seq: float = 0.0
    kv_kib_per_token: float = 96.0
    """At 16 bit; half of it at fp8."""
    kv_block_tokens: int = 16
    model_max_len: int = 32768
    """What the model derives (max_position_embeddings)."""
    models: str = ""
    """Comma list of known model paths; empty: every path exists."""

    startup_s: float = 0.6
    tokens_per_s: float = 400.0
    """Decoding speed of one sequence."""
    prefill_tokens_per_s: float = 50_000.0
    ttft_s: float = 0.0
    """Added to the time to the first token of every request."""
    answer_tokens: int = 24
    """Where an answer stops by itself."""

    slow_start_s: float = 0.0
    model_missing: bool = False
    port_held: bool = False
    served_max_model_len: int | None = None
    """`/v1/models` reports this length instead of the one asked for."""
    health_status: int = 200
    frozen: bool = False
    """The engine stops: /health and /v1/models answer 200, completions never do."""
    frozen_metrics: bool = False
    """/metrics does not answer either."""
    runtime_oom_after: int = 0
    """Request N arrives as a full batch of max_num_seqs (0: only real concurrency counts)."""
    exit_zero: bool = False
    """An engine that died makes the server exit 0 instead of 1."""
    crash_after: int = 0
    crash_exit_code: int = 0
    """After N requests the engine dies without a visible cause and the server exits so."""
    fp8_unsupported: bool = False
    fp8_unstable_after: int = 0
    """With an fp8 KV cache, request N ends in an illegal memory access."""
    host_oom_at_start: bool = False
    host_oom_after: int = 0
    tokenizer_stall: bool = False
    """The start hangs after `Initializing tokenizer pool` until this is cleared."""
    latency_free_seqs: int = 0
    """So many sequences decode at full speed at once; each further one slows all (0: none do)."""
    latency_slowdown: float = 1.0
    """What each further sequence adds to the time per token, as a share of it."""

    old_metric_names: bool = False
    """/metrics as before vLLM 0.10: gpu_cache_usage_perc, time_per_output_token_seconds."""
    metrics_without: str = ""
    """Comma list of metric families that /metrics leaves out, with or without `vllm:`."""
    histograms_empty: bool = False
    """Every histogram of /metrics reads zero, as after a restart without traffic."""


_BIG: dict[str, Any] = {
    "gpu_name": "NVIDIA GeForce RTX 4090",
    "vram_gib": 24.0,
    "weights_gib": 14.0,
    "non_torch_gib": 0.4,
    "activation_gib": 1.0,
    "kv_kib_per_token": 64.0,
    "model_max_len": 131072,
}
PRESETS: dict[str, dict[str, Any]] = {
    # 12 GiB: 16384 needs 1.5, has 0.99, estimated maximum 10752 (captures/vllm); fp8 fits 16384.
    "wintermute": {},
    # 24 GiB with 6.68 GiB for the KV cache: every step of the usual ladders fits.
    "roomy": _BIG,
    # 24 GiB leave 1.72 outside the share at 0.92, 3.4 at 0.85, 4.6 at 0.80. Eight sequences
    # spike 2.0 (+ 0.25 of graphs): dies at 0.92 on request 3, lives at 0.85, or with 4 sequences.
    "runtime_oom": {**_BIG, "runtime_gib_per_seq": 0.25, "runtime_oom_after": 3},
    # Eight sequences' graphs take 1.9: fails at 0.92, fits at 0.85, with 4 sequences, or eager.
    "cudagraph_oom": {**_BIG, "cudagraph_gib": 0.9, "cudagraph_gib_per_seq": 0.125},
    # 14.4 + 1.0 + 8 x 1.2 = 25 > 23.8; with 4 sequences 20.2 fits.
    "profile_oom": {**_BIG, "activation_gib_per_seq": 1.2},
    "weights_oom": {**_BIG, "weights_gib": 28.0},
    "memory_held": {**_BIG, "vram_free_gib": 9.31},
}


def coerce(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `Settings` from text or JSON; raises UnknownSetting for the first bad one."""
    return live_settings.coerce(Settings, values)


class Source(live_settings.Live[Settings]):
    """The settings of a running vLLM stand-in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings, PRESETS, environ)
