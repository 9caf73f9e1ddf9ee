"""How a GPU's memory decides whether a vLLM configuration starts: pure arithmetic.

Standard library only. The share `gpu_memory_utilization` x total holds weights, the profile
run's peak and the KV cache; CUDA graphs and the spikes of serving live outside it. Hence
lowering the share cures the latter two and starves the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.sandbox.vllm_settings import Settings

GIB = 1 << 30
DRIVER_GIB = 0.2


@dataclass(frozen=True)
class Wanted:
    """The numbers of a configuration that decide over memory."""

    max_model_len: int | None
    """`None`: as long as fits (`auto`)."""
    gpu_memory_utilization: float = 0.92
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache_dtype: str = "auto"
    enforce_eager: bool = False
    tensor_parallel_size: int = 1

    @property
    def fp8(self) -> bool:
        """True when the KV cache holds one byte per value."""
        return self.kv_cache_dtype.startswith("fp8")


@dataclass(frozen=True)
class Budget:
    """Where the memory goes, in GiB per GPU."""

    total: float
    free: float
    requested: float
    weights: float
    profile: float
    """Peak of the profile run, weights not included."""
    available: float
    """Left for the KV cache; may be negative."""
    needed: float
    """KV cache of one request of `max_model_len`."""
    max_model_len: int
    estimated: int
    """The longest request that fits, tokens, in whole blocks."""
    blocks: int
    kv_tokens: int
    graphs: float
    outside: float
    """Free memory outside the share."""

    @property
    def failure(self) -> str:
        """The first thing that does not fit, in vLLM's order; empty when all does."""
        if self.free < self.requested:
            return "memory_held"
        if self.weights > self.free:
            return "weights"
        if self.weights + self.profile > self.free:
            return "profile"
        if self.available <= 0:
            return "kv_none"
        if self.needed > self.available:
            return "kv_too_small"
        if self.graphs > self.outside:
            return "cudagraph"
        return ""


def budget(s: Settings, w: Wanted) -> Budget:
    """The memory plan of one configuration on one device."""
    tp = max(1, w.tensor_parallel_size)
    free = s.vram_gib - DRIVER_GIB if s.vram_free_gib is None else s.vram_free_gib
    requested = s.vram_gib * w.gpu_memory_utilization
    weights = s.weights_gib / tp
    profile = (
        s.non_torch_gib
        + s.activation_gib
        + s.activation_gib_per_seq * w.max_num_seqs
        + s.activation_gib_per_1k_tokens * w.max_num_batched_tokens / 1000
    )
    available = requested - weights - profile
    block_gib = s.kv_block_tokens * s.kv_kib_per_token / (2 if w.fp8 else 1) / tp / (1 << 20)
    blocks = max(0, int(available / block_gib + 1e-9))
    estimated = min(blocks * s.kv_block_tokens, s.model_max_len)
    length = w.max_model_len or max(estimated, s.kv_block_tokens)
    graphs = 0.0
    if not w.enforce_eager:
        graphs = s.cudagraph_gib + s.cudagraph_gib_per_seq * w.max_num_seqs
    return Budget(
        total=s.vram_gib,
        free=free,
        requested=requested,
        weights=weights,
        profile=profile,
        available=available,
        needed=math.ceil(length / s.kv_block_tokens) * block_gib,
        max_model_len=length,
        estimated=estimated,
        blocks=blocks,
        kv_tokens=blocks * s.kv_block_tokens,
        graphs=graphs,
        outside=free - requested,
    )


def spike_gib(s: Settings, sequences: int) -> float:
    """What serving so many sequences at once takes outside the share."""
    return s.runtime_gib + s.runtime_gib_per_seq * sequences


def overflows(s: Settings, b: Budget, sequences: int) -> bool:
    """True when so many sequences at once run the device out of memory."""
    return b.graphs + spike_gib(s, sequences) > b.outside


def cache_info(w: Wanted, b: Budget, block: int) -> dict[str, str]:
    """The labels of vLLM's `cache_config_info`."""
    values = {
        "_block_size_resolved": True,
        "block_size": block,
        "cache_dtype": w.kv_cache_dtype,
        "cache_hit_alignment_tokens": None,
        "effective_attention_block_size": block,
        "enable_mamba_shared_prefix_checkpoint": False,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": w.gpu_memory_utilization,
        "hash_block_size": None,
        "is_attention_free": False,
        "kv_cache_dtype_skip_layers": [],
        "kv_cache_layout": None,
        "kv_cache_max_concurrency": b.kv_tokens / b.max_model_len,
        "kv_cache_memory_bytes": int(b.available * GIB),
        "kv_cache_size_tokens": b.kv_tokens,
        "kv_offloading_backend": "native",
        "kv_offloading_size": None,
        "kv_sharing_fast_prefill": False,
        "mamba_block_size": None,
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": None,
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": None,
        "num_gpu_blocks": b.blocks,
        "num_gpu_blocks_override": None,
        "prefix_cache_retention_interval": 0,
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": None,
        "replayssm_buffer_len": 16,
        "skip_page_size_padded": None,
        "sliding_window": None,
        "swa_bounded_replay": True,
        "use_kda_recoverssm": False,
        "use_replayssm": False,
        "user_specified_block_size": False,
    }
    return {name: str(value) for name, value in values.items()}
