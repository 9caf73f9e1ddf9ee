"""Error lines of a log, grouped by what they say. Pure, and linear in the size of the log."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import merge

from blocks.models import Frozen
from flows.decisions.diagnosis_evidence import read_line
from flows.decisions.diagnosis_text import CLIP_BYTES, clean, redact

SAMPLE_CHARS = 160
MOST_GROUPS = 500
"""More different messages than this are counted together."""
OTHERS = "other messages"
SHOWN = 10
NEEDLES = (
    b"ERROR", b"CRITICAL", b"FATAL", b"Error", b"Exception", b"Traceback (most",
    b'"error"', b'"critical"', b'"fatal"', b"=error", b"=fatal", b"=critical", b": error: ",
)  # fmt: skip
"""A line without one of these is no error line."""

_LEVEL = re.compile(
    r"\b(DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL)\b"
    r"|\"?\b(?i:level|levelname|severity)\"?[=:] {0,2}\"?(\w{4,9})"
)
_BAD = ("error", "critical", "fatal")
# The end of a traceback, or what argparse says before it gives up.
_RAISED = re.compile(
    r"^(?:[A-Za-z_]\w{0,80}\.){0,8}\w{0,80}(?:Error|Exception|Interrupt)(?::|$)"
    r"|^[\w.-]{1,80}: error: "
)
_PREFIX = re.compile(
    r"^(?:\([\w ]{1,40} pid=\d+\) ?)?"
    r"(?:(?:DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL):? +)?"
    r"(?:\[?\d[\d\-/:.,TZ+ ]{6,35}\]? ?)?(?:- )?"
    r"(?:[\w .-]{1,40}(?::| - )(?:ERROR|CRITICAL)(?:: | - ))?"
    r"(?:\[?(?:DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL)\]?:? +)?"
    r"(?:\[[\w./-]{1,80}:\d+\] ?|[\w/-]{1,80}\.py:\d+ - )?"
)
_FRAME = re.compile(
    r"^(?: {2,}|\t|File \"|Traceback \(most|During handling of|The above exception was|\^+$|[|+] )"
)
_JSON_MESSAGE = re.compile(r'"(?:message|msg|event|error)": ?"((?:[^"\\]|\\.){1,2000})')

_NORMAL = (
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?:chatcmpl|cmpl|req|resp|run)-[\w-]{4,64}"), "<id>"),
    (re.compile(r"\bhttps?://[^\s'\")]+"), "<url>"),
    (re.compile(r"(?<![\w<])/[\w.@+-]{1,120}(?:/[\w.@+-]{1,120})+"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)[0-9a-f]{12,64}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "#"),
)
_DIGITS = b"0123456789"
_STAMP = re.compile(
    rb"(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,]\d{1,9})? ?(?P<zone>Z|[+-]\d\d:?\d\d)?"
    rb"|(?P<us>\d\d-\d\d \d\d:\d\d:\d\d)|(?P<sys>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)"
    rb"|^\W{0,8}(?P<clock>\d\d:\d\d:\d\d)\b"
)
_CLOCK = re.compile(rb"^(?:\x1b\[[\d;]{0,8}m)?(\d\d:\d\d:\d\d)\b", re.MULTILINE)
_HEAD = 160
"""A time stamp stands in so many first bytes of a line ..."""
_JSON_TAIL = 160
"""... or in so many last ones of a JSON line."""


class ErrorGroup(Frozen):
    """Error lines that say the same, numbers and names of requests aside."""

    count: int
    sample: str
    """The first of them, without prefix and secrets."""


class LogErrors(Frozen):
    """The error lines of one log within the window."""

    count: int
    groups: tuple[ErrorGroup, ...] = ()
    """Most frequent first."""
    dated: bool = True
    """False: no line carried a readable time, so the whole log was counted."""
    reaches: datetime | None = None
    """The first readable time in it: how far back it goes; None: not known."""


def group(log: bytes, since: datetime, now: datetime) -> LogErrors:
    """Count the error lines of a log since a time, grouped by message.

    A line is one with the level ERROR or worse, or the last line of a traceback; the frames of
    a traceback are not counted. What is known to look bad and be benign is left out. A line
    without a readable time belongs to the line before; what stands before the first time counts.

    Args:
        log: raw bytes, any encoding; 4 MiB take about 0.1 s.
        since: aware; older lines are left out.
        now: aware; its zone is that of stamps which name none, and its year of those without.
    """
    stamps = _Stamps(log, now)
    known: dict[bytes, str] = {}
    samples: dict[str, str] = {}
    counts: dict[str, int] = {}
    bare, reached = 0, 0
    for start, end in _suspects(log):
        line = log[start : min(end, start + CLIP_BYTES)]
        at = stamps.of(reached, start, line)
        reached = start
        if at is not None and at < since:
            continue
        key = line.translate(None, _DIGITS)
        template = known.get(key)
        if template is None:
            said = _message(line)
            template = _normal(said)
            if len(known) < 20 * MOST_GROUPS:
                known[key] = template
            if template not in samples and len(samples) < MOST_GROUPS:
                samples[template] = said
        if not template:
            bare += b"Traceback (most" in line
            continue
        template = template if template in samples else OTHERS
        counts[template] = counts.get(template, 0) + 1
    if bare and not counts:
        counts["Traceback without an error line"] = bare
    groups = sorted(counts.items(), key=lambda g: -g[1])
    return LogErrors(
        count=sum(counts.values()),
        groups=tuple(
            ErrorGroup(count=count, sample=samples.get(template, template)[:SAMPLE_CHARS])
            for template, count in groups[:SHOWN]
        ),
        dated=stamps.any or not groups,
        reaches=stamps.first(),
    )


def _suspects(log: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of every line that holds a needle, in order; each found by memory search."""
    before = -1
    for start, end in merge(*(_lines_with(log, needle) for needle in NEEDLES)):
        if start > before:
            yield start, end
        before = start


def _lines_with(log: bytes, needle: bytes) -> Iterator[tuple[int, int]]:
    at, begin = log.find(needle), 0
    while at >= 0:
        start = log.rfind(b"\n", begin, at) + 1 or begin
        end = log.find(b"\n", at)
        begin = len(log) if end < 0 else end
        yield start, begin
        at = log.find(needle, begin)


def _message(line: bytes) -> str:
    """What an error line says, redacted; empty when it is none, a frame, or benign noise."""
    text, low = clean(line)
    level = _LEVEL.search(text if text.startswith("{") else text[:_HEAD])
    named = (level[1] or level[2]).lower() if level else ""
    bare = _RAISED.match(text)
    # The last line of a traceback may quote a level somewhere in its text.
    if named not in _BAD and not bare:
        return ""
    if text.startswith("{") and (inner := _JSON_MESSAGE.search(text)):
        said = inner[1].replace('\\"', '"').replace("\\n", " ")
    else:
        said = _PREFIX.sub("", text, count=1)
    if not said.strip() or _FRAME.match(said) or "benign" in read_line(low).tags:
        return ""
    return " ".join(redact(said).split())[:1000]


def _normal(text: str) -> str:
    for pattern, word in _NORMAL:
        text = pattern.sub(word, text)
    return text[:300]


class _Stamps:
    """When the lines of one log were written."""

    def __init__(self, log: bytes, now: datetime) -> None:
        self._log, self._now = log, now
        self._last: datetime | None = None
        self._known: dict[bytes, datetime | None] = {}
        self._turns: list[int] | None = None
        self._day = now
        self.any = False

    def of(self, reached: int, start: int, line: bytes) -> datetime | None:
        """The time of the line at `start`, from it or the nearest one before, back to `reached`."""
        if (at := self._read(line, start)) is None:
            end = start - 1
            while end > reached:
                begin = self._log.rfind(b"\n", reached, end) + 1 or reached
                at = self._read(self._log[begin : min(end, begin + CLIP_BYTES)], begin)
                if at is not None:
                    break
                end = begin - 1
        self._last = at or self._last
        return self._last

    def first(self) -> datetime | None:
        """The time of the first line that has one, of the first five thousand.

        A busy server's access lines tell none, and many stand between two that do.
        """
        end = -1
        for _ in range(5000):
            start = end + 1
            if (end := self._log.find(b"\n", start)) < 0:
                break
            at = self._read(self._log[start : min(end, start + CLIP_BYTES)], start)
            if at is not None:
                return at
        return None

    def _read(self, line: bytes, start: int) -> datetime | None:
        found = _STAMP.search(line[:_HEAD])
        if found is None and line[:1] == b"{":
            found = _STAMP.search(line[-_JSON_TAIL:])
        if found is None:
            return None
        if found["clock"]:
            return self._clock(found["clock"], start)
        if found[0] not in self._known:
            if len(self._known) > 5000:
                self._known.clear()
            self._known[found[0]] = self._parse(found)
        at = self._known[found[0]]
        self.any = self.any or at is not None
        return at

    def _parse(self, found: re.Match[bytes]) -> datetime | None:
        try:
            if found["iso"]:
                zone = (found["zone"] or b"").decode().replace("Z", "+00:00")
                at = datetime.fromisoformat(found["iso"].decode() + zone)
                return at if at.tzinfo else at.replace(tzinfo=self._now.tzinfo or UTC)
            text, form = (
                (found["us"], "%m-%d %H:%M:%S") if found["us"] else (found["sys"], "%b %d %H:%M:%S")
            )
            # vLLM and the journal leave the year out: the latest that is not in the future.
            for year in (self._now.year, self._now.year - 1):
                whole = f"{year} {text.decode()}"
                at = datetime.strptime(whole, f"%Y {form}").replace(tzinfo=self._now.tzinfo)
                if at <= self._now + timedelta(days=1):
                    return at
        except ValueError:
            pass
        return None

    def _clock(self, text: bytes, start: int) -> datetime | None:
        """LiteLLM writes the time of day only: the days are counted back from the last line."""
        if self._turns is None:
            self._turns, before = [], b""
            for hit in _CLOCK.finditer(self._log):
                # Processes that share a log are seconds apart, never most of a day.
                if before and int(hit[1][:2]) + 12 < int(before[:2]):
                    self._turns.append(hit.start())
                before = hit[1]
            latest = f"{self._now + timedelta(minutes=5):%H:%M:%S}".encode()
            self._day = self._now - timedelta(days=(before or text) > latest)
        days = len(self._turns) - bisect_right(self._turns, start)
        hour, minute, second = (int(part) for part in text.split(b":"))
        if hour > 23 or minute > 59 or second > 59:
            return None
        self.any = True
        day = self._day - timedelta(days=days)
        return day.replace(hour=hour, minute=minute, second=second, microsecond=0)
