"""One LiteLLM proxy: its block, and the thin client that asks whether it serves its models."""

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.service import Service


class LitellmProxy(Service, Block):
    """A LiteLLM proxy of a platform: where it is, how it runs, where its limits are written."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "LiteLLM proxy"
    _block_type_slug = "litellm-proxy"
    _description = "A LiteLLM proxy. Written by `runbooks apply`; the key is a reference."
