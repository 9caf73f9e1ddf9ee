"""Which alert starts which procedure."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from blocks.models import Frozen
from blocks.regex_cost import MOST_TRIES, tries
from blocks.secret_ref import SecretRef

Severity = Literal["P0", "P1", "P2", "P3"]
REGEX = "~"
"""Begins a value that is a regular expression."""
OURS = ("stack", "service")
"""Parameters that the alert decides."""


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

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: dict[str, str]) -> dict[str, str]:
        for label, wanted in value.items():
            if not wanted.startswith(REGEX):
                continue
            pattern = wanted.removeprefix(REGEX)
            try:
                re.compile(pattern)
                dear = tries(pattern) > MOST_TRIES
            except (re.error, OverflowError, RecursionError) as e:
                raise ValueError(
                    f"{label}: {wanted[:60]!r} is no regular expression ({e}); the rest after ~ is "
                    "read by Python's re, e.g. ~Vllm(Down|Slow)"
                ) from None
            if dear:
                # It is matched where all alerts are worked: one label could hold up all of them.
                raise ValueError(
                    f"{label}: {wanted[:60]!r} could be tried in too many ways; put no repetition "
                    "into a repetition, and use at most three of * and +"
                )
        return value

    @field_validator("parameters")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [k for k in OURS if k in value]:
            raise ValueError(
                f"{taken[0]} is set from the alert; name another service with the route's `service`"
            )
        options = value.get("options", {})
        if not isinstance(options, dict) or set(options) - {"dry_run"}:
            # An approval here would approve every plan to come, whatever the autonomy says.
            raise ValueError("options may hold dry_run only, e.g. options: {dry_run: true}")
        return value


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
