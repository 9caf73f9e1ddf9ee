"""How far back a log that was read goes: zero errors of its last hour are none of a night. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

START = timedelta(minutes=10)
"""A server loads its libraries before it writes its first line: so late, a log is still whole."""

_LAST = re.compile(r"(?:^|\s)(?:-n *|--(?:tail|lines)[= ]|-)(\d+)(?=\s|$)")


def most_lines(argv: Sequence[str]) -> int | None:
    """How many last lines a logs command asks for, e.g. `docker logs --tail 20000`; else None."""
    found = [int(number) for number in _LAST.findall(" ".join(argv))]
    return min(found, default=None)


def cut_short(
    log: bytes,
    argv: Sequence[str],
    reaches: datetime | None,
    since: datetime,
    started_at: datetime | None,
) -> str:
    """Why what a logs command printed is not all of the log since a time; empty where it is.

    A log that begins with the service itself is whole. One that begins later was cut, by the
    command or by a rotation, unless it goes back to `since`.

    Args:
        log: what the command printed.
        argv: the command.
        reaches: the first time in it; None: no line tells one.
        since: how far back it should go.
        started_at: the latest start of the service; None: not known.
    """
    if not log or (reaches is not None and reaches <= since):
        return ""
    lines, most = log.count(b"\n"), most_lines(argv)
    if most is not None and lines >= most:
        return f"runtime.logs printed the last {most} lines"
    if reaches is None:
        return "" if most is not None else "no line of it tells a time"
    if started_at is not None and reaches <= started_at + START:
        return ""
    return "what runtime.logs printed begins after the service's start"
