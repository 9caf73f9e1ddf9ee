"""The words of vLLM's command line and which serving field each of them sets. Pure.

Source: vLLM `FlexibleArgumentParser` and `EngineArgs.add_cli_args` (0.12 and later).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from blocks.errors import Permanent
from blocks.serving_values import BOOLS
from blocks.shell_words import Word, read_commands

SHORTEST = {
    "max_model_len": "max-mo",
    "gpu_memory_utilization": "gpu-mem",
    "max_num_seqs": "max-num-s",
    "max_num_batched_tokens": "max-num-b",
    "kv_cache_dtype": "kv-cache-d",
    "enforce_eager": "enf",
    "tensor_parallel_size": "tensor-p",
    "quantization": "quantization",
    "dtype": "dt",
    "model": "model",
    "served_model_name": "served-m",
}
"""Field -> its shortest prefix that argparse cannot mistake for another option of vLLM."""
_SHORT = {"-tp": "tensor_parallel_size", "-q": "quantization"}
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "busybox"})
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Found:
    """One setting of a field: words[start:end]; its value is in words[at], after `prefix`."""

    field: str
    text: str
    start: int
    end: int
    at: int
    prefix: str = ""
    bare: bool = False
    """A boolean flag without a value."""


@dataclass(frozen=True)
class Line:
    """The words of the vLLM command: `words[begin:]` are its arguments."""

    words: list[Word]
    script: int | None
    """Which element of args the words were read from; None: the words are args themselves."""
    serve: bool
    begin: int
    found: list[Found]

    def last(self, field: str) -> Found | None:
        """What counts for a field: the last one, and for the model a flag before a position."""
        mine = [f for f in self.found if f.field == field]
        flags = [f for f in mine if f.start != f.at or f.prefix]
        best = flags or mine
        return best[-1] if best else None


def flag_of(field: str) -> str:
    """The long flag of a serving field."""
    return "--" + field.replace("_", "-")


def is_negated(flag: str) -> bool:
    """True for `--no-...`."""
    return flag.startswith(("--no-", "--no_"))


def _field_of(name: str) -> str | None:
    if not name.startswith("--"):
        return _SHORT.get(name)
    key = name[2:].replace("_", "-").removeprefix("no-")
    for field, shortest in SHORTEST.items():
        negatable = field in BOOLS or not is_negated(name)
        if negatable and key.startswith(shortest) and field.replace("_", "-").startswith(key):
            return field
    return None


def parse_line(args: Sequence[str]) -> Line:
    """Find vLLM's command in a container's arguments (a list, or one `sh -c` string in it).

    Raises:
        Permanent: a flag without its value, or a shell string that cannot be understood.
    """
    script = _script_index(args)
    if script is None:
        words = [Word(a, 0, 0) for a in args]
    else:
        try:
            words = _vllm_command(read_commands(args[script]))
        except ValueError as e:
            raise Permanent(
                f"arguments: the shell string cannot be read: {e}; "
                "write the arguments as a list or keep the numbers in a file"
            ) from None
    texts = [w.text for w in words]
    begin, serve = 0, False
    for i, text in enumerate(texts):
        if text == "serve" and (i == 0 or "vllm" in texts[i - 1]):
            begin, serve = i + 1, True
            break
        if text.startswith("vllm.entrypoints") or text.endswith("api_server.py"):
            begin = i + 1
    found: list[Found] = []
    if begin < len(texts) and (serve or (begin == 0 and _looks_like_model(texts[0]))):
        if not texts[begin].startswith("-"):
            found.append(Found("model", texts[begin], begin, begin + 1, begin))
    _scan(texts, begin, found)
    return Line(words, script, serve, begin, found)


def _scan(texts: list[str], begin: int, found: list[Found]) -> None:
    """Append what each known flag in texts[begin:] sets."""
    for i in range(begin, len(texts)):
        name, equals, value = texts[i].partition("=")
        field = _field_of(name)
        if not field and re.fullmatch(r"-q\w+", name):  # argparse: -qawq
            field, name, equals, value = "quantization", "-q", "-q", texts[i][2:]
        if not field:
            continue
        if equals:
            prefix = name if equals == "-q" else name + equals
            found.append(Found(field, value, i, i + 1, i, prefix))
            continue
        follows = texts[i + 1] if i + 1 < len(texts) else None
        if field in BOOLS:
            if follows and follows.lower() in ("true", "false") and not is_negated(name):
                found.append(Found(field, follows, i, i + 2, i + 1))
            else:
                found.append(Found(field, "", i, i + 1, i, name, bare=True))
            continue
        if follows is None or (follows.startswith("-") and not _NEGATIVE.fullmatch(follows)):
            raise Permanent(f"arguments: {texts[i]} has no value; write {flag_of(field)} VALUE")
        end = i + 2
        while field == "served_model_name" and end < len(texts) and texts[end][:1] != "-":
            end += 1
        found.append(Found(field, follows, i, end, i + 1))


def _looks_like_model(text: str) -> bool:
    path = PurePosixPath(text)
    return _HUB_ID.fullmatch(text) is not None or (
        path.is_absolute() and path.suffix not in (".sh", ".py") and "bin" not in path.parts
    )


def _script_index(args: Sequence[str]) -> int | None:
    if len(args) == 1 and re.search(r"\s", args[0]):
        return 0
    for i, option in enumerate(args[:-1]):
        if re.fullmatch(r"-[eilux]{0,4}c", option) and re.search(r"\s", args[i + 1]):
            earlier = args[:i]
            if all(a.startswith("-") for a in earlier) or any(
                PurePosixPath(a).name in _SHELLS for a in earlier
            ):
                return i + 1
    return None


def _vllm_command(commands: list[list[Word]]) -> list[Word]:
    def named(words: list[Word]) -> bool:
        texts = [w.text for w in words]
        return any(
            t.startswith("vllm.entrypoints")
            or (PurePosixPath(t).name == "vllm" and "serve" in texts[i:])
            for i, t in enumerate(texts)
        )

    def flagged(words: list[Word]) -> bool:
        return any(w.text[:2] == "--" and _field_of(w.text.partition("=")[0]) for w in words)

    mine = [c for c in commands if named(c)] or [c for c in commands if flagged(c)]
    if len(mine) > 1:
        raise ValueError(f"it holds {len(mine)} vLLM commands, not one")
    return mine[0] if mine else []
