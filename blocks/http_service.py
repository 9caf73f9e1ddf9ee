"""Anything else of a platform that answers over HTTP: OpenWebUI, Qdrant, a router."""

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.service import Service


class HttpService(Service, Block):
    """A service that is healthy when its `health_path` answers 200."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "HTTP service"
    _block_type_slug = "http-service"
    _description = "A service that is looked at and can be restarted. Written by `runbooks apply`."
