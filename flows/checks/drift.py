"""Check: is the written config what was last applied."""

import asyncio

from blocks.errors import RunbookError
from blocks.journal import Journal
from blocks.models import ServingConfig
from flows.checks.platform_view import Platform
from flows.decisions.check_services import drift
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding for every service that has numbers."""
    known = platform.memory.services if platform.memory else {}
    names = [n for n, t in platform.targets.items() if t.service.serving.kind != "none"]
    applied = await asyncio.to_thread(_applied, platform.spec.name, names)
    readings = await platform.services()
    found = []
    for name in names:
        last, before = applied[name], known.get(name)
        if isinstance(last, str):
            found.append(Finding(check="drift", subject=name, status="unknown", evidence=last))
            continue
        found.append(drift(readings[name], last, before.config if before else None))
    return found


def _applied(stack: str, names: list[str]) -> dict[str, ServingConfig | str | None]:
    """What the last kept change put in place, from this host's journal, or why it is not known."""
    found: dict[str, ServingConfig | str | None] = {}
    for name in names:
        try:
            mark = Journal(stack, name).applied()
            found[name] = mark.config if mark else None
        except RunbookError as e:
            found[name] = str(e)[:300]
    return found
