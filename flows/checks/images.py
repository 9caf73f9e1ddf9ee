"""Check: images pinned to a version."""

from flows.checks.platform_view import Platform
from flows.decisions.check_services import image
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding for every service in a container."""
    readings, services = await platform.services(), platform.spec.services
    boxed = [
        reading for name, reading in readings.items() if services[name].runtime.kind == "docker"
    ]
    return [one for one in map(image, boxed) if one is not None]
