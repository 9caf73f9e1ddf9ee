"""One serving value as text: how vLLM's words are read and how they are written back. Pure."""

import re
from typing import Any

from blocks.errors import Permanent, Unsafe
from blocks.models import ServingConfig

INTS = frozenset(
    {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size"}
)
FLOATS = frozenset({"gpu_memory_utilization"})
BOOLS = frozenset({"enforce_eager"})

_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def parse_int(text: str) -> int:
    """A whole number as vLLM reads it: `8192`, `16k` = 16,000, `16K` = 16,384, `1.5k` = 1,500.

    Source: vLLM `human_readable_int` (vllm/utils/argparse_utils.py, 0.12 and later).

    Raises:
        ValueError: no number, an unknown unit, or decimals before a binary unit (`1.5K`).
    """
    text = text.strip()
    if not (match := _HUMAN.fullmatch(text)):
        return int(text)
    number, unit = match.groups()
    power: int = _POWER[unit.lower()]
    return int(float(number) * 10 ** (3 * power)) if unit.islower() else int(number) << 10 * power


def parse_bool(text: str) -> bool:
    """`true`, `1`, `yes`, `on` and their opposites, in any case.

    Raises:
        ValueError: any other word.
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_value(field: str, text: str, where: str) -> Any:
    """The value of one serving field (of `ServingConfig`) written as `text`; None for "not set".

    Args:
        field: a field of `ServingConfig`.
        text: the word found: an empty one, `auto`/`-1` for max_model_len and `None` for
            quantization mean "not set".
        where: what to name in an error, e.g. `/etc/vllm.env: MAX_MODEL_LEN`.

    Raises:
        Permanent: the word is no value of that field.
    """
    word = text.strip()
    if not word or (field == "quantization" and word in ("None", "null")):
        return None
    try:
        if field in INTS:
            if field == "max_model_len" and word.lower() in ("auto", "-1"):
                return None
            number = parse_int(word)
            if number < 1:
                raise ValueError
            return number
        if field in FLOATS:
            share = float(word)
            if not 0 < share <= 1:
                raise ValueError
            return share
        if field in BOOLS:
            return parse_bool(word)
    except ValueError:
        allowed = (
            "true or false"
            if field in BOOLS
            else "a share above 0 and up to 1, e.g. 0.85"
            if field in FLOATS
            else "a whole number from 1, e.g. 8192, 16k (16,000) or 16K (16,384)"
        )
        raise Permanent(f"{where}: {word[:80]!r} is no {field}; write {allowed}") from None
    return word


def format_value(value: Any, like: str | None = None) -> str:
    """A value as a word; a boolean in the spelling of `like` (`1`, `True`, `yes`, ...)."""
    if isinstance(value, bool):
        old = (like or "").strip()
        for no, yes in (("0", "1"), ("no", "yes"), ("off", "on")):
            if old.lower() in (no, yes):
                word = yes if value else no
                break
        else:
            word = "true" if value else "false"
        if len(old) > 1 and old.isupper():
            return word.upper()
        return word.capitalize() if old[:1].isupper() else word
    return repr(value) if isinstance(value, float) else str(value)


def refuse_drift(before: ServingConfig, after: ServingConfig, now: ServingConfig, at: str) -> None:
    """Check that every field to change still has the value the plan started from.

    Raises:
        Unsafe: `drifted`, with the first field that differs.
    """
    drifted = before.diff(now)
    for field in before.diff(after).keys() & drifted.keys():
        planned, found = drifted[field]
        raise Unsafe(
            "drifted",
            f"{at}: {field} is {found!r} now, the plan started from {planned!r}; plan again",
        )


def check_edit(before: ServingConfig, after: ServingConfig, now: ServingConfig, at: str) -> None:
    """Check that an edit made in memory reads back as planned, before it is used.

    Raises:
        Permanent: it does not; nothing was changed.
    """
    differs = after.diff(now)
    for field in before.diff(after).keys() & differs.keys():
        planned, found = differs[field]
        raise Permanent(
            f"{at}: setting {field} to {planned!r} would read back as {found!r}; "
            "nothing was changed; edit it by hand"
        )
