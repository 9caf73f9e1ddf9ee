"""The log of a container's latest start, out of the stream the engine sends. No I/O of its own."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from blocks.docker_inspect import Doc, time_of

_EARLY = timedelta(milliseconds=50)
"""The engine notes StartedAt some ms after the process wrote its first line; a restart by policy
comes 100 ms after the end at the earliest."""
_BYTES_PER_LINE = 8
"""Fewest bytes a line is taken to have: bounds what the engine sends for one read."""
_HEADER = 8
"""Bytes before each frame: stream number, three zeros, length (4 bytes, big endian)."""


def since(doc: Doc) -> str | None:
    """Where the latest start begins, as the engine's `since`; None if it was never started."""
    started = time_of(doc["State"].get("StartedAt"))
    if not started:
        return None
    begin = started - _EARLY
    finished = time_of(doc["State"].get("FinishedAt"))
    if finished and finished < started:
        begin = max(begin, finished)
    return f"{int(begin.timestamp())}.{begin.microsecond:06d}000"


def lines_for(max_bytes: int) -> int:
    """How many last lines to ask for to be sure of `max_bytes`."""
    return max(1000, max_bytes // _BYTES_PER_LINE)


def plain(doc: Doc, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What the container wrote: with a terminal the stream is raw, else it comes in frames."""
    return iter(chunks) if doc["Config"].get("Tty") else _frames(chunks)


def _frames(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Payloads of stdout and stderr in their order, wherever the chunks were cut."""
    head, left = b"", 0
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if left:
                part = chunk[at : at + left]
                left -= len(part)
                at += len(part)
                yield part
                continue
            part = chunk[at : at + _HEADER - len(head)]
            head += part
            at += len(part)
            if len(head) == _HEADER:
                left, head = int.from_bytes(head[4:], "big"), b""


def tail(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    """The last `max_bytes` bytes, with at most about three times that held meanwhile."""
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        if len(kept) > 2 * max_bytes:
            del kept[: len(kept) - max_bytes]
    return bytes(kept[max(0, len(kept) - max_bytes) :])
