"""Incidents, kept as facts on the Prefect server, where the gateway and every host see them.

Each fact is a Prefect Variable that is created once and never changed, so that two writers
cannot lose each other's word: the server refuses the second of a name.
"""

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
