"""Which deployment of a model name gets a request: limits per minute, cool-downs, weights.

Standard library only; no clock and no I/O: times are arguments, in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from deployments.sandbox import litellm_errors as errors
else:
    import litellm_errors as errors

if TYPE_CHECKING:
    from deployments.sandbox.litellm_config import Config, Deployment

WINDOW_S = 60.0


@dataclass
class Usage:
    """What one deployment did in its window, and until when it rests.

    The window begins with its first request. LiteLLM counts per minute of the clock; here a
    test that begins at second 59 must not see its limit forgotten.
    """

    since: float = float("-inf")
    requests: int = 0
    tokens: int = 0
    failures: int = 0
    resting_until: float = float("-inf")

    def at(self, now: float) -> Usage:
        """Itself, with a fresh window where the old one is over."""
        if now - self.since >= WINDOW_S:
            self.since, self.requests, self.tokens, self.failures = now, 0, 0, 0
        return self


class Router:
    """Invariant: a deployment in cool-down or over a limit is never picked."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._config = config
        self._usage = {d.id: Usage() for d in config.deployments}
        self._random = random.Random(seed)  # noqa: S311 - load balancing

    def usage(self, d: Deployment, now: float) -> Usage:
        """The counts of one deployment."""
        return self._usage[d.id].at(now)

    def resting(self, now: float) -> list[str]:
        """Ids in cool-down, of every model name, as LiteLLM lists them."""
        return [key for key, usage in self._usage.items() if usage.resting_until > now]

    def pick(self, alias: str, tokens: int, now: float) -> Deployment:
        """The deployment for a prompt of so many tokens; it is counted as one request.

        Raises:
            ProxyError: 429 when all rest or are over a limit, 400 when the prompt fits none.
        """
        config = self._config
        group = [d for d in config.deployments if d.alias == alias]
        resting = self.resting(now)
        awake = [d for d in group if d.id not in resting]
        if not awake:
            left = min(self._usage[d.id].resting_until for d in group) - now
            seconds = min(config.cooldown_time, max(1.0, round(left)))
            raise errors.cooling(alias, seconds, config.pre_call_checks, resting)
        fitting = awake
        if config.pre_call_checks:
            fitting = [d for d in awake if tokens <= (d.max_input_tokens or tokens)]
            below = [d for d in fitting if not self._over(d, tokens, now)]
            if not fitting:
                raise errors.too_long(max(awake, key=lambda d: d.max_input_tokens or 0), tokens)
            if not below:
                raise errors.rate_limited()
            fitting = below
        chosen = self._shuffle(fitting)
        self.usage(chosen, now).requests += 1
        return chosen

    def _over(self, d: Deployment, tokens: int, now: float) -> bool:
        used = self.usage(d, now)
        return (d.rpm is not None and used.requests >= d.rpm) or (
            d.tpm is not None and used.tokens + tokens > d.tpm
        )

    def _shuffle(self, candidates: Sequence[Deployment]) -> Deployment:
        """LiteLLM's simple-shuffle: where one has a weight, those without get nothing."""
        for name in ("weight", "rpm", "tpm"):
            weights = [float(getattr(d, name) or 0) for d in candidates]
            if any(weights):
                return self._random.choices(candidates, weights)[0]
        return self._random.choice(candidates)

    def succeeded(self, d: Deployment, tokens: int, now: float) -> None:
        """Count the tokens of one answer."""
        self.usage(d, now).tokens += tokens

    def failed(self, d: Deployment, now: float) -> bool:
        """Count one failure; True when it puts the deployment into cool-down."""
        used = self.usage(d, now)
        used.failures += 1
        if used.failures <= self._config.allowed_fails:
            return False
        used.failures, used.resting_until = 0, now + self._config.cooldown_time
        return True
