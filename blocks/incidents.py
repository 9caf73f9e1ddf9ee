"""Incidents, kept as facts on the Prefect server, where the gateway and every host see them.

Each fact is a Prefect Variable that is created once and never changed, so that two writers
cannot lose each other's word: the server refuses the second of a name.
"""

import re
from typing import Any, Literal, TypeVar

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import AwareDatetime, Field, ValidationError

from blocks.alert_routes import Severity
from blocks.models import Frozen

TAG, OPEN = "incident", "open"
LONGEST = 5000
"""Characters of a Variable's value (Prefect)."""


class Opened(Frozen):
    """An incident begins."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    stack: str
    service: str
    severity: Severity
    title: str = Field(max_length=300)
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
    """Write its first fact; False when it exists already."""
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


async def open_incidents(stack: str, service: str = "") -> list[Incident]:
    """Incidents that have not ended, the oldest first.

    Args:
        stack: of this stack only.
        service: of this service only; empty: of all.
    """
    wanted = [OPEN, f"stack:{stack}", *([f"service:{service}"] if service else [])]
    async with get_client() as client:
        body = {"variables": {"tags": {"all_": wanted}}, "limit": 200}
        answer = await client._client.post("/variables/filter", json=body)
        names = [str(v["name"]) for v in answer.json()]
        ids = [n.removeprefix("incident_") for n in names if n.startswith("incident_")]
        found = [i for name in ids if (i := await _read(client, name)) and not i.ended]
    return sorted(found, key=lambda i: i.opened.at)


async def _create(client: PrefectClient, name: str, fact: Frozen, tags: list[str]) -> bool:
    value: Any = fact.model_dump(mode="json")
    try:
        await client._client.post("/variables/", json={"name": name, "value": value, "tags": tags})
    except PrefectHTTPStatusError as e:
        if e.response.status_code == 409:
            return False
        raise
    return True


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
    """One run escalates the incident, until it has ended."""

    run_id: str
    at: AwareDatetime


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


async def read_lead(incident: str) -> tuple[int, Led | None]:
    """The next turn, and the run that took the latest one; None: nobody did yet."""
    found = await _written_facts(incident)
    turns = [int(m[1]) for n in found if (m := re.fullmatch(r"led_(\d+)", n))]
    if not turns:
        return 0, None
    return max(turns) + 1, _valid(found[f"led_{max(turns)}"], Led)


async def _written(incident: str, name: str, fact: Frozen) -> bool:
    tags = [TAG, f"incident:{incident}"]
    async with get_client() as client:
        return await _create(client, f"incident_{incident}_{name}", fact, tags)


async def _written_facts(incident: str) -> dict[str, Any]:
    """Name without its prefix -> value."""
    wanted = {"variables": {"tags": {"all_": [f"incident:{incident}"]}}, "limit": 200}
    async with get_client() as client:
        answer = await client._client.post("/variables/filter", json=wanted)
    prefix = f"incident_{incident}_"
    return {str(v["name"]).removeprefix(prefix): v["value"] for v in answer.json()}


def _valid(value: Any, kind: type[W]) -> W | None:
    try:
        return kind.model_validate(value) if value is not None else None
    except ValidationError:  # edited in the UI: as good as not there
        return None
