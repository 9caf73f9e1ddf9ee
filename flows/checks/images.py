"""Check: images pinned to a version."""

from flows.checks.platform_view import Platform
from flows.decisions.check_services import image
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding for every service in a container, whatever starts it."""
    readings = (await platform.services()).values()
    return [one for one in map(image, readings) if one is not None]
