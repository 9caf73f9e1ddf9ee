"""Check: the proxy's token limits against the servers behind it."""

import asyncio

from blocks.litellm_text import enforced
from blocks.models import ServingConfig
from blocks.service import LitellmSource
from flows.checks.platform_view import Platform
from flows.decisions.check_services import ServiceReading
from flows.decisions.finding import Finding
from flows.decisions.health import judge
from flows.decisions.token_limits import CHECK, judge_limits
from flows.routes import routes_of
from flows.verify import expectation
from tasks.check_reads import Read, Unread

Routes = tuple[dict[str, str | None], bool]
"""Model key -> the service behind it; and whether the proxy checks token limits at all."""


async def run(platform: Platform) -> list[Finding]:
    """The findings of every LiteLLM proxy; a server that does not decode has no known length."""
    services = platform.spec.services
    proxies = [n for n, s in services.items() if s.engine == "litellm"]
    if not proxies:
        return []

    def reads(proxy: str, source: LitellmSource) -> Read[Routes]:
        async def read() -> Routes:
            return await routes_of(platform.spec, proxy), await asyncio.to_thread(enforced, source)

        return read

    sources = {n: services[n].serving for n in proxies}
    wanted = {n: reads(n, s) for n, s in sources.items() if s.kind == "litellm"}
    # Their files lie on this machine, on one mount as likely as not.
    routes = await platform.read("routes", wanted, dict.fromkeys(wanted, "files"))
    readings = await platform.services()
    return [
        finding
        for proxy in proxies
        for finding in _judge(platform, proxy, readings, routes.get(proxy))
    ]


def _judge(
    platform: Platform,
    proxy: str,
    readings: dict[str, ServiceReading],
    found: Routes | Unread | None,
) -> list[Finding]:
    reading = readings[proxy]
    unknown = Finding(check=CHECK, subject=proxy, status="unknown")
    if found is None:
        why = "its config file is not in the inventory"
        advice = "name it: serving: {kind: litellm, path: ...}"
        return [unknown.model_copy(update={"evidence": why, "advice": advice})]
    if reading.config is None:
        return [unknown.model_copy(update={"evidence": reading.unread("config")})]
    if isinstance(found, Unread):
        return [unknown.model_copy(update={"evidence": found.reason})]
    routes, checked = found
    lengths = {
        model: _length(platform, readings[name]) if name else None for model, name in routes.items()
    }
    rule = platform.spec.token_limits
    return judge_limits(proxy, reading.config.limits, lengths, rule, enforced=checked)


def _length(platform: Platform, reading: ServiceReading) -> int | None:
    """max_model_len as a server tells it that decodes; of any other it is not known."""
    if reading.state is None or reading.serving is None:
        return None
    expected = expectation(platform.targets[reading.name], reading.config or ServingConfig())
    health = judge(reading.state, reading.serving, expected)
    return reading.serving.max_model_len if health.status == "healthy" else None
