"""Check: does every service serve."""

from blocks.models import ServingConfig
from flows.checks.platform_view import Platform
from flows.decisions.check_services import decoding
from flows.decisions.finding import Finding
from flows.verify import expectation


async def run(platform: Platform) -> list[Finding]:
    """One finding a service: decodes a token, or answers on its health path."""
    found = []
    for name, reading in (await platform.services()).items():
        target = platform.targets[name]
        expected = expectation(target, reading.config or ServingConfig())
        found.append(decoding(target.service, reading, expected, platform.now))
    return found
