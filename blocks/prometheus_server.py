"""A Prometheus server: instant queries, where "no series" and NaN are never a number."""

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from blocks.models import Frozen
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl


class PrometheusSpec(Frozen):
    """Where a Prometheus answers."""

    url: HttpUrl = Field(description="base URL, e.g. http://motoko:9090, with its route prefix")
    token: SecretRef | None = Field(default=None, description="reference to a bearer token")
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    timeout_s: float = Field(default=10, gt=0, le=120, description="of one query, seconds")
    window: str = Field(
        default="5m", pattern=r"^[1-9]\d*[smhd]$", description="range that rates are taken over"
    )


class PrometheusServer(PrometheusSpec, Block):
    """The Prometheus that scrapes a platform."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Prometheus server"
    _block_type_slug = "prometheus-server"
    _description = "Where metrics are asked for. The token is a reference to a secret."
