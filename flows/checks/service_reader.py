"""One reading of one service, all its parts at once; a part that fails takes no other with it."""

import asyncio
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
from flows.verify import expectation
from tasks.check_reads import Unread, within

T = TypeVar("T")
LOG_BYTES = 4 * 1024 * 1024
SMALL = 64 * 1024
"""A log of so few bytes is counted faster than a thread is found for it."""
DECODE_SHARE = 0.8
"""Of the deadline: a frozen engine must be found to decode nothing before the time is up."""
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
        reader.part("serving", answers(_hurried(target, deadline_s))),
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
        reader.part("image", reader.runtime.image()),
    )
    errors, cut, cause = counted or (None, False, None)
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


def _hurried(target: Target, deadline_s: float) -> Target:
    """The same service, with a completion that is given up before the deadline."""
    policy = target.service.policy
    limit = min(policy.decode_timeout_s, DECODE_SHARE * deadline_s)
    policy = policy.model_copy(update={"decode_timeout_s": limit})
    return target.model_copy(
        update={"service": target.service.model_copy(update={"policy": policy})}
    )


async def _log(
    runtime: Runtime,
    seen: ServiceReading,
    target: Target,
    since: datetime,
    now: datetime,
    logs: asyncio.Semaphore,
) -> tuple[LogErrors, bool, Diagnosis | None]:
    """The error lines of the log, whether it was cut, and the cause where it does not serve."""
    async with logs:
        log = await runtime.read_log(LOG_BYTES, since)
        if len(log) <= SMALL:
            errors = group(log, since, now)
        else:
            errors = await asyncio.to_thread(group, log, since, now)
        cut = len(log) >= LOG_BYTES
        state = seen.state
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
