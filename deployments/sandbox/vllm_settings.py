"""The stand-in's hardware and faults: one flat set of numbers, re-read while it runs.

Standard library only. Sources, weakest first: the defaults below, a preset, the
environment (`SANDBOX_<FIELD>`), the JSON file named by `SANDBOX_FAULTS_FILE`, and what was
sent to `POST /sandbox/faults`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


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


class UnknownSetting(ValueError):
    """A key or value that is not one of `Settings`."""


_TYPES = {f.name: str(f.type) for f in fields(Settings)}


def coerce(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `Settings` from text or JSON; raises UnknownSetting for the first bad one."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        kind = _TYPES.get(key)
        if kind is None:
            raise UnknownSetting(f"unknown setting {key!r}; known: {', '.join(sorted(_TYPES))}")
        try:
            out[key] = _convert(kind, value)
        except (TypeError, ValueError, KeyError) as e:
            raise UnknownSetting(f"{key} must be {kind}, not {value!r}") from e
    return out


def _convert(kind: str, value: Any) -> Any:
    if value is None or value == "":
        if "None" in kind:
            return None
        if kind == "str":
            return ""
        raise ValueError(value)
    if kind == "bool":
        if isinstance(value, str):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                value.lower()
            ]
        return bool(value)
    if kind == "str":
        return str(value)
    return int(value) if kind.startswith("int") else float(value)


class Source:
    """The settings in force now. `current()` notices a changed faults file by itself."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("SANDBOX_FAULTS_FILE", "")
        self._posted: dict[str, Any] = {}
        self._stamp: tuple[int, int, int] | None = None
        self.problem = ""
        given = {
            name: environ[f"SANDBOX_{name.upper()}"]
            for name in _TYPES
            if f"SANDBOX_{name.upper()}" in environ
        }
        self._preset = environ.get("SANDBOX_PRESET", "")
        self._environ = coerce(given)
        self._settings = self._merge({})

    def _merge(self, from_file: Mapping[str, Any]) -> Settings:
        values = dict(from_file)
        preset = str(values.pop("preset", "") or self._preset or "wintermute")
        if preset not in PRESETS:
            raise UnknownSetting(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        layers = {**PRESETS[preset], **self._environ, **coerce(values), **self._posted}
        return Settings(**layers)

    def post(self, values: Mapping[str, Any]) -> Settings:
        """Set values for the life of this process; `{}` clears everything posted before."""
        self._posted = {**self._posted, **coerce(values)} if values else {}
        self._stamp = None
        self._settings = self._merge({} if not self._path else self._read())
        return self._settings

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as f:
                data = json.load(f)
        except FileNotFoundError:
            return {}
        if not isinstance(data, dict):
            raise UnknownSetting("the faults file must hold one JSON object")
        return data

    def current(self) -> Settings:
        """The settings now. A broken faults file keeps the last good ones (see `problem`)."""
        if not self._path:
            return self._settings
        try:
            info = os.stat(self._path)
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = self._merge(self._read())
                self.problem = ""
            except (ValueError, OSError) as e:
                self.problem = str(e)
                sys.stderr.write(f"sandbox: faults file ignored: {e}\n")
        return self._settings
