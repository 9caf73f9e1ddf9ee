"""Will a model fit a GPU, and how long a context? Pure arithmetic over names and config.json.

Source: handbook 000, section 1 (the matrix); FACTS (utilisation 0.92). The estimates err on the
large side, so `fits` is never said by ignorance: what is not known makes it `unknown`.
"""

from typing import Literal

from blocks.gpu import Gpu
from blocks.models import Frozen, ServingConfig
from flows.decisions.kv_shape import (
    KvShape,
    kv_bytes_per_token,
    kv_gib,
    kv_shape,
    longest_context,
)
from flows.decisions.model_name import ModelName, bits_of, parse_model

__all__ = [
    "MATRIX",
    "Fit",
    "KvShape",
    "MatrixRow",
    "ModelName",
    "bits_of",
    "fits",
    "kv_bytes_per_token",
    "kv_gib",
    "kv_shape",
    "matrix_row",
    "parse_model",
    "weights_gib",
]

GIB = 2**30
DEFAULT_UTILIZATION = 0.92
OVERHEAD_GIB = 1.5
"""CUDA context, activations and CUDA graphs of one device, GiB: an allowance, not a reading."""
CONTEXT_GIB = 0.5
"""What a CUDA context takes at the very least, GiB per device."""
COMFORT = 0.9
"""Above this share of what is available, 0..1, a fit is called tight."""
MATRIX_CONTEXT = 4096
"""The only context length the matrix speaks of, tokens; longer ones need the model's shape."""


class MatrixRow(Frozen):
    """One line of the handbook's sizing matrix."""

    model_class: str
    params_billion: float
    """Upper end of the class is 1.3 times this."""
    bits: int
    vram_gib: float
    max_context: int | None = None
    """Tokens; None where the handbook names no limit."""
    note: str = ""


MATRIX: tuple[MatrixRow, ...] = (
    MatrixRow(model_class="7 B", params_billion=7, bits=4, vram_gib=6),
    MatrixRow(model_class="7 B", params_billion=7, bits=8, vram_gib=12, note="about 12 GiB"),
    MatrixRow(
        model_class="13 B",
        params_billion=13,
        bits=4,
        vram_gib=11,
        max_context=4096,
        note="requires a context window of at most 4k",
    ),
    MatrixRow(
        model_class="33 B",
        params_billion=33,
        bits=4,
        vram_gib=22,
        note="the handbook's example is Mixtral-8x7B, which has 46.7 B in total",
    ),
    MatrixRow(
        model_class="70 B", params_billion=70, bits=4, vram_gib=48, note="or tensor-parallel 2"
    ),
)


Verdict = Literal["fits", "tight", "too-small", "unknown"]


class Fit(Frozen):
    """Whether a model fits, with the numbers behind it."""

    verdict: Verdict
    needed_gib: float | None
    """All devices together; an upper estimate. None when the model's size is not known."""
    available_gib: float
    """All devices that are used, times the utilisation."""
    max_model_len_estimate: int | None
    """Tokens of one request that fit, None when the model's shape is not known."""
    reason: str


def weights_gib(params_billion: float, bits: float, *, exact: bool = False) -> float:
    """Size of the weights, GiB.

    Below 16 bits, scales add about a quarter bit per weight and the embeddings stay in 16 bits
    (about 1 B weights plus 1/64 of the model, at most 15 %): 8.0 B in AWQ are 5.3 GiB on disk,
    not 3.7. `exact` leaves that out: the least it can be.
    """
    if bits >= 16 or exact:
        return params_billion * 1e9 * bits / 8 / GIB
    kept = min(0.15 * params_billion, 1 + params_billion / 64)
    return ((params_billion - kept) * (bits + 0.25) + kept * 16) * 1e9 / 8 / GIB


def matrix_row(model: ModelName, bits: int) -> MatrixRow | None:
    """The handbook's row for a model in that many bits, or None."""
    if model.params_billion is None:
        return None
    # The handbook files Mixtral-8x7B under 33 B although all its 46.7 B are loaded.
    size = 33.0 if model.experts == "8x7b" else model.params_billion
    rows = sorted(MATRIX, key=lambda row: row.params_billion)
    return next((r for r in rows if r.bits == bits and size <= r.params_billion * 1.3), None)


def fits(
    model: str,
    quantisation: str | None,
    gpu: Gpu,
    *,
    config: ServingConfig | None = None,
    shape: KvShape | None = None,
) -> Fit:
    """Whether `model` in `quantisation` fits `gpu` under `config`.

    `model` is a name or path such as "llama-3.1-8b-instruct-awq"; `quantisation` is a
    method or width ("awq", "fp8", "int8"). Where neither it, the configuration, the shape nor
    the name tells the width, 16 bits have to fit for a `fits` and 4 must not for a `too-small`.
    """
    case = _Case(model=parse_model(model), gpu=gpu, config=config or ServingConfig(), shape=shape)
    told = bits_of(quantisation), bits_of(case.config.quantization), case.model.bits
    # A quantised checkpoint knows best; of names that disagree the widest is the safe one; and
    # an unquantised checkpoint may still be quantised at loading, so its dtype comes last.
    stored = shape.weight_bits if shape else None
    named = max((width for width in told if width), default=None)
    bits = stored if stored and stored < 16 else named or stored
    case = case.model_copy(update={"bits": bits})
    if case.devices > gpu.count:
        return case.fit(
            "too-small",
            f"tensor_parallel_size {case.devices} needs that many devices and there are "
            f"{gpu.count} of {gpu.name}",
        )
    if case.model.params_billion is None:
        return case.fit("unknown", f"the size of {model!r} cannot be read from its name")
    return _by_shape(case, shape) if shape else _by_matrix(case, asked=config is not None)


class _Case(Frozen):
    """One question, and the numbers it leads to."""

    model: ModelName
    gpu: Gpu
    config: ServingConfig
    shape: KvShape | None
    bits: int | None = None

    @property
    def devices(self) -> int:
        return self.config.tensor_parallel_size or 1

    @property
    def share(self) -> float:
        return self.config.gpu_memory_utilization or DEFAULT_UTILIZATION

    @property
    def available(self) -> float:
        return self.gpu.vram_gib * self.share * min(self.devices, self.gpu.count)

    @property
    def weights(self) -> float:
        """The most the weights take, GiB."""
        return weights_gib(self.model.params_billion or 0, self.bits or 16)

    @property
    def most(self) -> float:
        """Without KV cache, GiB on all devices: what confirms a fit."""
        return self.weights + OVERHEAD_GIB * self.devices

    @property
    def least(self) -> float:
        """Without KV cache, GiB on all devices: what refutes a fit; 4 bits if nothing is told."""
        least = weights_gib(self.model.params_billion or 0, self.bits or 4, exact=True)
        return least + CONTEXT_GIB * self.devices

    def fit(
        self, verdict: Verdict, why: str, needed: float | None = None, longest: int | None = None
    ) -> Fit:
        width = f"{self.bits} bits" if self.bits else "unknown quantisation"
        size = f"{self.model.params_billion:g} B, {width}" if self.model.params_billion else width
        return Fit(
            verdict=verdict,
            needed_gib=None if needed is None else round(needed, 2),
            available_gib=round(self.available, 2),
            max_model_len_estimate=longest,
            reason=f"{self.model.name} ({size}) on {self.devices} x {self.gpu.name} "
            f"({self.gpu.vram_gib:g} GiB, utilisation {self.share:g}): {why}.",
        )


def _by_shape(case: _Case, shape: KvShape) -> Fit:
    """With the KV cache of one request of full length computed."""
    dtype, devices = case.config.kv_cache_dtype, case.devices
    room = (case.available - case.most) / devices
    longest = longest_context(shape, room, dtype, devices)
    length = case.config.max_model_len or shape.max_position_embeddings
    if length is None:
        why = "neither the configuration nor the model says how long the context is"
        verdict: Verdict = "too-small" if case.least > case.available else "unknown"
        return case.fit(verdict, why, case.most, longest)
    cache = kv_gib(shape, length, dtype, devices) * devices
    needed = case.most + cache
    why = (
        f"up to {case.weights:.1f} GiB of weights, {cache:.2f} GiB of KV cache for {length} tokens "
        f"and {OVERHEAD_GIB * devices:g} GiB besides, of {case.available:.1f} GiB; "
        f"about {longest} tokens would fit"
    )
    if case.least + cache > case.available:
        verdict = "too-small"
    elif needed <= case.available:
        verdict = "fits" if needed <= case.available * COMFORT else "tight"
    else:
        verdict = "tight" if case.bits else "unknown"
    return case.fit(verdict, why, needed, longest)


def _by_matrix(case: _Case, *, asked: bool) -> Fit:
    """By the handbook's matrix; `asked` says that a context length is in question."""
    if case.least > case.available:
        why = f"the weights alone need at least {case.least:.1f} GiB of {case.available:.1f} GiB"
        return case.fit("too-small", why, case.most)
    row = matrix_row(case.model, case.bits) if case.bits else None
    if row is None:
        why = "the handbook has no row for it; its config.json would tell"
        return case.fit("unknown", why, case.most)
    card, needed = case.gpu.vram_gib * case.devices, max(row.vram_gib, case.most)
    why = f"the handbook asks for {row.vram_gib:g} GiB for {row.model_class} in {row.bits} bits"
    if row.note:
        why += f" ({row.note})"
    if row.vram_gib > card and case.most > case.available:
        return case.fit("too-small", why, needed)
    length, limit = case.config.max_model_len, row.max_context or MATRIX_CONTEXT
    if asked and (length is None or length > limit):
        why += (
            f"; it speaks of contexts up to {limit} tokens and not of "
            f"{length or 'the full length'}: config.json would tell"
        )
        return case.fit("unknown", why, needed)
    roomy = row.vram_gib <= card * COMFORT and case.most <= case.available
    return case.fit("fits" if roomy else "tight", why, needed)
