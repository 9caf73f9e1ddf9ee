"""Host and GPU readings that a test sets: the JSON that `blocks/host_reading.py` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.sandbox.local_service import SandboxError
from deployments.sandbox.processes import write_json

GPU: dict[str, Any] = {
    "index": 0,
    "name": "NVIDIA GeForce RTX 3060",
    "uuid": "GPU-00000000-0000-4000-8000-000000000000",
    "bus_id": "00000000:01:00.0",
    "memory_used_gib": 10.9,
    "memory_total_gib": 12.0,
    "utilization": 0.35,
    "temperature_c": 61,
    "power_w": 121.0,
    "ecc_uncorrected": None,
    "xid": 0,
    "xid_age_s": None,
    "xid_reaches_s": 3 * 86_400.0,
    "lost": False,
    "unsupported": ["ecc_uncorrected"],
    "problem": "",
    "processes": [{"pid": 4242, "name": "VLLM::EngineCore", "memory_gib": 10.7}],
}
"""One healthy card with a vLLM server on it; a GeForce has no ECC memory."""
READING: dict[str, Any] = {
    "cpu_share": 0.18,
    "memory_share": 0.42,
    "disks": [{"path": "/", "used_share": 0.55, "free_gib": 207.0}],
    "gpus": None,
    "driver_version": "580.95.05",
    "cuda_version": "13.0",
    "problems": [],
}
"""One healthy machine."""


def _gpu(index: int, given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(GPU))
    if unknown:
        raise SandboxError(f"gpus[{index}]: unknown key {unknown[0]!r}; known: {', '.join(GPU)}")
    own = {
        "index": index,
        "uuid": f"{GPU['uuid'][:-1]}{index}",
        "bus_id": f"00000000:{index + 1:02x}:00.0",
    }
    if given.get("ecc_uncorrected") is not None:
        own["unsupported"] = []
    return {**GPU, **own, **given}


def write_reading(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set values of one host's reading and return the whole; the file keeps all others.

    Args:
        path: the file; created with a healthy machine of two GPUs.
        values: fields of `READING`. `gpus`: how many healthy ones (0: none are there), a list
            of what is not healthy about each, or None: they cannot be read.

    Raises:
        SandboxError: an unknown field.
    """
    unknown = sorted(set(values) - set(READING))
    if unknown:
        raise SandboxError(f"unknown reading {unknown[0]!r}; known: {', '.join(READING)}")
    reading = {**READING, "gpus": [_gpu(i, {}) for i in range(2)]}
    if path.exists():
        reading = json.loads(path.read_text(encoding="utf-8"))
    reading |= values
    gpus: int | Sequence[Mapping[str, Any]] | None = reading["gpus"]
    if isinstance(gpus, int):
        gpus = [{} for _ in range(gpus)]
    reading["gpus"] = None if gpus is None else [_gpu(i, g) for i, g in enumerate(gpus)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, reading)
    return reading
