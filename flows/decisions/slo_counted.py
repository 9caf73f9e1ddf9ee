"""Error rate and throughput of one service, out of its counters. Pure."""

from typing import NamedTuple

from blocks.service import Service
from flows.decisions.finding import Finding
from flows.decisions.latency import objectives
from flows.decisions.slo_numbers import LONG, SOURCES, Numbers, Shares, shares_of, told, total

NO_TRAFFIC = "no traffic"
YOUNG_S = 300
"""A server that runs for less has no throughput yet, seconds."""


class _Ended(NamedTuple):
    """How requests ended over one span."""

    shares: Shares
    over: str

    @property
    def share(self) -> float:
        return self.shares.bad / self.shares.total

    def words(self) -> str:
        return f"{self.shares.bad:,.0f} of {self.shares.total:,.0f} requests {self.over}"


def error_rate(name: str, service: Service, limit: float, seen: Numbers) -> Finding:
    """The worst share of failed requests, of the long window and of just now.

    The long one knows the night; the short one an outage of which a whole day makes little.

    Args:
        name: the service; the subject of the finding.
        service: its engine.
        limit: the objective, share 0..1.
        seen: its numbers.
    """
    found = unknown("error rate", name, "", f"≤ {percent(limit)}")
    span = LONG if seen.rates else ""
    ended, why = _ended(service, seen, span)
    recent, lost = _ended(service, seen, "") if seen.rates else ([], "")
    # That nothing was counted just now is no gap where the long window tells of it.
    why = why or (lost if lost != seen.missing else "")
    if not ended and not recent:
        quiet = f"{NO_TRAFFIC} {seen.long_over}: no request was answered"
        known, _ = shares_of(SOURCES[service.engine], seen, span)
        return because(found, quiet if known else why or quiet)
    bad = [one for one in (*ended, *recent) if one.share > limit]
    sure = [one for one in bad if not _single(one, limit)]
    few = [one for one in bad if one in ended]
    worst = max(sure or few or ended or recent, key=lambda one: one.share)
    update = {
        "value": f"{told(worst.share * 100, limit * 100)} %",
        "evidence": worst.words(),
    }
    if sure:
        failed = {**update, "status": "fail", "suggests": "remediate-outage"}
        return found.model_copy(update=failed)
    if few:
        update["evidence"] += "; too few to call it a rate"
        return found.model_copy(update={**update, "status": "warn"})
    if why:
        return because(found, why)
    if seen.thin:
        return because(found.model_copy(update=update), f"{worst.words()}; {seen.thin}")
    aborted = max((one.shares.aborted / one.shares.total for one in ended), default=0.0)
    if aborted > limit:
        update["evidence"] += f"; clients gave up on {told_share(aborted, limit)}"
        advice = "see whether they time out or cancel: aborts are not counted as errors"
        return found.model_copy(update={**update, "status": "warn", "advice": advice})
    return found.model_copy(update={**update, "status": "ok"})


def _ended(service: Service, seen: Numbers, span: str) -> tuple[list[_Ended], str]:
    """The sources that counted anything over a span, and why one is not known."""
    shares, why = shares_of(SOURCES[service.engine], seen, span)
    over = seen.long_over if span or not seen.rates else seen.over
    return [_Ended(one, over) for one in shares if one.total > 0], why


def _single(one: _Ended, limit: float) -> bool:
    """One error among a few requests is above any objective; it is no rate yet."""
    return one.shares.bad < 1.5 and one.shares.total < 1 / limit if limit else False


def throughput(name: str, service: Service, floor: float, seen: Numbers) -> Finding:
    """Served requests per second. Few of them fail only while others wait: else nobody asks.

    Args:
        name: the service; the subject of the finding.
        service: its engine and objectives.
        floor: the objective, requests per second.
        seen: its numbers.
    """
    found = unknown("throughput", name, "", f"≥ {floor:g} requests/s")
    shares, why = shares_of(SOURCES[service.engine][-1:], seen)
    if not shares:
        return because(found, why)
    if seen.span_s is None:
        return because(found, "over which time it was counted is not known")
    if not seen.rates and seen.span_s < YOUNG_S:
        return because(found, f"it started {seen.span_s:.0f} s ago: too early to tell")
    done = max(0.0, shares[0].total - shares[0].bad - shares[0].aborted)
    rate = done / seen.span_s
    update = {"value": f"{told(rate, floor)} requests/s", "evidence": seen.over}
    if rate >= floor:
        if seen.thin and not seen.rates:
            return because(found.model_copy(update=update), f"{seen.over}; {seen.thin}")
        return found.model_copy(update={**update, "status": "ok"})
    waiting = total(seen.answers.get("waiting", ()))
    known = isinstance(waiting, float)
    held = waiting if isinstance(waiting, float) else 0.0
    # An average since the start is as low as the demand of all those nights was.
    if seen.rates and held > 0:
        update["evidence"] += f"; {held:,.0f} wait meanwhile"
        more = slower(service) if done else {"suggests": "remediate-outage"}
        return found.model_copy(update={**update, "status": "fail", **more})
    if held > 0:
        why = f"{held:,.0f} wait now, but it is an average"
    elif known:
        why = "nothing waits: it may be the demand that is low"
    else:
        why = "whether requests wait is not known: it may be the demand that is low"
    said = f"no request was served {seen.over}" if done <= 0 else seen.over
    return found.model_copy(update={**update, "status": "warn", "evidence": f"{said}; {why}"})


def slower(service: Service) -> dict[str, str]:
    """What makes it faster: the procedure needs a vLLM server with a latency objective."""
    if service.engine == "http":
        return {"advice": "let less through to it, or add another one"}
    if service.engine != "vllm":
        return {"advice": "look at the servers behind it: theirs are checked as well"}
    if not objectives(service.slo):
        return {"advice": "lower max_num_seqs; with slo.p95_latency_s set, remediate-latency does"}
    return {"suggests": "remediate-latency"}


def unknown(check: str, subject: str, evidence: str, threshold: str = "") -> Finding:
    """A finding that nothing was measured for yet."""
    return Finding(
        check=check, subject=subject, status="unknown", evidence=evidence, threshold=threshold
    )


def because(found: Finding, why: str) -> Finding:
    """The finding with the reason why it is not known."""
    return found.model_copy(update={"evidence": why[:300]})


def percent(share: float) -> str:
    """`95 %`."""
    return f"{share * 100:g} %"


def told_share(share: float, limit: float) -> str:
    """A share in as few digits as show on which side of its limit it is."""
    return f"{told(share * 100, limit * 100)} %"
