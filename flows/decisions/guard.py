"""May this change be made now? Pure: the clock, the history and the windows are arguments.

Source: DESIGN, "The lifecycle of a change", Guard. The guards that need a system (`locked`,
`drifted`, `blast-radius`) are the lifecycle's.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from blocks.errors import GuardReason
from blocks.models import Frozen
from blocks.windows import Window
from flows.decisions.words import span

Autonomy = Literal["observe", "approve", "auto"]
"""What a service allows a procedure: to plan only, to act once approved, to act."""
ActVerdict = Literal["passed", "failed", "error", "inconclusive", "planned", "blocked"]

FAR = 60
"""How many windows in a row are looked at, joined or too short, before giving up (count)."""


class Act(Frozen):
    """An earlier run on the same service and procedure, and how it ended."""

    at: AwareDatetime
    verdict: ActVerdict
    rests: bool = True
    """Whether a cool-down follows; not so within one run, whose steps belong together."""

    @property
    def acted(self) -> bool:
        """True unless nothing was touched: a plan, or a change that was refused."""
        return self.verdict not in ("planned", "blocked")


class AttemptPolicy(Frozen):
    """How often one service may be acted on before a person is called."""

    attempts: int = Field(default=3, ge=1, description="Acts allowed in the window, count")
    window_s: int = Field(default=86_400, ge=1, description="Length of the window, seconds")
    cooldown_s: int = Field(default=900, ge=0, description="Pause after every act, seconds")


class Intent(Frozen):
    """Who wants to do what, as far as the guards need to know."""

    actor: str
    autonomy: Autonomy = "approve"
    approval: str = ""
    """Empty, "yes" (this run, whatever its plan), or the digest of the plan that was approved."""
    plan_digest: str = ""
    authorised: tuple[str, ...] | None = None
    """Who may do this; None where the inventory restricts nobody."""
    expected_duration_s: float = Field(default=0, ge=0, allow_inf_nan=False)
    needs_window: bool = False
    """True for a procedure that may run inside a maintenance window only."""


class Refusal(Frozen):
    """Why a change is not made now, and when it may be asked for again."""

    reason: GuardReason
    message: str
    retry_at: datetime | None = None
    """UTC; None when waiting alone does not help."""


def check(
    intent: Intent,
    *,
    now: datetime,
    policy: AttemptPolicy,
    history: Sequence[Act] = (),
    freezes: Sequence[Window] = (),
    maintenance: Sequence[Window] = (),
) -> Refusal | None:
    """The first reason against the change in the order an operator has to deal with them.

    Not authorised, frozen, attempts exhausted, cooling down, would exceed the window, not
    approved, approval expired: what waiting or asking again cannot cure comes first, and nobody
    is asked to approve what could not be done. None: nothing speaks against it. `now` is aware.
    """
    guards: tuple[Callable[[], Refusal | None], ...] = (
        lambda: _authorised(intent),
        lambda: _frozen(now, freezes),
        lambda: _attempts(now, history, policy),
        lambda: _cooldown(now, history, policy),
        lambda: _window(now, intent, maintenance),
        lambda: _approved(intent),
    )
    return next((refusal for guard in guards if (refusal := guard()) is not None), None)


def _authorised(intent: Intent) -> Refusal | None:
    if intent.autonomy == "observe":
        return Refusal(
            reason="not-authorised",
            message="The service is set to observe: procedures plan and do not act. "
            "Set its autonomy to approve or auto in the inventory.",
        )
    if intent.authorised is not None and intent.actor not in intent.authorised:
        allowed = ", ".join(intent.authorised) or "nobody"
        return Refusal(
            reason="not-authorised",
            message=f"{intent.actor or 'An unnamed actor'} may not do this; allowed: {allowed}.",
        )
    return None


def _frozen(now: datetime, freezes: Sequence[Window]) -> Refusal | None:
    covering = [window for window in freezes if window.covers(now)]
    if not covering:
        return None
    ends = covered_until(freezes, now)
    why = "; ".join(window.reason for window in covering if window.reason)
    return Refusal(
        reason="frozen",
        message=f"Changes are frozen{f' ({why})' if why else ''} "
        + (f"until {_at(ends)}." if ends else "with no end in sight; edit the freeze windows."),
        retry_at=ends,
    )


def _attempts(now: datetime, history: Sequence[Act], policy: AttemptPolicy) -> Refusal | None:
    window = timedelta(seconds=policy.window_s)
    recent = sorted(act.at for act in history if act.acted and act.at > now - window)
    if len(recent) < policy.attempts:
        return None
    again = recent[len(recent) - policy.attempts] + window
    return Refusal(
        reason="attempts-exhausted",
        message=f"{len(recent)} acts in the last {span(policy.window_s)}, {policy.attempts} are "
        f"allowed: a person has to look. The next one is possible at {_at(again)}.",
        retry_at=again,
    )


def _cooldown(now: datetime, history: Sequence[Act], policy: AttemptPolicy) -> Refusal | None:
    resting = (act for act in history if act.acted and act.rests)
    last = max(resting, key=lambda act: act.at, default=None)
    if last is None:
        return None
    again = last.at + timedelta(seconds=policy.cooldown_s)
    if again <= now:
        return None
    return Refusal(
        reason="cooling-down",
        message=f"The last act ({last.verdict}) was at {_at(last.at)}; "
        f"{span(policy.cooldown_s)} of rest follow. The next one is possible at {_at(again)}.",
        retry_at=again,
    )


def _window(now: datetime, intent: Intent, maintenance: Sequence[Window]) -> Refusal | None:
    if not intent.needs_window:
        return None
    need = timedelta(seconds=intent.expected_duration_s)
    inside = any(window.covers(now) for window in maintenance)
    ends = covered_until(maintenance, now) if inside else None
    if inside and (ends is None or now + need <= ends):
        return None
    again = _next_opening(now, need, maintenance)
    what = f"It takes about {span(intent.expected_duration_s)} and needs a maintenance window; "
    if inside and ends is not None:
        what += f"the present one ends at {_at(ends)}. "
    else:
        what += "there is none now. " if maintenance else "none is declared in the inventory. "
    return Refusal(
        reason="would-exceed-window",
        message=what
        + (f"The next that is long enough opens at {_at(again)}." if again else "None to come is."),
        retry_at=again,
    )


def _approved(intent: Intent) -> Refusal | None:
    given = intent.approval.strip()
    if given in ("yes", intent.plan_digest) and given:
        return None
    if given:
        return Refusal(
            reason="approval-expired",
            message="The approval is for another plan: what was observed has changed since. "
            "Read the new plan and approve that one.",
        )
    if intent.autonomy == "auto":
        return None
    return Refusal(
        reason="not-approved",
        message="The service asks for approval and nobody has given it. Approve the plan to go on.",
    )


def covered_until(windows: Sequence[Window], now: datetime) -> datetime | None:
    """When the last window without a gap from `now` on ends; None: never, as far as one sees.

    `now` itself when no window covers it.
    """
    until = now
    for _ in range(FAR):
        spans = [window.current_or_next(until) for window in windows]
        ends = [end for begin, end in filter(None, spans) if begin <= until]
        if not ends:
            return until
        until = max(ends)
    return None


def _next_opening(now: datetime, need: timedelta, maintenance: Sequence[Window]) -> datetime | None:
    """The first opening after `now` of windows that stay open for `need`."""
    after = now
    for _ in range(FAR):
        openings = [
            span[0] for window in maintenance if (span := _opening_after(window, now, after))
        ]
        if not openings:
            return None
        opening = min(openings)
        until = covered_until(maintenance, opening)
        if until is None or opening + need <= until:
            return opening
        after = until
    return None


def _opening_after(
    window: Window, now: datetime, after: datetime
) -> tuple[datetime, datetime] | None:
    """The first occurrence that ends after `after` and begins after `now`."""
    span = window.current_or_next(after)
    return window.current_or_next(span[1]) if span and span[0] <= now else span


def _at(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
