"""The sentences in which vLLM 0.32 and PyTorch name what did not fit.

Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.sandbox.vllm_memory import Budget, Wanted
    from deployments.sandbox.vllm_settings import Settings

MEMORY_DOC = "https://docs.vllm.ai/en/latest/configuration/conserving_memory/"
FAILED_TO_LOAD = (
    "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free "
    "memory for weights, increasing --tensor-parallel-size, or using --quantization. (original "
    "error: {})"
)
ILLEGAL_ACCESS = (
    "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace "
    "below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)


def cuda_oom(s: Settings, tried_gib: float, free_gib: float) -> str:
    """PyTorch's sentence."""
    used = max(0.0, s.vram_gib - free_gib)
    return (
        f"CUDA out of memory. Tried to allocate {_size(tried_gib)}. GPU 0 has a total capacity of "
        f"{s.vram_gib:.2f} GiB of which {_size(free_gib)} is free. Including non-PyTorch memory, "
        f"this process has {used:.2f} GiB memory in use. Of the allocated memory "
        f"{max(0.0, used - 0.6):.2f} GiB is allocated by PyTorch, and 214.32 MiB is reserved by "
        "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
        "for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 1 else f"{max(gib, 0.0) * 1024:.2f} MiB"


def start_error(failure: str, s: Settings, b: Budget, w: Wanted) -> str:
    """The root cause of one failed start, as vLLM words it."""
    if failure == "memory_held":
        return (
            f"ValueError: Free memory on device cuda:0 ({round(b.free, 2)}/{round(b.total, 2)} GiB)"
            " on startup is less than desired GPU memory utilization "
            f"({w.gpu_memory_utilization}, {round(b.requested, 2)} GiB). Decrease GPU memory "
            "utilization or reduce GPU memory used by other processes."
        )
    if failure == "kv_none":
        return (
            "ValueError: No available memory for the cache blocks. Try increasing "
            f"`gpu_memory_utilization` when initializing the engine. See {MEMORY_DOC} for more "
            "details."
        )
    if failure == "kv_too_small":
        return (
            "ValueError: To serve at least one request with the model's max seq len "
            f"({b.max_model_len}), ({round(b.needed, 2)} GiB KV cache is needed, which is larger "
            f"than the available KV cache memory ({round(b.available, 2)} GiB). Based on the "
            f"available memory, the estimated maximum model length is {b.estimated}. Try "
            "increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU "
            "backend) or decreasing `max_model_len` when initializing the engine. See "
            f"{MEMORY_DOC} for more details."
        )
    if failure == "fp8_unsupported":
        return (
            f"ValueError: FP8 KV cache is not supported by the Triton attention backend on "
            f"{s.gpu_name} (compute capability 8.6); native FP8 (fp8e4nv) requires SM89+. Re-run "
            "with --kv-cache-dtype float16."
        )
    left = {
        "weights": (0.4375, min(0.31, b.free)),
        "profile": (b.profile, b.free - b.weights),
        "cudagraph": (min(b.graphs, 0.02), 0.011),
    }[failure]
    return "torch.OutOfMemoryError: " + cuda_oom(s, *left)
