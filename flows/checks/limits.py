"""Check: the proxy's token limits against the servers behind it."""

import asyncio

from blocks.litellm_text import enforced
from blocks.models import ServingConfig
from flows.checks.platform_view import Platform
from flows.decisions.check_services import ServiceReading
from flows.decisions.finding import Finding
from flows.decisions.health import judge
from flows.decisions.token_limits import CHECK, judge_limits
from flows.routes import routes_of
from flows.verify import expectation

Routes = tuple[dict[str, str | None], bool]
"""Model key -> the service behind it; and whether the proxy checks token limits at all."""


async def run(platform: Platform) -> list[Finding]:
    """The findings of every LiteLLM proxy; a server that does not decode has no known length."""
    proxies = [n for n, s in platform.spec.services.items() if s.engine == "litellm"]
    if not proxies:
        return []
    readings = await platform.services()
    per_proxy = await asyncio.gather(*(_judge(platform, name, readings) for name in proxies))
    return [finding for findings in per_proxy for finding in findings]


async def _judge(
    platform: Platform, proxy: str, readings: dict[str, ServiceReading]
) -> list[Finding]:
    source = platform.spec.services[proxy].serving
    reading = readings[proxy]
    unknown = Finding(check=CHECK, subject=proxy, status="unknown")
    if source.kind != "litellm":
        why = "its config file is not in the inventory"
        advice = "name it: serving: {kind: litellm, path: ...}"
        return [unknown.model_copy(update={"evidence": why, "advice": advice})]
    if reading.config is None:
        return [unknown.model_copy(update={"evidence": reading.unread("config")})]
    try:
        routes = await routes_of(platform.spec, proxy)
        checked = await asyncio.to_thread(enforced, source)
    except RunbookError as e:
        return [unknown.model_copy(update={"evidence": str(e)[:300]})]
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
