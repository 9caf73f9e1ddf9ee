"""Speed and faults of the stand-in LiteLLM proxy, re-read while it runs. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox import live_settings
else:
    import live_settings


@dataclass(frozen=True)
class ProxySettings:
    """Faults of one stand-in proxy. Times in seconds."""

    startup_s: float = 0.05
    timeout_s: float = 60.0
    """How long a backend may take; LiteLLM's request_timeout."""
    status_5xx: bool = False
    """Every completion is answered 500."""
    frozen: bool = False
    """Completions are never answered; the health endpoints are."""
    unready: bool = False
    """/health/readiness answers 503."""
    bare_429: bool = False
    """A cool-down is answered with the same bare sentence as a rate limit."""


def coerce(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `ProxySettings`; raises live_settings.UnknownSetting for the first bad one."""
    return live_settings.coerce(ProxySettings, values)


class ProxySource(live_settings.Live[ProxySettings]):
    """The settings of a running proxy stand-in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(ProxySettings, {"proxy": {}}, environ)
