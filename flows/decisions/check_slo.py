"""Does a service keep its objectives, and does its queue or cache run full. Pure.

A number that is not there is `unknown`, and so is a latency without traffic: a server that nobody
asks is neither fast nor slow.
"""

import math
from collections.abc import Iterable

from blocks.check_policy import CheckPolicy
from blocks.metric_values import MetricsPage, estimate
from blocks.service import Service
from flows.decisions.finding import Finding
from flows.decisions.latency import QUANTILES, objectives
from flows.decisions.slo_numbers import (
    SOURCES,
    Answers,
    Numbers,
    from_page,
    from_prometheus,
    queries,
    shares_of,
    told,
    total,
    wanted,
)

LEVELS = "service levels"
NO_TRAFFIC = "no traffic"
YOUNG_S = 300
"""A server that runs for less has no throughput yet, seconds."""


def slo_queries(
    service_name: str,  # noqa: ARG001 - the stack's name selects nothing; labels do
    service: Service,
    window: str,
    policy: CheckPolicy,  # noqa: ARG001
) -> dict[str, str]:
    """PromQL by the number it asks for; empty where the inventory asks for nothing.

    Args:
        service_name: the service, as the stack calls it.
        service: its objectives, engine and labels.
        window: what rates are taken over, e.g. `5m`.
        policy: the thresholds.

    Raises:
        ValueError: a label name that cannot be, or a window that is none.
    """
    return queries(service, window)


def judge_slo(
    name: str, service: Service, policy: CheckPolicy, answers: Answers, window: str = ""
) -> list[Finding]:
    """The service levels out of Prometheus' answers to `slo_queries`.

    An objective that is missed fails; a full queue or cache and preemptions warn. What has no
    number is unknown, and one reason for all of it is told once.

    Args:
        name: the service; the subject of every finding.
        service: its objectives.
        policy: the thresholds.
        answers: number -> its series, or why there are none.
        window: that of the queries; without it there is no throughput.
    """
    return _judge(name, service, policy, from_prometheus(service, answers, window))


def judge_slo_page(
    name: str, service: Service, policy: CheckPolicy, page: MetricsPage
) -> list[Finding]:
    """The same out of the service's own page, counted since it started; preemptions are left out.

    Args:
        name: the service.
        service: its objectives.
        policy: the thresholds.
        page: its page, or the problem it had.
    """
    return _judge(name, service, policy, from_page(service, page))


def _judge(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> list[Finding]:
    asked = [n for n in wanted(service) if n != "in engine" and (seen.rates or n in seen.answers)]
    if not asked:
        return []
    if why := _why_nothing(asked, seen):
        return [_unknown(LEVELS, name, f"not measured: {', '.join(_parts(service, asked))}; {why}")]
    found = list(_latencies(name, service, seen))
    if service.slo.error_rate is not None:
        found.append(_errors(name, service, service.slo.error_rate, seen))
    if service.slo.throughput_rps is not None:
        found.append(_throughput(name, service, service.slo.throughput_rps, seen))
    if service.engine == "vllm":
        found += [_queue(name, service, policy, seen), _cache(name, service, policy, seen)]
        found += [_preempted(name, service, seen)] if seen.rates else []
    return found


def _why_nothing(asked: list[str], seen: Numbers) -> str:
    """The one reason for which nothing at all was measured; empty when something was."""
    answers = [seen.answers.get(n, "it was not asked for") for n in asked]
    if len(asked) < 2 or any(not isinstance(a, str) and a for a in answers):
        return ""
    whys = {a if isinstance(a, str) else seen.missing for a in answers}
    return whys.pop() if len(whys) == 1 else ""


def _parts(service: Service, asked: list[str]) -> list[str]:
    slo = service.slo
    parts = [f"{n.partition('_')[0]} latency" for n in objectives(slo)]
    parts += ["error rate"] if slo.error_rate is not None else []
    parts += ["throughput"] if slo.throughput_rps is not None else []
    return parts + [w for n, w in (("waiting", "queue"), ("cache", "cache")) if n in asked]


def _latencies(name: str, service: Service, seen: Numbers) -> Iterable[Finding]:
    for field, limit in objectives(service.slo).items():
        yield _latency(name, service, field, limit, seen)


def _latency(name: str, service: Service, field: str, limit: float, seen: Numbers) -> Finding:
    found = _unknown(f"{field.partition('_')[0]} latency", name, "", f"≤ {limit:g} s")
    answer = seen.answers.get("latency", "it was not asked for")
    if isinstance(answer, str) or not answer:
        return _because(found, answer if isinstance(answer, str) else seen.missing)
    measured = estimate(QUANTILES[field], answer)
    if measured is None:
        if (held := _stuck(seen, limit)) and not total(answer):
            return found.model_copy(
                update={
                    "status": "fail",
                    "value": f"≥ {seen.span_s:g} s",
                    "evidence": f"no request ended {seen.over}, and {held:g} are in the engine",
                    "suggests": "remediate-outage",
                }
            )
        return _because(found, f"{NO_TRAFFIC} {seen.over}: no request ended")
    count = measured.count * (seen.span_s or 0) if seen.rates else measured.count
    evidence = f"{count:,.0f} requests {seen.over}" if count >= 0.5 else seen.over
    if measured.value <= limit and measured.at_least:
        why = f"at least {measured.value:g} s: its buckets end below the objective"
        return _because(found, why)
    sign = "> " if measured.at_least else ""
    update = {"value": f"{sign}{told(measured.value, limit)} s", "evidence": evidence}
    if measured.value <= limit:
        return found.model_copy(update={**update, "status": "ok"})
    return found.model_copy(update={**update, "status": "fail", **_slower(service)})


def _stuck(seen: Numbers, limit: float) -> float:
    """How many requests were in the engine all the while, where that is longer than allowed."""
    held = total(seen.answers.get("in engine", ()))
    return held if isinstance(held, float) and (seen.span_s or 0) > limit else 0.0


def _errors(name: str, service: Service, limit: float, seen: Numbers) -> Finding:
    found = _unknown("error rate", name, "", f"≤ {_percent(limit)}")
    sources, why = shares_of(SOURCES[service.engine], seen)
    live = [one for one in sources if one.total > 0]
    if not live:
        quiet = f"{NO_TRAFFIC} {seen.over}: no request was answered"
        return _because(found, quiet if sources else why)
    worst = max(live, key=lambda one: one.bad / one.total)
    share = worst.bad / worst.total
    aborted = max(one.aborted / one.total for one in live)
    update = {
        "value": f"{told(share * 100, limit * 100)} %",
        "evidence": _count(worst.bad, worst.total, seen),
    }
    if share > limit:
        # One error among a few requests is above any objective; it is no rate yet.
        single = worst.bad < 1.5 and worst.total < 1 / limit if limit else False
        update["evidence"] += "; too few to call it a rate" if single else ""
        status = "warn" if single else "fail"
        suggests = "" if single else "remediate-outage"
        return found.model_copy(update={**update, "status": status, "suggests": suggests})
    if why:
        return _because(found, why)
    if aborted > limit:
        update["evidence"] += f"; clients gave up on {_told(aborted, limit)}"
        advice = "see whether they time out or cancel: aborts are not counted as errors"
        return found.model_copy(update={**update, "status": "warn", "advice": advice})
    return found.model_copy(update={**update, "status": "ok"})


def _throughput(name: str, service: Service, floor: float, seen: Numbers) -> Finding:
    found = _unknown("throughput", name, "", f"≥ {floor:g} requests/s")
    shares, why = shares_of(SOURCES[service.engine][-1:], seen)
    if not shares:
        return _because(found, why)
    if seen.span_s is None:
        return _because(found, "over which time it was counted is not known")
    if not seen.rates and seen.span_s < YOUNG_S:
        return _because(found, f"it started {seen.span_s:.0f} s ago: too early to tell")
    done = shares[0].total - shares[0].bad - shares[0].aborted
    rate = max(0.0, done) / seen.span_s
    update = {"value": f"{told(rate, floor)} requests/s", "evidence": seen.over}
    if rate >= floor:
        return found.model_copy(update={**update, "status": "ok"})
    waiting = total(seen.answers.get("waiting", ()))
    if done <= 0:
        evidence = f"no request was served {seen.over}: nobody asks, or nobody gets through"
        return found.model_copy(update={**update, "status": "warn", "evidence": evidence})
    if waiting == 0:
        update["evidence"] += "; nothing waits: it may be the demand that is low"
    return found.model_copy(update={**update, "status": "fail", **_slower(service)})


def _queue(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> Finding:
    found = _unknown("queue", name, "", f"≤ {policy.queue} waiting")
    waiting = total(seen.answers.get("waiting", "it was not asked for"))
    if isinstance(waiting, str):
        return _because(found, waiting or seen.missing)
    full = waiting > policy.queue
    more = _slower(service) if full else {}
    status = "warn" if full else "ok"
    return found.model_copy(update={"status": status, "value": f"{waiting:,.0f} waiting", **more})


def _cache(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> Finding:
    found = _unknown("cache", name, "", f"< {_percent(policy.cache)}")
    used = total(seen.answers.get("cache", "it was not asked for"), max)
    if isinstance(used, str):
        return _because(found, used or seen.missing)
    if not 0 <= used <= 1.001:
        return _because(found, f"{used:g} is no share of a cache (0..1)")
    full = used >= policy.cache
    more = _slower(service) if full else {}
    status = "warn" if full else "ok"
    return found.model_copy(update={"status": status, "value": _told(used, policy.cache), **more})


def _preempted(name: str, service: Service, seen: Numbers) -> Finding:
    found = _unknown("preemptions", name, "", "0")
    count = total(seen.answers.get("preemptions", "it was not asked for"))
    if isinstance(count, str):
        return _because(found, count or seen.missing)
    # `increase` extrapolates: of whole preemptions it makes fractions.
    some = count > 0.01
    update = {"value": f"{math.ceil(count - 0.01):,}", "evidence": seen.over}
    advice = "the cache is too small for what runs at once: fewer sequences, or a shorter context"
    status, advice = ("warn", advice) if some else ("ok", "")
    return found.model_copy(update={**update, "status": status, "advice": advice})


def _slower(service: Service) -> dict[str, str]:
    """What makes it faster: the procedure needs a vLLM server with a latency objective."""
    if service.engine != "vllm":
        return {"advice": "look at the servers behind it: theirs are checked as well"}
    if not objectives(service.slo):
        return {"advice": "lower max_num_seqs; with slo.p95_latency_s set, remediate-latency does"}
    return {"suggests": "remediate-latency"}


def _unknown(check: str, subject: str, evidence: str, threshold: str = "") -> Finding:
    return Finding(
        check=check, subject=subject, status="unknown", evidence=evidence, threshold=threshold
    )


def _because(found: Finding, why: str) -> Finding:
    return found.model_copy(update={"evidence": why[:300]})


def _count(bad: float, of: float, seen: Numbers) -> str:
    return f"{bad:,.0f} of {of:,.0f} requests {seen.over}"


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _told(share: float, limit: float) -> str:
    return f"{told(share * 100, limit * 100)} %"
