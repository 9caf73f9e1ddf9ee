"""What a model's name says of its size and quantisation. Pure.

Source: the naming habits of the Hugging Face hub. What a name does not say plainly is None.
"""

import re

from blocks.models import Frozen

MIXTURES = {"8x7b": 46.7, "8x22b": 140.6}
"""Mixtral's totals, billions: its experts share the attention layers, so 8 x 7 is too many."""

_EXPERTS = re.compile(r"(?<![a-z0-9.])(\d+)x(\d+(?:\.\d+)?)b(?![a-z0-9])")
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
_MILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)m(?![a-z0-9])")
# Llama 4 names the active size and the number of experts: 17B-16E is 109 B in total.
_ACTIVE_ONLY = re.compile(r"\db-\d+e(?![a-z0-9])")

_BITS: tuple[tuple[int, re.Pattern[str]], ...] = (
    (8, re.compile(r"int8|8[-_]?bit|w8a8|w8a16|(?<![a-z])fp8|(?<![a-z])q8|mxfp8|gptq[-_]8")),
    (6, re.compile(r"(?<![a-z0-9])q6|6[-_]?bit|6\.0bpw")),
    (5, re.compile(r"(?<![a-z0-9])q5|5[-_]?bit|5\.0bpw")),
    (
        4,
        re.compile(
            r"int4|(?<!\d)4[-_]?bit|w4a\d+|(?:mx|nv|(?<![a-z]))fp4|(?<![a-z0-9])[iq]q?4|"
            r"nf4|bnb-4|awq|gptq|gpt-oss"
        ),
    ),
    (3, re.compile(r"(?<![a-z0-9])i?q3|(?<!\d)3[-_]?bit")),
    (2, re.compile(r"(?<![a-z0-9])i?q2|(?<!\d)2[-_]?bit")),
    (16, re.compile(r"(?<![a-z])(?:bf|fp|float|bfloat)16|(?<![a-z])half|^none$|16[-_]?bit")),
)


class ModelName(Frozen):
    """Size and quantisation as far as a name tells them."""

    name: str
    params_billion: float | None
    """All weights that are loaded, billions; of a mixture every expert."""
    bits: int | None
    """Bits per weight; None when the name says nothing (16 is then the usual)."""
    experts: str = ""
    """For a mixture the text it was read from, such as `8x7b`."""


def bits_of(text: str | None) -> int | None:
    """Bits per weight that a quantisation's or a model's name stands for, or None.

    A width that is named goes before a method's usual one: `gptq-int8` has 8 and not 4 bits.
    """
    low = (text or "").lower()
    return next((bits for bits, pattern in _BITS if pattern.search(low)), None)


def parse_model(name: str) -> ModelName:
    """Size and quantisation from a name or path: `llama-3.1-8b-instruct-awq` is 8.0 B in 4 bits.

    Where several sizes are named (a distillation), the largest counts; the active size of a
    mixture (`30b-a3b`) does not.
    """
    low = name.lower().rstrip("/").rsplit("/", maxsplit=1)[-1]
    if _ACTIVE_ONLY.search(low):
        return ModelName(name=name, params_billion=None, bits=bits_of(low))
    if mixture := _EXPERTS.search(low):
        text = f"{mixture[1]}x{mixture[2]}b"
        total = MIXTURES.get(text, float(mixture[1]) * float(mixture[2]))
        return ModelName(name=name, params_billion=total or None, bits=bits_of(low), experts=text)
    sizes = [float(size) for size in _BILLIONS.findall(low)]
    sizes = sizes or [float(size) / 1000 for size in _MILLIONS.findall(low)]
    return ModelName(name=name, params_billion=max(sizes, default=0) or None, bits=bits_of(low))
