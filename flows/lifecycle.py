"""The one way to change anything: guard, journal, act, verify, keep or undo.

`attempt` is the only caller of an acting task in the product, beside the reconciliation in
`flows.holding`. Killed anywhere, it leaves a journal entry from which the next run restores
the recorded state, or finishes a change that was already verified.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from blocks.errors import GuardReason, Permanent, RunbookError, Unsafe
from blocks.journal import Act, Entry, Verdict
from blocks.models import Receipt
from blocks.target import runtime_of
from flows.decisions.access import no_approval
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.guard import Act as EarlierAct
from flows.decisions.guard import AttemptPolicy, Intent, check
from flows.decisions.plan import Plan
from flows.holding import settle
from flows.interruption import to_its_end
from flows.report import Attempt, Verification
from flows.run import Run, examine
from flows.verify import verify
from tasks.acts import apply_config, keep_config, restore_config
from tasks.reads import read_service


def _own_approval(run: Run, plan: Plan) -> None:
    """An approval that came with the run is its actor's own word; a later one was judged."""
    by = run.options.actor
    why = not run.approver and no_approval(
        run.spec.people,
        run.spec.approval,
        plan.procedure,
        by=by,
        source=run.options.source,
        asked_by=by,
    )
    if why:
        raise Unsafe("not-authorised", f"the approval given with the run does not count: {why}")


def _approval(run: Run, plan: Plan) -> str:
    """What is approved; an approval that was given meanwhile binds no step that needs none."""
    auto = run.target.service.policy.autonomy_of(plan.procedure) == "auto"
    return "" if auto and run.approver else run.options.approval


class NeedsApproval(Unsafe):
    """Nothing speaks against a plan but that nobody approved it."""

    def __init__(self, reason: GuardReason, message: str, plan: Plan) -> None:
        super().__init__(reason, message)
        self.plan = plan


def guarded(run: Run, plan: Plan, *, needs_window: bool = False) -> None:
    """Refuse the plan when a guard says so.

    Raises:
        NeedsApproval: nobody approved this plan. Unsafe: refused, with the named reason.
    """
    policy = run.target.service.policy
    if run.options.approval and policy.autonomy_of(plan.procedure) != "auto":
        _own_approval(run, plan)
    refusal = check(
        Intent(
            actor=run.options.actor,
            autonomy=policy.autonomy_of(plan.procedure),
            approval=_approval(run, plan),
            plan_digest=plan.digest,
            expected_duration_s=policy.start_timeout_s + policy.stabilisation_s,
            needs_window=needs_window,
        ),
        now=datetime.now(UTC),
        policy=AttemptPolicy(
            attempts=policy.attempts, window_s=policy.window_s, cooldown_s=policy.cooldown_s
        ),
        history=[
            EarlierAct(
                at=act.at,
                verdict=act.verdict,
                # A reconciled act counts as an attempt, but its reconciler need not wait for it.
                rests=act.run_id != run.run_id and not act.reconciled,
            )
            for act in run.journal.acts()
        ],
        freezes=run.target.freeze,
        maintenance=run.target.maintenance,
    )
    if refusal and refusal.reason in ("not-approved", "approval-expired"):
        raise NeedsApproval(refusal.reason, refusal.message, plan)
    if refusal:
        raise Unsafe(refusal.reason, refusal.message)


Proof = Callable[[Verification], Awaitable[Verification]]
"""A further proof that a change helped, asked for once the service is verified to decode."""


async def attempt(
    run: Run, plan: Plan, *, needs_window: bool = False, proof: Proof | None = None
) -> Attempt:
    """Carry out one plan, verify it, and undo it unless it is proved good.

    The caller holds the service (`holding`). Whatever interrupts it, Ctrl-C and SIGTERM
    included, the recorded state is put back before the interruption goes on.

    Raises:
        Unsafe: a guard refused. Permanent: the undo itself failed; the journal keeps it.
    """
    run.plan = plan
    guarded(run, plan, needs_window=needs_window)
    runtime = runtime_of(run.target)
    if (now := await runtime.read_config()) != plan.before:
        differs = ", ".join(now.diff(plan.before))
        raise Unsafe("drifted", f"{differs} changed since the plan was made; plan again")
    receipt = await runtime.prepare(plan.after, run.run_id, plan.how)
    if plan.how == "apply":
        run.journal.save_backup(run.run_id, plan.procedure, plan.before)
    run.journal.begin(
        Entry(
            run_id=run.run_id,
            procedure=plan.procedure,
            actor=run.options.actor or "unknown",
            at=datetime.now(UTC),
            phase="intent",
            receipt=receipt,
        )
    )
    run.first_act_s = run.first_act_s or round(time.monotonic() - run.began, 3)
    began = time.monotonic()
    run.teller.say(f"acting: {plan.summary()}", plan=plan, **run.shown())
    try:
        await apply_config(run.target, receipt)
        act_s = round(time.monotonic() - began, 3)
        verification = await verify(run.target, plan.after)
        if proof and verification.outcome == "passed":
            verification = await proof(verification)
        passed = verification.outcome == "passed"
        after = None if passed else await _diagnose_failure(run)
    except Unsafe:
        run.journal.abandon()  # only `act` refuses so late, and it does before it touches anything
        raise
    except RunbookError as e:
        undo = await to_its_end(_undo(run, plan, receipt, "error"))
        raise type(e)(f"{e}; {undo}") from e
    except BaseException:
        # Ctrl-C, SIGTERM, cancellation: no Prefect call may stand between us and the undo.
        await to_its_end(_undo(run, plan, receipt, "error", as_task=False))
        raise
    if passed:
        # Proved good: what interrupts now comes too late to undo it.
        return await to_its_end(_keep(run, plan, receipt, verification, act_s), then_stop=False)
    verdict: Verdict = "failed" if verification.outcome == "failed" else "inconclusive"
    undo = await to_its_end(_undo(run, plan, receipt, verdict))
    done = Attempt(
        plan=plan,
        verification=verification,
        kept=False,
        act_s=act_s,
        undo=undo,
        diagnosis_after=after,
    )
    run.attempts.append(done)
    return done


async def _keep(
    run: Run, plan: Plan, receipt: Receipt, verification: Verification, act_s: float
) -> Attempt:
    run.journal.advance("verified")
    try:
        await keep_config(run.target, receipt)
        settle(run, plan.procedure, run.run_id, receipt)
        run.journal.finish(_act(run, plan, "passed"))
    except RunbookError as e:
        # Verified and serving: the verdict stands; the next run finishes the tidying.
        run.notes.append(f"the way back could not be cleared yet ({e}); the next run will")
    done = Attempt(plan=plan, verification=verification, kept=True, act_s=act_s)
    run.attempts.append(done)
    return done


async def _diagnose_failure(run: Run) -> Diagnosis | None:
    """Why the attempt failed: asked before the undo takes the log away."""
    try:
        return await examine(run, await read_service(run.target))
    except RunbookError as e:
        run.notes.append(f"the failed attempt's log could not be read: {e}")
        return None


async def _undo(
    run: Run, plan: Plan, receipt: Receipt, verdict: Verdict, *, as_task: bool = True
) -> str:
    """Put the recorded state back and say how that went.

    Raises:
        Permanent: it failed; the journal entry stays for the next run.
    """
    restore = restore_config if as_task else restore_config.fn
    runtime = runtime_of(run.target)
    try:
        await restore(run.target, receipt)
        back = await runtime.read_config()
        state = await runtime.state()
    except RunbookError as e:
        raise Permanent(
            f"UNDO FAILED on {run.target.label}: {e}. The journal keeps it; the next run on "
            "this service tries again. Look at the service now"
        ) from e
    if back != receipt.before:
        raise Permanent(
            f"UNDO FAILED on {run.target.label}: {', '.join(back.diff(receipt.before))} differ "
            "from the recorded config. Look at the service now"
        )
    run.journal.finish(_act(run, plan, verdict))
    up = "up" if receipt.was_running else "down"
    return f"undone: the recorded config is back, the service is {state.phase} (was {up})"


def _act(run: Run, plan: Plan, verdict: Verdict) -> Act:
    return Act(at=datetime.now(UTC), procedure=plan.procedure, run_id=run.run_id, verdict=verdict)
