"""What one log shows: a bounded record of rule matches per start, filled line by line."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from flows.decisions.diagnosis_index import Index
from flows.decisions.diagnosis_rules import Match, compile_table
from flows.decisions.diagnosis_rules_gpu import GPU
from flows.decisions.diagnosis_rules_memory import MEMORY
from flows.decisions.diagnosis_rules_model import MODEL
from flows.decisions.diagnosis_rules_serving import SERVING
from flows.decisions.diagnosis_rules_weak import FRAME_WEIGHT, LAST_WEIGHT, WEAK, WEAK_WEIGHT
from flows.decisions.diagnosis_text import candidates, clean, redact

RULES = compile_table(MEMORY + GPU + MODEL + SERVING + WEAK)
INDEX = Index(RULES)
TAGS = frozenset(rule.says for rule in RULES if rule.weight == 0) | {"oom", "fp8e4nv"}

FRAMES = tuple("at_" + w for w in "runtime capture profile kv weights compile execute".split())
LOGS = ("log_weights", "log_profile", "log_capture", "ready")
WINDOW_LINES = 120
AFTER_LINES = 40
LINE_CHARS = 400

SOFT_LABELS = frozenset(
    (
        "bad_cli_argument",
        "corrupt_weights",
        "engine_dead",
        "model_not_found",
        "nccl_or_tp_failure",
        "quantization_mismatch",
        "tokenizer_error",
    )
)
"""What a warning or an information line says of these is not what stopped a server."""
PLAIN_WEIGHT = 100
"""Rules of at least this weight are believed in a warning too."""
_MILD = re.compile(
    r"\b(?:warning|info)\b:? {1,3}(?:\[|\d\d-\d\d|\d\d:\d\d|\w{1,60}\.py:)|\b[a-z]{3,24}warning:|"
    r"\bwarning: |^info: |\[(?:warning|info)\]|\[w\d{0,4}[ \]]"
)
_STAMP = re.compile(
    r"\d{4}-\d\d-\d\d[t ]\d\d:\d\d:\d\d[.,\d]*z?|\d\d-\d\d \d\d:\d\d:\d\d|pid=\d+|^\[? *\d+\.\d+\]"
)


HEAD_CHARS = 120
"""Time stamps, pids and levels are looked for in so many characters of a line."""


class Reading(NamedTuple):
    """What the rules say of one line."""

    matches: tuple[Match, ...]
    tags: frozenset[str]
    mild: bool


@lru_cache(maxsize=4096)
def _read(low: str) -> Reading:
    matches = tuple(
        Match(number, at) for number in INDEX.possible(low) if (at := RULES[number].find(low)) >= 0
    )
    tags = frozenset(RULES[m.rule].says for m in matches) & TAGS
    return Reading(matches, tags, _MILD.search(low[:HEAD_CHARS]) is not None)


def read_line(low: str) -> Reading:
    """Matches, tags and level of a lower-case line; remembered without stamps and pids."""
    return _read(_STAMP.sub("", low[:HEAD_CHARS]) + low[HEAD_CHARS:])


SHORTEST_TAIL = 10
CUT_WEIGHT = 50
"""A line that was cut off is completed where no rule of more weight has spoken."""


@lru_cache(maxsize=1)
def _beginnings() -> dict[str, list[int]]:
    """Rules by the beginnings of their last literal: what a line that was cut off may end in."""
    found: dict[str, list[int]] = {}
    for number, rule in enumerate(RULES):
        if rule.weight > WEAK_WEIGHT and rule.regex is None:
            part = rule.parts[-1]
            for length in range(max(SHORTEST_TAIL, len(part) // 2), len(part)):
                found.setdefault(part[:length].strip(), []).append(number)
    return found


def completed(low: str) -> str:
    """A line that was cut off in the middle of a known text, completed; else an empty string."""
    table = _beginnings()
    for length in range(min(60, len(low)), SHORTEST_TAIL - 1, -1):
        tail = low[-length:]
        if tail not in table or low[-length - 1 : -length].isalnum():
            continue
        whole = {}
        for number in table[tail]:
            line = low[:-length] + RULES[number].parts[-1]
            if RULES[number].find(line) >= 0:
                whole[RULES[number].says] = line
        return next(iter(whole.values())) if len(whole) == 1 else ""
    return ""


def _completed_error(low: str, reading: Reading) -> str:
    """The completed last line, where it is an error that nothing else explains."""
    head = low[:HEAD_CHARS]
    if reading.mild or "errorish" not in reading.tags or " info" in head or "warn" in head:
        return ""
    if "benign" in reading.tags or any(RULES[m.rule].weight > WEAK_WEIGHT for m in reading.matches):
        return ""
    return completed(low)


class Hit(NamedTuple):
    """A line on which a rule matched."""

    order: int
    rule: int
    text: str
    at: int
    after_ready: bool


class Shortage:
    """One "out of memory" line with what stood around it; the phase is decided from that."""

    def __init__(self, hit: Hit, line: frozenset[str], seen: dict[str, int], trace: int) -> None:
        self.hit = hit
        self.line = line
        self.seen = seen
        self.trace = trace
        self.after: dict[str, int] = {}

    def frames(self) -> frozenset[str]:
        """Stack-frame tags of the traceback that ends in this line, else of the last lines."""
        here = self.hit.order
        for start in (self.trace, here - WINDOW_LINES):
            oldest = max(start, here - WINDOW_LINES, 0)
            found = {t for t in FRAMES if self.seen.get(t, -1) >= oldest}
            if found:
                return frozenset(found)
        return frozenset()

    def phase(self) -> str:
        """One of weights, profile, capture, runtime."""
        for tags in (self.line, self.frames(), frozenset(self.after)):
            for tag in FRAMES:
                if tag == "at_execute" and tag in tags:
                    return "profile" if self._log() == "log_profile" else "runtime"
                if tag == "at_compile" and tag in tags:
                    return "capture"
                if tag in tags:
                    return tag.removeprefix("at_")
        log = self._log()
        if log == "ready":
            return "runtime"
        if log:
            return log.removeprefix("log_")
        if "pools" in self.line or "pools" in self.seen or "pools" in self.after:
            return "capture"
        if any("init_failed" in near for near in (self.line, self.seen, self.after)):
            return "weights"
        return "runtime"

    def _log(self) -> str:
        """The last phase that a log line announced before, else the first one after."""
        before = [(at, tag) for tag in LOGS if (at := self.seen.get(tag, -1)) >= 0]
        if before:
            return max(before)[1]
        after = [(at, tag) for tag in LOGS if (at := self.after.get(tag, -1)) >= 0]
        return min(after)[1] if after else ""


class Start:
    """Everything kept of one start of the server: first and last hit per rule, no more."""

    def __init__(self) -> None:
        self.hits: dict[tuple[int, bool], tuple[Hit, Hit]] = {}
        self.shortages: dict[bool, Shortage] = {}
        self.seen: dict[str, int] = {}
        self.settings: dict[int, str] = {}
        self.unknown: dict[bool, list[str]] = {False: [], True: []}
        self.fp8: dict[bool, tuple[Hit, bool]] = {}
        self.ready = False
        self.trace = -1
        self.open: Shortage | None = None
        self.open_fp8: bool | None = None
        self.waits = 0
        self.last = -1
        self.stalled: Hit | None = None

    def line(self, order: int, text: str, low: str, reading: Reading) -> None:
        """Take one candidate line in."""
        self.last = order
        if "traceback (most recent" in low:
            self.trace = order
        matches, tags, mild = reading
        if not matches:
            return
        benign = "benign" in tags
        if "ready" in tags:
            self.ready = True
        known = False
        for match in matches:
            rule = RULES[match.rule]
            if mild and rule.says in SOFT_LABELS and rule.weight < PLAIN_WEIGHT:
                continue
            if rule.says == "setting":
                self.settings[match.rule] = text
            if rule.weight == 0 or benign:
                continue
            if rule.weight <= FRAME_WEIGHT:
                if mild or ('file "' not in low and rule.weight > LAST_WEIGHT):
                    continue
            elif rule.weight <= WEAK_WEIGHT and (mild or "errorish" not in tags):
                continue
            known = known or rule.weight > WEAK_WEIGHT
            self._keep(Hit(order, match.rule, text, match.at, self.ready), rule.says, tags)
        if "errorish" in tags and not known and not benign:
            unknown = self.unknown[self.ready]
            if len(unknown) < 6 and "traceback (most" not in low:
                unknown.append(text)
        if "stall" in tags:
            self.stalled = Hit(order, matches[0].rule, text, matches[0].at, self.ready)
        if "shm_wait" in tags:
            self.waits += 1
        self._mark(order, tags)

    def _keep(self, hit: Hit, says: str, tags: frozenset[str]) -> None:
        if says == "oom":
            if self.ready not in self.shortages:
                found = Shortage(hit, tags, dict(self.seen), self.trace)
                self.shortages[self.ready] = self.open = found
        elif says == "fp8e4nv":
            near = "kv_fp8" in tags or hit.order - self.seen.get("kv_fp8", -9999) < WINDOW_LINES
            if self.ready not in self.fp8:
                self.fp8[self.ready] = (hit, near)
                self.open_fp8 = self.ready
        key = (hit.rule, self.ready)
        first, _ = self.hits.get(key, (hit, hit))
        self.hits[key] = (first, hit)

    def _mark(self, order: int, tags: frozenset[str]) -> None:
        for tag in tags:
            self.seen[tag] = order
        if self.open is not None:
            if order - self.open.hit.order > AFTER_LINES:
                self.open = None
            elif order != self.open.hit.order:
                for tag in tags:
                    self.open.after.setdefault(tag, order)
        if self.open_fp8 is not None and "kv_fp8" in tags:
            hit, _ = self.fp8[self.open_fp8]
            if order - hit.order <= AFTER_LINES:
                self.fp8[self.open_fp8] = (hit, True)


def read_starts(log: object) -> tuple[list[Start], bool, int]:
    """The last start that shows something, the last start, whether the log had any line, and how
    many starts show something (count).
    """
    current, earlier, order, ill = Start(), None, -1, 0
    for order, raw in enumerate(candidates(log)):
        text, low = clean(raw)
        reading = read_line(low)
        if "banner" in reading.tags:
            if current.hits:
                earlier, ill = current, ill + 1
            current = Start()
        current.line(order, text, low, reading)
    if order >= 0 and all(RULES[number].weight <= CUT_WEIGHT for number, _ in current.hits):
        if whole := _completed_error(low, reading):
            current.line(order, text, whole, read_line(whole))
    starts = ([earlier] if earlier else []) + [current]
    return starts, order >= 0, ill + bool(current.hits)


def excerpt(hit: Hit) -> str:
    """The redacted part of a line around its match, at most LINE_CHARS long."""
    text = " ".join(redact(hit.text).split())
    if len(text) <= LINE_CHARS:
        return text
    literal = RULES[hit.rule].parts[0]
    at = max(text.lower().find(literal), 0)
    start = max(0, min(at - LINE_CHARS // 4, len(text) - LINE_CHARS + 2))
    return ("…" if start else "") + text[start : start + LINE_CHARS - 2] + "…"


def lines_of(hits: Iterable[Hit], limit: int = 8) -> tuple[str, ...]:
    """Distinct excerpts in the order of the log."""
    seen: dict[str, str] = {}
    for hit in sorted(hits, key=lambda h: (h.order, -RULES[h.rule].weight, h.at)):
        if len(seen) < limit:
            seen.setdefault(hit.text[-LINE_CHARS // 4 :], excerpt(hit))
    return tuple(seen.values())
