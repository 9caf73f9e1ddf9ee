"""Which certificates expire soon. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from blocks.certificate import Certificate
from blocks.check_policy import CheckPolicy
from flows.decisions.finding import Finding, Status
from flows.decisions.words import span

_DAY = timedelta(days=1)


def judge_certificates(
    certificates: Iterable[Certificate], policy: CheckPolicy, now: datetime
) -> list[Finding]:
    """One finding a certificate; what could not be read is unknown.

    Args:
        certificates: what was read.
        policy: how long before its end one warns and fails.
        now: the time of the check (aware).
    """
    return [_judge(one, policy, now) for one in certificates]


def _judge(one: Certificate, policy: CheckPolicy, now: datetime) -> Finding:
    found = Finding(
        check="certificate",
        subject=one.where,
        status="unknown",
        threshold=f"> {policy.certificate_warn_days:g} days left",
    )
    if one.problem or one.not_after is None or one.not_before is None:
        return found.model_copy(update={"evidence": one.problem or "it has no dates"})
    status, value, advice = _when(one.not_before, one.not_after, policy, now)
    update = {"status": status, "value": value, "advice": advice, "evidence": _evidence(one)}
    if status == "fail":
        update["threshold"] = f"> {policy.certificate_fail_days:g} days left"
    return found.model_copy(update=update)


def _when(
    begin: datetime, end: datetime, policy: CheckPolicy, now: datetime
) -> tuple[Status, str, str]:
    if now >= end:
        return "fail", f"expired {span((now - end).total_seconds())} ago", "renew it"
    if now < begin:
        advice = "check the clocks of both machines, or put the former certificate back"
        return "fail", f"not valid for another {span((begin - now).total_seconds())}", advice
    left = end - now
    value = f"{span(left.total_seconds())} left"
    if left <= policy.certificate_fail_days * _DAY:
        return "fail", value, "renew it"
    if left <= policy.certificate_warn_days * _DAY:
        return "warn", value, "renew it"
    return "ok", value, ""


def _evidence(one: Certificate) -> str:
    until = f"{one.not_after:%Y-%m-%d %H:%M} UTC" if one.not_after else ""
    of = f"{one.subject or 'no subject'}, by {one.issuer or 'nobody named'}, until {until}"
    return f"{of}; {one.expires_first} of its chain expires first" if one.expires_first else of
