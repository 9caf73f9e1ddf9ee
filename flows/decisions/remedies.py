"""What each cause of a failed start or a crash is treated with: candidates, mildest first. Pure.

Invariant: a candidate never raises the demand. In the product order of (context, utilisation,
sequences, CUDA graphs, KV dtype) it is below the configuration it starts from, and where the
bytes of a token grow, the context is cut so that the cache still fits.
Source: DESIGN, "Diagnosis and the step-down"; diagnoses.md; handbook 004, "OOM at Startup".
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from blocks.ladder import Ladder
from blocks.models import Frozen, ServingConfig

DEFAULT_UTILIZATION = 0.92
"""vLLM's own `gpu_memory_utilization`, share 0..1 (FACTS: 0.32; it was 0.9 in old versions)."""
DEFAULT_NUM_SEQS = 256
"""vLLM's own `max_num_seqs`, count; newer versions choose more on a big GPU, never fewer."""
KV_BYTES = {"fp8": 1.0, "int8": 1.0, "nvfp4": 0.5, "int4": 0.5}
"""Bytes of one stored KV element by the dtype's prefix; every other dtype has 2."""


class Step(Frozen):
    """One smaller (or, in `step_back`, larger) configuration and why."""

    before: ServingConfig
    after: ServingConfig
    reason: str
    """One sentence with the numbers used."""
    expected: str
    costs: str

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Fields that change: name -> (before, after)."""
        return self.before.diff(self.after)


class Attempt(Frozen):
    """What a remedy works from: the configuration, the parsed facts and the ladder."""

    label: str
    config: ServingConfig
    facts: dict[str, Any]
    ladder: Ladder
    default_utilization: float

    def number(self, name: str) -> float | None:
        """A fact as a number, or None when it is absent or not one."""
        value = self.facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(str(value).replace(",", ""))
        except ValueError:
            return None
        return number if abs(number) < float("inf") else None

    def tokens(self, name: str) -> int | None:
        """A fact as a positive number of tokens."""
        value = self.number(name)
        return int(value) if value is not None and value >= 1 else None

    @property
    def context(self) -> int | None:
        """The context length in force, tokens; None when neither file nor log says it."""
        return self.config.max_model_len or self.tokens("requested_max_model_len")

    @property
    def utilization(self) -> float:
        """The share of the device's memory in force, 0..1: set, else as logged, else default."""
        logged = self.number("gpu_memory_utilization")
        seen = logged if logged is not None and 0 < logged <= 1 else None
        return self.config.gpu_memory_utilization or seen or self.default_utilization

    @property
    def sequences(self) -> int:
        """The concurrent sequences in force, count: set, else as logged, else vLLM's default."""
        return self.config.max_num_seqs or self.tokens("max_num_seqs") or DEFAULT_NUM_SEQS

    def limit(self) -> tuple[int | None, str]:
        """The longest context the KV cache holds, tokens, and the words for it.

        Old versions print the GiB and no estimate: their quotient bounds it from
        above, since part of a cache may not grow with the context, so skipping rungs above
        it is sound. Half a hundredth allows for the rounding of what was printed.
        """
        if estimate := self.tokens("estimated_max_model_len"):
            return estimate, f"vLLM estimates that {estimate} fit"
        if held := self.tokens("kv_cache_tokens"):
            return held, f"the KV cache holds {held}"
        needed, available = self.number("kv_needed_gib"), self.number("kv_available_gib")
        asked = self.tokens("requested_max_model_len") or self.context
        if needed and available and asked and needed > available > 0:
            share = (available + 0.005) / max(needed - 0.005, 0.005)
            bound = max(1, int(asked * min(share, 1.0)))
            return bound, (
                f"{needed:g} GiB of KV cache are needed and {available:g} GiB are there, "
                f"which is room for about {bound}"
            )
        return None, "the log gives no estimate"

    def contexts(self, limit: int | None) -> list[int]:
        """Shorter contexts to try, longest first, tokens: below the present one, within `limit`."""
        top = self.context
        rungs = [
            rung
            for rung in self.ladder.max_model_len
            if (top is None or rung < top) and (limit is None or rung <= limit)
        ]
        if self.ladder.fit == "exact" and limit is not None:
            exact = limit // self.ladder.granularity * self.ladder.granularity
            if exact >= self.ladder.min_max_model_len and (top is None or exact < top):
                rungs = [exact, *(rung for rung in rungs if rung < exact)]
        return rungs

    def free(self) -> str:
        """The free memory of the device, in words for a reason; empty when not known."""
        free, total = self.number("gpu_free_gib"), self.number("gpu_total_gib")
        return f" ({free:g} of {total:g} GiB free)" if free is not None and total else ""

    def step(self, reason: str, expected: str, costs: str, **values: Any) -> Step:
        """A step that sets `values`."""
        after = self.config.changed(**values)
        return Step(before=self.config, after=after, reason=reason, expected=expected, costs=costs)


def _shorter(a: Attempt) -> Iterator[Step]:
    """Context down, skipping every rung that cannot fit."""
    limit, words = a.limit() if a.label == "oom_kv_cache" else (None, "no length is known to fit")
    if limit is not None and a.context is not None and limit >= a.context:
        words, limit = f"{words}, yet {a.context} did not", None
    top = a.context or "vLLM's default (not in the log, taken as above the ladder)"
    for length in a.contexts(limit):
        yield a.step(
            f"{a.label} with max_model_len {top}: {words}, so the next length is {length} tokens.",
            "One request of the full length fits the KV cache."
            if limit is not None
            else "The longest request needs less memory; the start shows whether it is enough.",
            f"Requests longer than {length} tokens are refused until it is restored.",
            max_model_len=length,
        )


def _less_memory(a: Attempt) -> Iterator[Step]:
    """Utilisation down; where the KV cache would become too small, the context with it."""
    total = a.number("gpu_total_gib")
    for share in a.ladder.gpu_memory_utilization:
        drop = round(a.utilization - share, 6)
        if drop <= 0:
            continue
        values: dict[str, Any] = {"gpu_memory_utilization": share}
        size = f"{drop * total:.2g} GiB" if total else f"{drop:.2g} of the device's memory"
        costs = f"Fewer requests run at once, for the KV cache shrinks by {size}"
        held = _cache_after(a, drop)
        if held is None:
            costs += "; whether the context still fits is seen at the start."
        elif a.context is not None and held < a.context:
            fitting = a.contexts(held)
            if not fitting:
                continue  # vLLM would refuse to start: worse than what it remedies
            values["max_model_len"] = fitting[0]
            costs += f", to {held} tokens, so the context falls to {fitting[0]} with it."
        else:
            costs += f", to {held} tokens."
        yield a.step(
            f"{a.label} at gpu_memory_utilization {a.utilization:g}{a.free()}: "
            f"the next lower rung is {share:g}.",
            f"{size} are left free for activations, CUDA graphs and other processes.",
            costs,
            **values,
        )


def _cache_after(a: Attempt, drop: float) -> int | None:
    """Tokens the KV cache holds after `drop` (share of the device) is taken from it."""
    held, size = a.tokens("kv_cache_tokens"), a.number("kv_available_gib")
    total = a.number("gpu_total_gib")
    if held is None or not size or size <= 0 or not total or total <= 0:
        return None
    left = held * (size - drop * total) / size
    return max(0, int(left + 1e-6)) if math.isfinite(left) else 0


def fewer(a: Attempt) -> Iterator[Step]:
    """Concurrent sequences down the ladder; with no ladder, halved down to 1."""
    now = a.sequences
    halves = [now >> shift for shift in range(1, now.bit_length())]
    for count in a.ladder.max_num_seqs or halves:
        if count < now:
            yield a.step(
                f"{a.label} with max_num_seqs {now}: the next lower value is {count}.",
                "Fewer sequences need less memory for activations, sampling and CUDA graphs.",
                f"At most {count} requests run at once; others wait.",
                max_num_seqs=count,
            )


def _eager(a: Attempt) -> Iterator[Step]:
    """CUDA graphs off."""
    if not a.config.enforce_eager:
        yield a.step(
            f"{a.label}, and no lower utilisation or number of sequences is left: "
            "enforce_eager needs no graphs.",
            "No memory is used for CUDA graphs.",
            "Each token takes longer to decode.",
            enforce_eager=True,
        )


def wider_kv(a: Attempt) -> Iterator[Step]:
    """KV cache dtype to auto, and the context cut by as much as a token grows."""
    dtype, times = a.config.kv_cache_dtype, growth(a.config.kv_cache_dtype)
    held = a.tokens("kv_cache_tokens") or a.tokens("estimated_max_model_len")
    known = held or a.context
    lengths: list[int | None] = [None]
    room = known
    if times != 1:
        if known is None:
            return
        room = int(known / times)
        stays = held is not None and a.context is not None and a.context <= room
        lengths = [*([None] if stays else []), *a.contexts(room)]
    source = f"the cache held {held} tokens" if held else "it was sized for the context"
    for length in lengths:
        values: dict[str, Any] = {} if length is None else {"max_model_len": length}
        yield a.step(
            f"{a.label} with kv_cache_dtype {dtype}: auto has {times:g} times the bytes per token; "
            f"{source}, so about {room} fit and the context "
            + (
                "stays."
                if length is None
                else f"falls from {a.context or 'its default'} to {length}."
            ),
            "The KV cache needs no kernels for that dtype.",
            f"The KV cache holds 1/{times:g} of the tokens"
            + ("." if length is None else f"; requests longer than {length} are refused."),
            kv_cache_dtype="auto",
            **values,
        )


def growth(dtype: str | None) -> float:
    """How many times larger a token becomes in 16 bits than in `dtype`."""
    name = (dtype or "auto").lower()
    return next((2 / size for prefix, size in KV_BYTES.items() if name.startswith(prefix)), 1.0)


Remedy = Callable[[Attempt], Iterator[Step]]
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "oom_kv_cache": (_shorter,),
    "oom_runtime": (_less_memory, fewer, _shorter),
    "oom_cudagraph": (_less_memory, fewer, _eager, _shorter),
    # DESIGN puts utilisation first for this label too; diagnoses.md wins, for the profile run
    # comes before the KV cache: utilisation sizes only the cache and frees nothing for it.
    # It stays as the last resort, since vLLM's own text for it names it.
    "oom_startup_profile": (fewer, _shorter, _less_memory),
    "fp8_kv_unsupported": (wider_kv,),
    "cuda_illegal_access": (wider_kv,),
}
