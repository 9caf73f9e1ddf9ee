"""Which proxy routes which model to which service of the stack."""

import asyncio

from blocks.errors import RunbookError
from blocks.litellm_text import backends
from blocks.stack import StackSpec
from flows.decisions.token_limits import backend_of


async def routes_of(spec: StackSpec, proxy: str) -> dict[str, str | None]:
    """Model key of the proxy's file -> the service behind it; None where it is none of ours.

    Raises:
        Permanent: the proxy's file cannot be read.
    """
    service = spec.services[proxy]
    if service.serving.kind != "litellm":
        return dict(service.routes)
    found = await asyncio.to_thread(backends, service.serving)
    return {
        model: backend_of(model, base, spec.services, service.routes)
        for model, base in found.items()
    }


async def unreadable(spec: StackSpec) -> dict[str, str]:
    """The proxies whose routes cannot be read on this worker: name -> why."""
    found = {}
    for name, service in spec.services.items():
        if service.engine == "litellm":
            try:
                await routes_of(spec, name)
            except RunbookError as e:
                found[name] = str(e)
    return found


async def proxies_of(spec: StackSpec, service: str) -> list[str]:
    """The proxies that route to a service; one whose file cannot be read here is not among them."""
    found = []
    for name, candidate in spec.services.items():
        if candidate.engine != "litellm":
            continue
        try:
            routes = await routes_of(spec, name)
        except RunbookError:
            continue
        if service in routes.values():
            found.append(name)
    return found
