"""Incidents, kept as facts on the Prefect server, where the gateway and every host see them.

Each fact is a Prefect Variable that is created once and never changed, so that two writers
cannot lose each other's word: the server refuses the second of a name.
"""

import hashlib
import re
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import AwareDatetime, BeforeValidator, Field, ValidationError

from blocks.alert_routes import Severity
from blocks.incident_fitting import cut_title, fitting
from blocks.models import Frozen

TAG, OPEN = "incident", "open"
PAGE = 200
"""Variables that the server gives at once (Prefect)."""


class Opened(Frozen):
    """An incident begins."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    stack: str
    service: str
    severity: Severity
    title: Annotated[str, BeforeValidator(cut_title)]
    """One line; over 300 characters it is cut: an alert's text must not stop an incident."""
    source: str
    """What opened it: alert, slack, cli, ui, schedule."""
    at: AwareDatetime
    alert: dict[str, str] = {}
    """name, fingerprint, starts_at, summary, url: of the alert that opened it."""


class Acknowledged(Frozen):
    """Somebody has it."""

    by: str
    source: str
    at: AwareDatetime


class Ended(Frozen):
    """It is over."""

    by: str
    how: Literal["resolved", "closed"]
    at: AwareDatetime


class Incident(Frozen):
    """All facts of one."""

    opened: Opened
    acknowledged: Acknowledged | None = None
    ended: Ended | None = None


F = TypeVar("F", Opened, Acknowledged, Ended)
W = TypeVar("W", bound=Frozen)
SUFFIX: dict[type[Frozen], str] = {Opened: "", Acknowledged: "_ack", Ended: "_end"}


async def open_incident(opened: Opened) -> bool:
    """Write its first fact; False when it exists already. Texts that are too long are cut."""
    tags = [TAG, OPEN, f"stack:{opened.stack}", f"service:{opened.service}"]
    async with get_client() as client:
        return await _create(client, f"incident_{opened.id}", opened, tags)


async def add(incident: str, fact: Acknowledged | Ended) -> bool:
    """Write a further fact; False when it was written before (the first one stands)."""
    name = f"incident_{incident}"
    async with get_client() as client:
        new = await _create(client, name + SUFFIX[type(fact)], fact, [TAG])
        if isinstance(fact, Ended) and (found := await client.read_variable_by_name(name)):
            # A label for the search only: killed before it, the fact itself says that it ended.
            tags = [t for t in found.tags or [] if t != OPEN]
            await client._client.patch(f"/variables/name/{name}", json={"tags": tags})
    return new


async def read_incident(incident: str) -> Incident | None:
    """All facts of one incident; None when there is none of that id."""
    async with get_client() as client:
        return await _read(client, incident)


async def open_incidents(stack: str = "", service: str = "") -> list[Incident]:
    """Incidents that have not ended, the oldest first.

    Args:
        stack: of this stack only; empty: of all.
        service: of this service only; empty: of all.
    """
    wanted = [OPEN, *([f"stack:{stack}"] if stack else [])]
    wanted += [f"service:{service}"] if service else []
    async with get_client() as client:
        names = list(await _tagged(client, wanted))
        ids = [n.removeprefix("incident_") for n in names if n.startswith("incident_")]
        found = [i for name in ids if (i := await _read(client, name)) and not i.ended]
    return sorted(found, key=lambda i: i.opened.at)


async def _create(client: PrefectClient, name: str, fact: Frozen, tags: list[str]) -> bool:
    body = {"name": name, "value": fitting(fact), "tags": tags}
    try:
        await client._client.post("/variables/", json=body)
    except PrefectHTTPStatusError as e:
        if e.response.status_code == 409:
            return False
        raise
    return True


async def _tagged(client: PrefectClient, tags: list[str]) -> dict[str, Any]:
    """Name -> value of all Variables with these tags."""
    found: dict[str, Any] = {}
    for offset in range(0, 100 * PAGE, PAGE):
        wanted = {"variables": {"tags": {"all_": tags}}, "limit": PAGE, "offset": offset}
        page = (await client._client.post("/variables/filter", json=wanted)).json()
        found |= {str(v["name"]): v["value"] for v in page}
        if len(page) < PAGE:
            break
    return found


async def _read(client: PrefectClient, incident: str) -> Incident | None:
    opened = await _fact(client, incident, Opened)
    if opened is None:
        return None
    return Incident(
        opened=opened,
        acknowledged=await _fact(client, incident, Acknowledged),
        ended=await _fact(client, incident, Ended),
    )


async def _fact(client: PrefectClient, incident: str, kind: type[F]) -> F | None:
    found = await client.read_variable_by_name(f"incident_{incident}{SUFFIX[kind]}")
    try:
        return kind.model_validate(found.value) if found else None
    except ValidationError:  # edited in the UI: as good as not there
        return None


# ---- escalation: who was told, and which run tells ----------------------------------------------


class Told(Frozen):
    """Somebody is about to be told. Written before, so that a kill does not hide it."""

    role: str
    person: str
    way: str
    at: AwareDatetime
    run_id: str = ""


class Heard(Frozen):
    """What became of it."""

    sent: bool
    problem: str = Field(default="", max_length=500)
    at: AwareDatetime


class Telling(Frozen):
    """One entry of who was told: `heard` is missing where the run was killed in between."""

    number: int
    told: Told
    heard: Heard | None = None


class Led(Frozen):
    """One run escalates the incident, until it has ended or another one takes over."""

    run_id: str
    at: AwareDatetime
    severity: Severity | None = None
    round: int = Field(default=0, ge=0)
    """How often the severity's path was gone through to its end before."""


class Lead(Frozen):
    """Who escalates an incident."""

    turn: int
    """The next one, from 0."""
    runs: tuple[Led, ...] = ()
    """That took it, one after the other; the last one has it."""


def incident_of(run_id: str) -> str:
    """Id of the incident that a run opens: the same run, started again, opens no second one."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:8]


async def tell_once(incident: str, number: int, told: Told) -> bool:
    """Write that somebody is told; False when it was written before.

    Args:
        incident: its id.
        number: of the entry: the same for the same role and way, in every run.
        told: who, and by what.
    """
    return await _written(incident, f"told_{number}", told)


async def heard(incident: str, number: int, fact: Heard) -> bool:
    """Write what became of it; False when that was written before."""
    return await _written(incident, f"told_{number}_heard", fact)


async def read_told(incident: str) -> tuple[Telling, ...]:
    """Who was told, in the order of the entries."""
    found = await _written_facts(incident)
    numbers = sorted(int(m[1]) for n in found if (m := re.fullmatch(r"told_(\d+)", n)))
    entries = []
    for number in numbers:
        told = _valid(found[f"told_{number}"], Told)
        if told:
            became = _valid(found.get(f"told_{number}_heard"), Heard)
            entries.append(Telling(number=number, told=told, heard=became))
    return tuple(entries)


async def lead(incident: str, turn: int, led: Led) -> bool:
    """Take the incident over as its `turn`-th run, from 0; False when another run did."""
    return await _written(incident, f"led_{turn}", led)


async def read_lead(incident: str) -> Lead:
    """The next turn, and the runs that took the earlier ones."""
    found = await _written_facts(incident)
    turns = sorted(int(m[1]) for n in found if (m := re.fullmatch(r"led_(\d+)", n)))
    runs = [led for turn in turns if (led := _valid(found[f"led_{turn}"], Led))]
    return Lead(turn=turns[-1] + 1 if turns else 0, runs=tuple(runs))


async def read_fate(run_id: str) -> Literal["alive", "dead", "done"]:
    """Whether a run goes on, died (killed, cancelled, deleted), or came to its own end."""
    async with get_client() as client:
        try:
            state = (await client.read_flow_run(UUID(run_id))).state
        except (ObjectNotFound, ValueError):
            return "dead"
    if state is None or not state.is_final():
        return "alive"
    return "dead" if state.type in (StateType.CRASHED, StateType.CANCELLED) else "done"


async def _written(incident: str, name: str, fact: Frozen) -> bool:
    tags = [TAG, f"incident:{incident}"]
    async with get_client() as client:
        return await _create(client, f"incident_{incident}_{name}", fact, tags)


async def _written_facts(incident: str) -> dict[str, Any]:
    """Name without its prefix -> value."""
    async with get_client() as client:
        found = await _tagged(client, [f"incident:{incident}"])
    prefix = f"incident_{incident}_"
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _valid(value: Any, kind: type[W]) -> W | None:
    try:
        return kind.model_validate(value) if value is not None else None
    except ValidationError:  # edited in the UI: as good as not there
        return None
