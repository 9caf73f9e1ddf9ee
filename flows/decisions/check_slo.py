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
from flows.decisions.slo_counted import (
    NO_TRAFFIC,
    because,
    error_rate,
    percent,
    slower,
    throughput,
    told_share,
    unknown,
)
from flows.decisions.slo_numbers import (
    Answers,
    Numbers,
    from_page,
    from_prometheus,
    is_scraped,
    queries,
    told,
    total,
    wanted,
)

LEVELS = "service levels"


def slo_queries(service: Service, window: str, policy: CheckPolicy) -> dict[str, str]:
    """PromQL by the number it asks for; empty where the inventory asks for nothing.

    Args:
        service: its objectives, engine and labels.
        window: what rates are taken over, e.g. `5m`.
        policy: how far back errors are counted as well.

    Raises:
        ValueError: a label name that cannot be, or a window that is none.
    """
    return queries(service, window, policy.window_h)


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
    seen = from_prometheus(service, answers, window, policy.window_h)
    return _judge(name, service, policy, seen)


def judge_slo_page(
    name: str, service: Service, policy: CheckPolicy, page: MetricsPage
) -> list[Finding]:
    """The same out of the service's own page, counted since it started; preemptions are left out.

    A server that runs for longer than `policy.window_h` only tells an average of the past: one
    that is bad fails, and one that is good is unknown.

    Args:
        name: the service.
        service: its objectives.
        policy: the thresholds.
        page: its page, or the problem it had.
    """
    return _judge(name, service, policy, from_page(service, page, policy.window_h))


def _judge(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> list[Finding]:
    asked = [n for n in wanted(service) if n != "in engine" and (seen.rates or n in seen.answers)]
    if not asked:
        return []
    if why := _why_nothing(asked, seen):
        return [unknown(LEVELS, name, f"not measured: {', '.join(_parts(service, asked))}; {why}")]
    found = list(_latencies(name, service, seen))
    if service.slo.error_rate is not None:
        found.append(error_rate(name, service, service.slo.error_rate, seen))
    if service.slo.throughput_rps is not None:
        found.append(throughput(name, service, service.slo.throughput_rps, seen))
    if "waiting" in asked and not _has_no_queue(service, seen):
        found.append(_queue(name, service, policy, seen))
    if service.engine == "vllm":
        found.append(_cache(name, service, policy, seen))
        found += [_preempted(name, service, seen)] if seen.rates else []
    return found


def _has_no_queue(service: Service, seen: Numbers) -> bool:
    """Not every HTTP server counts who waits: an interface or a database has nothing to tell."""
    waiting = seen.answers.get("waiting", "it was not asked for")
    none = not isinstance(waiting, str) and not waiting
    return service.engine == "http" and none and is_scraped(seen)


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
    found = unknown(f"{field.partition('_')[0]} latency", name, "", f"≤ {limit:g} s")
    answer = seen.answers.get("latency", "it was not asked for")
    if isinstance(answer, str) or not answer:
        return because(found, answer if isinstance(answer, str) else seen.missing)
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
        return because(found, f"{NO_TRAFFIC} {seen.over}: no request ended")
    count = measured.count * (seen.span_s or 0) if seen.rates else measured.count
    evidence = f"{count:,.0f} requests {seen.over}" if count >= 0.5 else seen.over
    if measured.value <= limit and measured.at_least:
        why = f"at least {measured.value:g} s: its buckets end below the objective"
        return because(found, why)
    sign = "> " if measured.at_least else ""
    update = {"value": f"{sign}{told(measured.value, limit)} s", "evidence": evidence}
    if measured.value <= limit:
        if seen.thin and not seen.rates:
            return because(found.model_copy(update=update), f"{evidence}; {seen.thin}")
        return found.model_copy(update={**update, "status": "ok"})
    return found.model_copy(update={**update, "status": "fail", **slower(service)})


def _stuck(seen: Numbers, limit: float) -> float:
    """How many requests were in the engine all the while, where that is longer than allowed."""
    held = total(seen.answers.get("in engine", ()))
    return held if isinstance(held, float) and (seen.span_s or 0) > limit else 0.0


def _queue(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> Finding:
    found = unknown("queue", name, "", f"≤ {policy.queue} waiting")
    waiting = total(seen.answers.get("waiting", "it was not asked for"))
    if isinstance(waiting, str):
        return because(found, waiting or seen.missing)
    full = waiting > policy.queue
    more = slower(service) if full else {}
    status = "warn" if full else "ok"
    return found.model_copy(update={"status": status, "value": f"{waiting:,.0f} waiting", **more})


def _cache(name: str, service: Service, policy: CheckPolicy, seen: Numbers) -> Finding:
    found = unknown("cache", name, "", f"< {percent(policy.cache)}")
    used = total(seen.answers.get("cache", "it was not asked for"), max)
    if isinstance(used, str):
        return because(found, used or seen.missing)
    if not 0 <= used <= 1.001:
        return because(found, f"{used:g} is no share of a cache (0..1)")
    full = used >= policy.cache
    more = slower(service) if full else {}
    status = "warn" if full else "ok"
    return found.model_copy(
        update={"status": status, "value": told_share(used, policy.cache), **more}
    )


def _preempted(name: str, service: Service, seen: Numbers) -> Finding:
    found = unknown("preemptions", name, "", "0")
    count = total(seen.answers.get("preemptions", "it was not asked for"))
    if isinstance(count, str):
        return because(found, count or seen.missing)
    # `increase` extrapolates: of whole preemptions it makes fractions.
    some = count > 0.01
    update = {"value": f"{math.ceil(count - 0.01):,}", "evidence": seen.over}
    advice = "the cache is too small for what runs at once: fewer sequences, or a shorter context"
    status, advice = ("warn", advice) if some else ("ok", "")
    return found.model_copy(update={**update, "status": status, "advice": advice})
