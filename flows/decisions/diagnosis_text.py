"""Raw log bytes to clean, bounded, redacted text lines; pure and linear in the input."""

import json
import re
from collections.abc import Iterable, Iterator

CLIP_BYTES = 4096
"""A longer line is judged by its first and last so many bytes."""
FULL_LINES = 2000
"""So many lines are always judged in full; later ones only when the pre-filter lets them pass."""
SHORTEST = 6
"""No shorter line decides anything ("Killed")."""
BLOCK_BYTES = 1 << 18

NEEDLES = (
    b"rror", b"fail", b"xcepti", b"out of mem", b"captur", b"version", b"startup comp",
    b"blocks:", b"preempt", b"refuse", b"too many", b"ontext len",
)  # fmt: skip
"""An INFO line without one of these decides nothing (lower case is compared)."""

_ANSI = re.compile(rb"(?:\x1b|\\u001b)\[[0-9;?]{0,32}[A-Za-z]")
_SECRETS = (
    (re.compile(r"\b(hf_|sk-|ghp_|xox[abep]-|xapp-|glpat-|nvapi-)[\w.-]{4,}"), r"\1[redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}"), r"\1 [redacted]"),
    (
        re.compile(
            r"(?i)((?:pass(?:word|wd)?|secret|token|api[_-]?key|access[_-]?key)"
            r"[\"']{0,2}\s{0,3}[=:]\s{0,3}[\"']{0,2})(?!none\b|null\b|\[redacted)[^\s\"',;&)}]{4,}"
        ),
        r"\1[redacted]",
    ),
    (
        re.compile(r"(\s--[a-z-]{0,40}(?:key|token|secret|password)[ =]+)[^\s-]\S{3,}"),
        r"\1[redacted]",
    ),
    (
        re.compile(r"\b([A-Z0-9_]{0,60}(?:KEY|TOKEN|SECRET|PASSWORD)\s?=\s?[\"']?)[^\s\"']{4,}"),
        r"\1[redacted]",
    ),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,}"), "[redacted]"),
    (re.compile(r"(hooks\.slack\.com/)[\w/-]{8,}"), r"\1[redacted]"),
    (re.compile(r"(://)[^\s/@:]{0,256}:[^\s/@]{1,256}@"), r"\1[redacted]@"),
    (re.compile(r"\bAKIA[0-9A-Z]{12,20}\b"), "AKIA[redacted]"),
)


def redact(text: str) -> str:
    """The text without tokens, keys, passwords and user data of URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _pieces(log: object) -> Iterator[bytes]:
    """The log as byte pieces of at most a block each, whatever form it came in."""
    if isinstance(log, str):
        for start in range(0, len(log), BLOCK_BYTES):
            yield log[start : start + BLOCK_BYTES].encode("utf-8", "replace")
    elif isinstance(log, bytes | bytearray | memoryview):
        view = memoryview(log)
        for start in range(0, len(view), BLOCK_BYTES):
            yield bytes(view[start : start + BLOCK_BYTES])
    elif callable(read := getattr(log, "read", None)):
        while piece := read(BLOCK_BYTES):
            yield from _pieces(piece) if isinstance(piece, str) else (bytes(piece),)
    elif isinstance(log, Iterable):
        small: list[bytes] = []
        size = 0
        for item in log:
            piece = item.encode("utf-8", "replace") if isinstance(item, str) else bytes(item)
            if len(piece) > BLOCK_BYTES:
                yield b"".join(small)
                small, size = [], 0
                yield from _pieces(piece)
                continue
            small.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                yield b"".join(small)
                small, size = [], 0
        yield b"".join(small)


def _clip(line: bytes) -> bytes:
    """First and last part of a long line; the tail starts at a word, so no half secret shows."""
    if len(line) <= 2 * CLIP_BYTES:
        return line
    tail = line[-CLIP_BYTES:]
    cut = tail.find(b" ")
    return line[:CLIP_BYTES] + b" ... " + (tail[cut + 1 :] if cut >= 0 else b"")


def _is_routine(line: bytes) -> bool:
    """True for a line whose level is INFO or DEBUG (looked for at its start only)."""
    head = line[:120]
    return b"INFO" in head or b"info" in head or b"DEBUG" in head


def candidates(log: object) -> Iterator[bytes]:
    """Lines that may decide something, clipped; the same for any chunking of the same bytes."""
    head, tail, long, seen = b"", b"", False, 0
    for piece in _pieces(log):
        if b"\0" in piece:
            piece = piece.translate(None, b"\0")
        if b"\r" in piece:
            piece = piece.replace(b"\r", b"\n")
        end = piece.rfind(b"\n")
        if end < 0:
            # No line end: keep only what _clip would keep, so that memory stays bounded.
            if long:
                tail = (tail + piece)[-CLIP_BYTES:]
            else:
                head += piece
                if len(head) > 2 * CLIP_BYTES:
                    long, tail, head = True, head[-CLIP_BYTES:], head[:CLIP_BYTES]
            continue
        body, rest = piece[:end], piece[end + 1 :]
        if long:
            first, _, body = body.partition(b"\n")
            body = _joined(head, (tail + first)[-CLIP_BYTES:]) + b"\n" + body
        elif head:
            body = head + body
        head, tail, long = rest, b"", False
        if len(head) > 2 * CLIP_BYTES:
            long, tail, head = True, head[-CLIP_BYTES:], head[:CLIP_BYTES]
        lines = body.split(b"\n")
        if seen < FULL_LINES:
            for at, line in enumerate(lines):
                if line and not line.isspace():
                    if seen >= FULL_LINES:
                        lines = lines[at:]
                        break
                    seen += 1
                    yield _clip(line)
            else:
                continue
            body = b"\n".join(lines)
        yield from _filtered(body, lines)
    if long:
        yield _clip(_joined(head, tail))
    elif head and not head.isspace():
        yield from (head,) if seen < FULL_LINES else _filtered(head, [head])


def _joined(head: bytes, tail: bytes) -> bytes:
    """Stand-in for a long line: longer than the clip, with the same head and tail."""
    return head + b" " * (CLIP_BYTES + 1) + tail


def _filtered(body: bytes, lines: list[bytes]) -> Iterator[bytes]:
    """The pre-filter: every line that is not routine, long, or holds a needle."""
    low = body.lower()
    present = [needle for needle in NEEDLES if needle in low]
    for line in [line for line in lines if len(line) >= SHORTEST]:
        if line.isspace():
            continue
        if len(line) > 2 * CLIP_BYTES:
            yield _clip(line)
        elif not _is_routine(line):
            yield line
        elif present:
            lowered = line.lower()
            if any(needle in lowered for needle in present):
                yield line


def clean(raw: bytes) -> tuple[str, str]:
    """One candidate line as (text, lower-case text) of equal length, unwrapped, uncoloured."""
    raw = raw.strip()
    if b"\x1b" in raw or b"u001b" in raw:
        raw = _ANSI.sub(b"", raw)
    if raw.startswith(b'{"log":"'):
        try:
            inner = json.loads(raw)["log"]
            raw = str(inner).strip().encode("utf-8", "replace")
        except (ValueError, TypeError, KeyError, RecursionError):
            raw = raw[8:].replace(b'\\"', b'"')
        raw = _ANSI.sub(b"", raw)
    return raw.decode("utf-8", "replace"), raw.lower().decode("utf-8", "replace")
