"""Check: did a service restart since the last check."""

from flows.checks.platform_view import Platform
from flows.decisions.check_services import restarts
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding a service."""
    known = platform.memory.services if platform.memory else {}
    return [
        restarts(reading, known.get(name), platform.now, platform.policy)
        for name, reading in (await platform.services()).items()
    ]
