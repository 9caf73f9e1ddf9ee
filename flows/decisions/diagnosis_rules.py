"""The rule language and the match of one line; the tables are in the sibling modules.

A rule is one row of a table; rows end with a line or ` ;; `, and `+` continues one. It holds
literals, in lower case, that must follow each other in the log line, separated by ` .. `; after
` !! ` come literals that forbid the match. A row that starts with `~literal~` is a regular
expression, tried only where the literal occurs. No rule can backtrack: literals are found one
after the other, and the regular expressions have only bounded repeats.
"""

import re
from typing import Literal, NamedTuple

Label = Literal[
    "oom_startup_weights",
    "oom_startup_profile",
    "oom_kv_cache",
    "oom_cudagraph",
    "oom_runtime",
    "host_oom_killed",
    "gpu_memory_held",
    "fp8_kv_unsupported",
    "dtype_unsupported",
    "gpu_arch_unsupported",
    "quantization_mismatch",
    "model_not_found",
    "model_gated",
    "max_len_exceeds_model",
    "tokenizer_error",
    "driver_cuda_mismatch",
    "gpu_not_visible",
    "cuda_illegal_access",
    "nccl_or_tp_failure",
    "xid_or_hw_fault",
    "port_in_use",
    "shm_too_small",
    "disk_full",
    "corrupt_weights",
    "engine_dead",
    "kv_preemption",
    "request_too_long",
    "rate_limited_429",
    "proxy_backend_unreachable",
    "tls_certificate",
    "bad_cli_argument",
    "healthy_noise",
]

Tag = Literal[
    "oom",  # GPU memory ran out; the phase decides the label
    "fp8e4nv",  # fp8 format refused; KV cache or not is decided by the context
    "banner",  # a new start begins
    "ready",  # the server of this start is up
    "benign",  # looks bad, is not
    "kv_fp8",  # an fp8 KV cache or an attention kernel is in sight
    "at_weights",
    "at_profile",
    "at_capture",
    "at_kv",
    "at_runtime",
    "at_compile",
    "at_execute",
    "log_weights",
    "log_profile",
    "log_capture",
    "pools",
    "init_failed",
    "shm_wait",
    "stall",  # a step that is known to hang, when nothing follows
    "setting",  # states a configured number
    "errorish",  # looks like a failure to a person
]


class Rule(NamedTuple):
    """One row: what it says (label or tag), how strongly, and how it is matched."""

    says: str
    weight: int
    parts: tuple[str, ...]
    unless: tuple[str, ...]
    regex: re.Pattern[str] | None

    def find(self, low: str) -> int:
        """Position of the match in a lower-case line, or -1."""
        first = at = low.find(self.parts[0])
        if at < 0:
            return -1
        if self.regex is not None:
            hit = self.regex.search(low)
            if hit is None:
                return -1
            first = hit.start()
        else:
            at += len(self.parts[0])
            for part in self.parts[1:]:
                at = low.find(part, at)
                if at < 0:
                    return -1
                at += len(part)
        return -1 if any(word in low for word in self.unless) else first


_ROW_END = re.compile(r"\n| ;; ")
_CONTINUED = re.compile(r"\n *\+")
Table = tuple[tuple[str, int, str], ...]


def compile_table(table: Table) -> tuple[Rule, ...]:
    """Rows of (label or tag, weight, one rule per text line) as rules."""
    rules = []
    for says, weight, block in table:
        for row in filter(None, map(str.strip, _ROW_END.split(_CONTINUED.sub("", block)))):
            body, *unless = (part.strip() for part in row.split(" !! "))
            if body.startswith("~"):
                _, literal, pattern = body.split("~", 2)
                rules.append(
                    Rule(says, weight, (literal,), tuple(unless), re.compile(pattern.strip()))
                )
            else:
                parts = tuple(part.strip(" ") for part in body.split(" .. "))
                rules.append(Rule(says, weight, parts, tuple(unless), None))
    return tuple(rules)


class Match(NamedTuple):
    """A rule that matched, and where."""

    rule: int
    at: int
