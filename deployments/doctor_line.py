"""One line of `runbooks doctor`, and how a check becomes lines whatever happens to it. Light."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from blocks.deadline import ended
from blocks.errors import RunbookError
from blocks.models import Frozen
from flows.decisions.finding import WORST_FIRST, Status

DEADLINE_S = 20.0
"""Of one check; then it is unknown and the report does not wait for it."""
CLEAN_UP_S = 0.5
"""For one that is late: a command it started is ended before the report, and the loop, are over."""


class Line(Frozen):
    """What one check found of one thing. What could not be looked at is `unknown`, never `ok`."""

    area: str
    """`inventory`, `secret`, `service`, `metrics`, `host`, `slack`, `prefect`, `machine`, ..."""
    subject: str
    status: Status
    message: str
    fix: str = ""
    """The exact command or edit that mends it; empty for ok."""


Check = Callable[[], Awaitable[list[Line]]]


async def run_checks(
    checks: Iterable[tuple[str, str, Check]], deadline_s: float = DEADLINE_S
) -> list[Line]:
    """All at once; one that does not end in time is left behind, and its line says so.

    Args:
        checks: area, subject and check of each.
        deadline_s: seconds.
    """
    return [
        line
        for lines in await asyncio.gather(*(_one(*check, deadline_s) for check in checks))
        for line in lines
    ]


async def _one(area: str, subject: str, check: Check, deadline_s: float) -> list[Line]:
    task = await ended(deadline_s, check(), CLEAN_UP_S)
    if task is None:
        why = f"no answer within {deadline_s:g} s"
        return [_line(area, subject, "unknown", why, "look at it by hand: is it up?")]
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, RunbookError):
        message, _, fix = str(error).partition("; ")
        return [_line(area, subject, "fail", message, fix or "see the message")]
    # What a bug or an odd answer says may hold anything: only its kind is repeated.
    why = f"the check itself failed ({type(error).__name__})"
    return [_line(area, subject, "unknown", why, "report it, with the version of llm-runbooks")]


def _line(area: str, subject: str, status: Status, message: str, fix: str) -> Line:
    return Line(area=area, subject=subject, status=status, message=message[:400], fix=fix[:400])


def worst_first(lines: Iterable[Line]) -> tuple[Line, ...]:
    """In the order people read them."""
    return tuple(
        sorted(lines, key=lambda x: (WORST_FIRST.index(x.status), x.area, x.subject, x.message))
    )
