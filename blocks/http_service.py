"""Anything else of a platform that answers over HTTP: OpenWebUI, Qdrant, a router."""

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.http_probe import Sick, ask, client_of
from blocks.models import Serving
from blocks.service import Service


class HttpService(Service, Block):
    """A service that is healthy when its `health_path` answers 200."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "HTTP service"
    _block_type_slug = "http-service"
    _description = "A service that is looked at and can be restarted. Written by `runbooks apply`."


async def observe(service: Service, *, probe_timeout_s: float = 5.0) -> Serving:
    """Ask `health_path`; never raises for a sick service.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    async with client_of(service) as client:
        try:
            status, _ = await ask(client, service.health_path, probe_timeout_s)
        except Sick as e:
            return Serving(reachable=False, problem=f"{service.health_path}: {e}")
    problem = "" if status == 200 else f"{service.health_path} answered {status}"
    return Serving(reachable=True, health_status=status, problem=problem)
