"""Which alert starts which procedure."""

from typing import Any, Literal

from pydantic import Field

from blocks.models import Frozen
from blocks.secret_ref import SecretRef

Severity = Literal["P0", "P1", "P2", "P3"]


class AlertRoute(Frozen):
    """Alerts with these labels, and what they start. The first route that matches is taken."""

    match: dict[str, str] = Field(
        min_length=1, description="label -> value, or ~REGEX that the whole value must match"
    )
    procedure: str = Field(default="", description="what is started; empty: people are told only")
    service: str = Field(default="", description="of the stack; default: the service label's value")
    severity: Severity | None = Field(
        default=None, description="default: from the severity label (critical: P0, warning: P2)"
    )
    parameters: dict[str, Any] = Field(default={}, description="further parameters of the run")


class Storm(Frozen):
    """How many runs alerts may start; what is over it is dropped, and said so."""

    per_service: int = Field(default=3, ge=1, description="runs on one service in the window")
    total: int = Field(default=20, ge=1, description="runs on the platform in the window")
    window_s: int = Field(default=600, ge=1, description="seconds")


class AlertsSpec(Frozen):
    """What the gateway does with the alerts that Alertmanager sends it."""

    token: SecretRef = Field(description="reference to the bearer token Alertmanager sends")
    service_label: str = Field(default="service", description="the label that names the service")
    routes: tuple[AlertRoute, ...] = Field(default=(), description="tried in order")
    storm: Storm = Field(default=Storm(), description="bounds")
