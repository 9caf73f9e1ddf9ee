"""One reading of one service, all its parts at once; a part that fails takes no other with it."""

import asyncio
import math
import time
from collections.abc import Awaitable
from datetime import datetime
from typing import TypeVar

from blocks.models import ServiceState, Serving, ServingConfig
from blocks.runtime import Runtime
from blocks.target import Target, answers, runtime_of
from flows.decisions.check_services import ServiceReading
from flows.decisions.diagnosis import Diagnosis, diagnose
from flows.decisions.health import judge
from flows.decisions.log_errors import LogErrors, group
from flows.decisions.log_window import cut_short
from flows.verify import expectation
from tasks.check_reads import Unread, within

T = TypeVar("T")
LOG_BYTES = 4 * 1024 * 1024
SMALL = 64 * 1024
"""A log of so few bytes is counted faster than a thread is found for it."""
DECODE_SHARE = 0.8
"""Of the deadline: a frozen engine must be found to decode nothing before the time is up."""
NO_TOKEN = "no token within"  # noqa: S105 - what a server is said not to answer
MOST_DEADLINE_S = 300
"""`checks.deadline_s` goes up to here."""
SETTLE_S = 0.25
"""Kept back of the deadline, so that the parts that were read are told."""


async def read_service(
    target: Target, since: datetime, now: datetime, deadline_s: float, logs: asyncio.Semaphore
) -> ServiceReading:
    """State, answers, config, image and error lines of one service, now.

    The log is counted here and dropped: no reading holds one.

    Args:
        target: the service.
        since: error lines before it do not count (aware).
        now: the time of the check (aware).
        deadline_s: for all of it; what is late is missing, with the reason.
        logs: how many logs are in memory at once.

    Raises:
        Permanent: the service has no adapter.
    """
    reader = _Reader(target, deadline_s)
    state, serving, config = await asyncio.gather(
        reader.part("state", reader.runtime.state()),
        reader.part("serving", _answers(target, deadline_s)),
        reader.part("config", reader.runtime.read_config()),
    )
    found = ServiceReading(name=target.name, state=state, serving=serving, config=config)
    if state is None or state.phase == "unknown":
        # Who does not tell the state tells no log either, and each try costs a time-out.
        why = reader.problems.get("state") or (state.detail if state else "")
        reader.problems |= {part: why for part in ("log", "image")}
        return found.model_copy(update={"problems": reader.problems})
    counted, image = await asyncio.gather(
        reader.part("log", _log(reader.runtime, found, target, since, now, logs)),
        reader.part("image", _image(reader.runtime, state)),
    )
    errors, cut, cause = counted or (None, "", None)
    return found.model_copy(
        update={
            "errors": errors,
            "log_cut": cut,
            "diagnosis": cause,
            "image": image,
            "problems": reader.problems,
        }
    )


class _Reader:
    """Reads parts until the deadline and notes why one is missing."""

    def __init__(self, target: Target, deadline_s: float) -> None:
        self.runtime: Runtime = runtime_of(target)
        self.problems: dict[str, str] = {}
        self._deadline_s = deadline_s
        self._until = time.monotonic() + deadline_s - min(SETTLE_S, deadline_s / 10)

    async def part(self, name: str, read: Awaitable[T]) -> T | None:
        """One part; None when it could not be read."""
        value = await within(read, self._until - time.monotonic())
        if not isinstance(value, Unread):
            return value
        late = value.reason.startswith("not read within")
        self.problems[name] = f"not read within {self._deadline_s:g} s" if late else value.reason
        return None


async def _image(runtime: Runtime, state: ServiceState) -> str:
    return state.image or await runtime.image()


async def _answers(target: Target, deadline_s: float) -> Serving:
    """What it answers, its completion given up before the deadline.

    A service that may take longer for a token than a whole check has not failed by then.
    """
    policy = target.service.policy
    allowed = policy.decode_timeout_s
    hurried = policy.model_copy(
        update={"decode_timeout_s": min(allowed, DECODE_SHARE * deadline_s)}
    )
    service = target.service.model_copy(update={"policy": hurried})
    seen = await answers(target.model_copy(update={"service": service}))
    if allowed <= deadline_s or seen.decoded is not False or NO_TOKEN not in seen.problem:
        return seen
    enough = math.ceil(allowed / DECODE_SHARE)
    why = f"{seen.problem}; {allowed:g} s are allowed: raise checks.deadline_s to {enough}"
    if enough > MOST_DEADLINE_S:
        why = f"{seen.problem}; {allowed:g} s are allowed, more than a check may take"
    return seen.model_copy(update={"decoded": None, "problem": why})


async def _log(
    runtime: Runtime,
    seen: ServiceReading,
    target: Target,
    since: datetime,
    now: datetime,
    logs: asyncio.Semaphore,
) -> tuple[LogErrors, str, Diagnosis | None]:
    """The error lines of the log, why it is not all, and the cause where it does not serve."""
    async with logs:
        log = await runtime.read_log(LOG_BYTES, since)
        if len(log) <= SMALL:
            errors = group(log, since, now)
        else:
            errors = await asyncio.to_thread(group, log, since, now)
        state, how = seen.state, target.service.runtime
        cut = f"its last {LOG_BYTES >> 20} MiB" if len(log) >= LOG_BYTES else ""
        if how.kind == "command" and not cut:
            began = state.started_at if state else None
            cut = cut_short(log, how.logs, errors.reaches, since, began)
        if state is None or not _sick(target, state, seen.serving, seen.config):
            return errors, cut, None
        # It may have ended before the window began.
        log = log or await runtime.read_log(LOG_BYTES)
        code = state.exit_code if state.phase in ("exited", "restarting") else None
        cause = await asyncio.to_thread(diagnose, log, code, state.oom_killed)
        return errors, cut, cause


def _sick(
    target: Target, state: ServiceState, serving: Serving | None, config: ServingConfig | None
) -> bool:
    expected = expectation(target, config or ServingConfig())
    return judge(state, serving, expected).status in ("broken", "loading")
