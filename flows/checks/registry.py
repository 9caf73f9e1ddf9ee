"""Every check of check-platform, in the order of the report. Adding one is adding a line."""

from collections.abc import Awaitable, Callable

from flows.checks import (
    alerts,
    certificates,
    decoding,
    drift,
    error_lines,
    hosts,
    images,
    limits,
    restarts,
    service_levels,
)
from flows.checks.platform_view import Platform
from flows.decisions.finding import Finding

Check = Callable[[Platform], Awaitable[list[Finding]]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("decoding", decoding.run),
    ("alerts", alerts.run),
    ("service levels", service_levels.run),
    ("hosts", hosts.run),
    ("restarts", restarts.run),
    ("error lines", error_lines.run),
    ("certificate", certificates.run),
    ("token limits", limits.run),
    ("image", images.run),
    ("drift", drift.run),
)
