"""Which run escalates an incident: one at a time, each going on where the one before died."""

from datetime import UTC, datetime

from blocks.errors import Unsafe
from blocks.incidents import Lead, Led, lead, read_fate, read_lead
from flows.escalation_state import Escalation


async def take(run: Escalation) -> None:
    """Become the one run that escalates this incident; a run that has ended is followed.

    A worse severity takes over from a run that goes on: its people and its times are others.

    Raises:
        Unsafe: `locked`, another run does it, and has not ended.
    """
    while True:
        found = await read_lead(run.opened.id)
        latest = found.runs[-1] if found.runs else None
        if mine := next((led for led in found.runs if led.run_id == run.run_id), None):
            break
        if latest:
            await _follow(run, latest)
        mine = Led(
            run_id=run.run_id,
            at=datetime.now(UTC),
            severity=run.severity,
            round=await _round(run, found),
        )
        if await lead(run.opened.id, found.turn, mine):
            break
    run.round = mine.round
    # The time to answer began with the first run of this round, which called people.
    same = [led.at for led in found.runs if (led.severity, led.round) == (run.severity, run.round)]
    run.called_at = min([*same, mine.at])


async def _follow(run: Escalation, latest: Led) -> None:
    """Come after the run that had the incident. Raises Unsafe: it has not ended."""
    who = f"run {latest.run_id[:8]}"
    if await read_fate(latest.run_id) != "alive":
        run.note(f"continues where {who} ended")
    elif latest.severity is None or run.severity >= latest.severity:
        raise Unsafe("locked", f"already being escalated by {who}: {run.opened.id}")
    else:
        run.note(f"takes over from {who}: {latest.severity} became {run.severity}")


async def _round(run: Escalation, found: Lead) -> int:
    """The round that this run goes on with: where one died, its own; else a new one.

    Who starts an escalation anew after its path was gone through wants people to be told again.
    """
    same = [led for led in found.runs if led.severity in (run.severity, None)]
    if not same:
        return 0
    done = await read_fate(same[-1].run_id) == "done"
    return same[-1].round + done
