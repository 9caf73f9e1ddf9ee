"""What the next check must know of this one: pure."""

from collections.abc import Iterable
from datetime import datetime

from blocks.check_memory import CheckMemory, Remembered
from flows.decisions.check_services import ServiceReading


def remember(
    before: CheckMemory | None, readings: Iterable[ServiceReading], now: datetime
) -> CheckMemory:
    """The memory after a check.

    A service that could not be read keeps what was known of it, so that its restarts and the
    drift of its config are counted from the last reading, however many checks failed between.
    A service that is no longer in the inventory is forgotten.
    """
    known = before.services if before else {}
    kept = {}
    for reading in readings:
        old, state = known.get(reading.name), reading.state
        config = reading.config or (old.config if old else None)
        if state is not None and state.started_at is not None:
            kept[reading.name] = Remembered(
                at=now,
                instance=state.instance,
                restarts=state.restarts,
                started_at=state.started_at,
                config=config,
            )
        elif old is not None:
            kept[reading.name] = old.model_copy(update={"config": config})
        elif config is not None:
            kept[reading.name] = Remembered(at=now, config=config)
    return CheckMemory(at=now, services=kept)
