"""The size of a model's KV cache, from the Hugging Face config.json. Pure."""

from collections.abc import Mapping
from typing import Any

from blocks.models import Frozen

GIB = 2**30
BLOCK = 16
"""vLLM's KV blocks hold this many tokens."""


class KvShape(Frozen):
    """What decides the size of a KV cache, and what else the config tells of the size."""

    layers: int
    """Layers that keep a KV cache of the whole context (count)."""
    window_layers: int = 0
    """Layers that keep only the last `sliding_window` tokens (count)."""
    sliding_window: int | None = None
    """Tokens."""
    kv_heads: int = 1
    head_dim: int = 0
    latent_dim: int | None = None
    """Multi-head latent attention: elements per token and layer in place of the heads'."""
    dtype_bytes: int = 2
    """Bytes of one element with `kv_cache_dtype: auto`; vLLM serves float32 models in 16 bits."""
    max_position_embeddings: int | None = None
    """The model's own longest context, tokens."""
    weight_bits: int | None = None
    """Bits per weight by `quantization_config`, or 16 by the dtype; None when neither says."""


def kv_shape(config_json: Mapping[str, Any]) -> KvShape | None:
    """Read a Hugging Face config.json; None when the cache's size does not follow from it.

    Reads the nested `text_config` of multimodal models, grouped and latent attention, explicit
    or derived head sizes, and per-layer attention types. A `sliding_window` without those types
    is ignored: the whole context is then counted, which errs on the large side.
    """
    text = next(
        (
            config_json[key]
            for key in ("text_config", "llm_config", "language_config")
            if isinstance(config_json.get(key), Mapping)
        ),
        config_json,
    )
    layers = _count(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _count(text, "num_attention_heads", "n_head", "n_heads")
    if layers is None:
        return None
    shared: dict[str, Any] = {
        **_layer_kinds(text, layers),
        "max_position_embeddings": _count(text, "max_position_embeddings", "n_positions"),
        "weight_bits": _weight_bits(text) or _weight_bits(config_json) or _dtype_bits(text),
    }
    latent, rope = _count(text, "kv_lora_rank"), _count(text, "qk_rope_head_dim")
    if latent is not None:
        return KvShape(**shared, latent_dim=latent + rope) if rope is not None else None
    hidden = _count(text, "hidden_size", "n_embd", "d_model")
    size = _count(text, "head_dim", "kv_channels")
    if size is None and hidden is not None and heads is not None:
        size = hidden // heads
    kv_heads = _count(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if kv_heads is None and text.get("multi_query") is True:
        kv_heads = 1
    kv_heads = kv_heads or heads
    return KvShape(**shared, kv_heads=kv_heads, head_dim=size) if kv_heads and size else None


def kv_bytes_per_token(
    shape: KvShape, kv_cache_dtype: str | None = None, tensor_parallel_size: int = 1
) -> int:
    """Bytes of KV cache per token and device, within any sliding window.

    Llama-3.1-8B: 2 x 32 layers x 8 heads x 128 x 2 bytes = 131072. Heads are split over the
    devices and, where there are fewer heads than devices, repeated; a latent is not split.
    """
    return _bytes_per_layer(shape, kv_cache_dtype, tensor_parallel_size) * (
        shape.layers + shape.window_layers
    )


def kv_gib(
    shape: KvShape, tokens: int, kv_cache_dtype: str | None = None, tensor_parallel_size: int = 1
) -> float:
    """KV cache of one request of that many tokens, GiB per device."""
    window = min(tokens, shape.sliding_window or tokens)
    one = _bytes_per_layer(shape, kv_cache_dtype, tensor_parallel_size)
    return one * (shape.layers * tokens + shape.window_layers * window) / GIB


def longest_context(
    shape: KvShape,
    room_gib: float,
    kv_cache_dtype: str | None = None,
    tensor_parallel_size: int = 1,
) -> int:
    """The longest request, tokens in whole blocks, whose cache fits `room_gib` per device."""
    low, high = 0, (shape.max_position_embeddings or 10_000_000) // BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        if kv_gib(shape, middle * BLOCK, kv_cache_dtype, tensor_parallel_size) <= room_gib:
            low = middle
        else:
            high = middle - 1
    return low * BLOCK


def _bytes_per_layer(shape: KvShape, kv_cache_dtype: str | None, devices: int) -> int:
    dtype = (kv_cache_dtype or "auto").lower()
    width = shape.dtype_bytes
    if dtype.startswith(("fp8", "int8")):
        width = 1
    elif dtype in ("float16", "fp16", "bfloat16", "bf16", "half"):
        width = 2
    if shape.latent_dim is not None:
        return shape.latent_dim * width
    heads = max(1, -(-shape.kv_heads // max(1, devices)))
    return 2 * heads * shape.head_dim * width


def _layer_kinds(text: Mapping[str, Any], layers: int) -> dict[str, Any]:
    kinds, window = text.get("layer_types"), _count(text, "sliding_window")
    if not isinstance(kinds, list | tuple) or len(kinds) != layers:
        return {"layers": layers}
    # Linear attention and state-space layers keep a state of fixed size, and no KV cache.
    fixed = sum(1 for kind in kinds if "linear" in str(kind) or "mamba" in str(kind))
    sliding = sum(1 for kind in kinds if "sliding" in str(kind)) if window else 0
    return {
        "layers": layers - fixed - sliding,
        "window_layers": sliding,
        "sliding_window": window,
    }


def _weight_bits(config: Mapping[str, Any]) -> int | None:
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return None
    if bits := _count(quantised, "bits", "w_bit"):
        return bits
    if quantised.get("load_in_4bit") is True:
        return 4
    if quantised.get("load_in_8bit") is True:
        return 8
    method = str(quantised.get("quant_method") or quantised.get("quant_algo") or "").lower()
    if "fp4" in method:
        return 4
    if "fp8" in method:
        return 8
    groups = quantised.get("config_groups")
    found = [
        _count(group["weights"], "num_bits")
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    return max((bits for bits in found if bits), default=None)


def _dtype_bits(config: Mapping[str, Any]) -> int | None:
    """16 for every float type: vLLM serves float32 checkpoints in 16 bits."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return 16 if dtype.removeprefix("torch.") in ("float16", "bfloat16", "float32") else None


def _count(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` that holds a positive whole number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
