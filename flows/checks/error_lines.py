"""Check: what the logs complain of."""

from flows.checks.platform_view import Platform
from flows.decisions.check_services import error_lines
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding a service: its error lines within the window, grouped."""
    readings = (await platform.services()).values()
    return [error_lines(reading, platform.since, platform.policy) for reading in readings]
