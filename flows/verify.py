"""Verification of a change: is it decoding, and does it stay so (DESIGN: Verify)."""

from prefect.logging import get_run_logger

from blocks.models import ServiceState, ServingConfig
from blocks.target import Target
from flows.decisions.health import Expectation, Judgement, Watch, judge, step
from flows.report import Look, Verification
from tasks.acts import Glimpse, watch_service


def expectation(target: Target, config: ServingConfig) -> Expectation:
    """What the service must serve when it runs with `config`."""
    return Expectation(
        model_id=target.service.served_model_name or config.served_model_name,
        max_model_len=config.max_model_len,
        decodes=target.service.engine != "http",
    )


class Verifier:
    """Folds the looks of one verification into a judgement."""

    def __init__(
        self,
        target: Target,
        config: ServingConfig,
        stabilisation_s: float,
        restarts: int | None = None,
    ) -> None:
        self._target = target
        self._expected = expectation(target, config)
        self._watch = Watch(
            start_timeout_s=target.service.policy.start_timeout_s, stabilisation_s=stabilisation_s
        )
        self._mark, self._restarts = "", restarts
        self.looks: list[Look] = []
        self.first_token_s: float | None = None
        self.judgement: Judgement | None = None

    def saw_enough(self, glimpse: Glimpse) -> bool:
        """Take one look in; True ends the watch."""
        self._pin(glimpse.state)
        health = judge(glimpse.state, glimpse.serving, self._expected)
        at_s = round(glimpse.at_s, 3)
        if not self.looks or self.looks[-1].reason != health.reason:
            get_run_logger().info(
                "%s after %.1f s: %s, %s", self._target.label, at_s, health.status, health.reason
            )
        self.looks.append(Look(at_s=at_s, status=health.status, reason=health.reason))
        if health.status == "healthy" and self.first_token_s is None:
            self.first_token_s = at_s
        moved = bool(glimpse.log_mark) and glimpse.log_mark != self._mark
        self._mark = glimpse.log_mark or self._mark
        after = step(self._watch, glimpse.at_s, health, progressed=moved)
        if isinstance(after, Judgement):
            self.judgement = after
            return True
        self._watch = after
        return False

    def _pin(self, state: ServiceState) -> None:
        """From the first running look on, it must stay this very instance."""
        if self._expected.instance or not state.running or not state.instance:
            return
        # A container made or started for this change counts its restarts from zero; the
        # number a status command prints may be older than the change.
        docker = self._target.service.runtime.kind == "docker"
        restarts = 0 if docker else state.restarts
        if self._restarts is not None:
            restarts = self._restarts
        self._expected = self._expected.model_copy(
            update={"instance": state.instance, "restarts": restarts}
        )


async def verify(
    target: Target,
    config: ServingConfig,
    *,
    stabilisation_s: float | None = None,
    restarts: int | None = None,
) -> Verification:
    """Watch the service until it is proved healthy with `config`, or proved not to be.

    Args:
        target: the service.
        config: what it must serve.
        stabilisation_s: how long it must stay healthy; default: the policy's.
        restarts: automatic restarts (count) that it had before nothing was changed; without it,
            a container was made or started for this change and has none.

    Returns `inconclusive` when it could not be measured; never raises for a sick server.
    """
    rest = target.service.policy.stabilisation_s if stabilisation_s is None else stabilisation_s
    verifier = Verifier(target, config, rest, restarts)
    await watch_service(target, verifier.saw_enough)
    assert verifier.judgement is not None  # noqa: S101 - the watch ends with one
    return Verification(
        outcome=verifier.judgement.outcome,
        reason=verifier.judgement.reason,
        looks=tuple(verifier.looks[-200:]),
        first_token_s=verifier.first_token_s,
        total_s=verifier.looks[-1].at_s,
    )
