"""Which procedures run by a schedule, and whether an inventory's pings agree with that."""

import asyncio
from collections.abc import Mapping
from typing import Any

import yaml
from prefect import get_client
from prefect.exceptions import ObjectNotFound

from blocks.errors import Permanent
from blocks.stack import StackSpec


def declared(text: str) -> dict[str, bool]:
    """Deployment -> whether it has a schedule, from the text of prefect.yaml."""
    document: dict[str, Any] = yaml.safe_load(text)
    return {str(d["name"]): bool(d.get("schedules")) for d in document["deployments"]}


def refused(dead_man: Mapping[str, Any], known: Mapping[str, bool]) -> dict[str, str]:
    """Key of `dead_man` -> why nothing would ever ping it. Pure."""
    found = {}
    for name in dead_man:
        if name not in known:
            scheduled = ", ".join(sorted(n for n, has in known.items() if has))
            found[name] = f"is no procedure; scheduled are: {scheduled}"
        elif not known[name]:
            found[name] = (
                "has no schedule, so nothing would ever ping; add one to its deployment in the "
                "Prefect UI, or leave it out"
            )
    return found


async def check_dead_man(spec: StackSpec) -> None:
    """Refuse pings of what never runs by itself: they would promise a watch that nobody keeps.

    A schedule that an operator gave a deployment on the server counts like a declared one.

    Raises:
        Permanent: one line for each such key.
    """
    if not spec.dead_man:
        return
    from deployments.bootstrap import prefect_yaml

    text = await asyncio.to_thread(prefect_yaml().read_text, encoding="utf-8")
    known = declared(text)
    async with get_client() as client:
        for name in spec.dead_man:
            if name in known and not known[name]:
                try:
                    there = await client.read_deployment_by_name(f"{name}/{name}")
                    known[name] = bool(await client.read_deployment_schedules(there.id))
                except ObjectNotFound:
                    pass
    if faults := refused(spec.dead_man, known):
        lines = (f"stack {spec.name}: dead_man.{name} {why}" for name, why in faults.items())
        raise Permanent("\n".join(lines))
