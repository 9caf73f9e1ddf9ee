"""Check: images pinned to a version."""

from blocks.service import RuntimeSpec
from flows.checks.platform_view import Platform
from flows.decisions.check_services import image
from flows.decisions.finding import Finding


async def run(platform: Platform) -> list[Finding]:
    """One finding for every service in a container, whatever starts it."""
    readings, services = await platform.services(), platform.spec.services
    boxed = [one for name, one in readings.items() if _boxed(services[name].runtime)]
    return [found for found in map(image, boxed) if found is not None]


def _boxed(runtime: RuntimeSpec) -> bool:
    return runtime.kind == "docker" or runtime.status_format == "docker-state"
