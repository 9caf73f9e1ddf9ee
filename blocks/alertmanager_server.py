"""An Alertmanager: which alerts are firing now, neither silenced nor inhibited."""

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from blocks.models import Frozen
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl


class AlertmanagerSpec(Frozen):
    """Where an Alertmanager answers."""

    url: HttpUrl = Field(description="base URL, e.g. http://motoko:9093, with its route prefix")
    token: SecretRef | None = Field(default=None, description="reference to a bearer token")
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    timeout_s: float = Field(default=10, gt=0, le=120, description="of one request, seconds")
    service_label: str = Field(
        default="service", description="label of an alert that names the service of this stack"
    )


class AlertmanagerServer(AlertmanagerSpec, Block):
    """The Alertmanager of a platform."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Alertmanager"
    _block_type_slug = "alertmanager-server"
    _description = "Where firing alerts are asked for. The token is a reference to a secret."
