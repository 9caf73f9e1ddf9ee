"""What the readings of one service mean: decoding, restarts, error lines, image, drift. Pure."""

import re
from datetime import datetime, timedelta

from blocks.check_memory import Remembered
from blocks.check_policy import CheckPolicy
from blocks.models import Frozen, ServiceState, Serving, ServingConfig
from blocks.service import Service
from flows.decisions.diagnosis import Diagnosis
from flows.decisions.finding import Finding
from flows.decisions.health import Expectation, judge
from flows.decisions.log_errors import LogErrors
from flows.decisions.words import span

FIRST = "first check: compared from the next one on"
OUTAGE = "remediate-outage"
UNCOUNTED = "its status does not tell how often it restarted"
COUNT = "let runtime.status tell the count: docs/runtimes.md, Status formats"


class ServiceReading(Frozen):
    """One service at one instant. `None` = could not be read; `problems` says why, by part."""

    name: str
    state: ServiceState | None = None
    serving: Serving | None = None
    config: ServingConfig | None = None
    errors: LogErrors | None = None
    log_cut: str = ""
    """Why what was read is not all of the log within the window; empty: it is all."""
    image: str | None = None
    """Empty: no container."""
    diagnosis: Diagnosis | None = None
    """Of a service that does not serve."""
    problems: dict[str, str] = {}

    def unread(self, part: str) -> str:
        """Why a part could not be read."""
        return self.problems.get(part) or self.problems.get("state") or "it was not read"


def decoding(
    service: Service, reading: ServiceReading, expected: Expectation, now: datetime
) -> Finding:
    """Whether it serves: one decoded token, or its health path where there is nothing to decode.

    A server that is still loading warns, and fails once it loads for longer than its start
    time-out. The diagnosis of the log names the procedure; without one it is the checklist of
    an outage.
    """
    found = Finding(
        check="decoding" if expected.decodes else "answering",
        subject=reading.name,
        status="unknown",
        threshold="one token" if expected.decodes else "HTTP 200",
    )
    if reading.state is None:
        return found.model_copy(update={"evidence": reading.unread("state")})
    health = judge(reading.state, reading.serving, expected)
    found = found.model_copy(update={"evidence": health.reason, "value": health.status})
    if health.status == "healthy":
        return found.model_copy(update={"status": "ok"})
    if health.status == "unknown":
        why = reading.problems.get("serving")
        return found.model_copy(update={"value": "", "evidence": why or health.reason})
    if health.status == "loading":
        limit = service.policy.start_timeout_s
        began = reading.state.started_at
        if began is None:
            evidence = f"{health.reason}; since when is not known"
            return found.model_copy(update={"value": "", "evidence": evidence})
        took = (now - began).total_seconds()
        found = found.model_copy(
            update={
                "value": f"loading for {span(took)}",
                "threshold": f"{found.threshold} within {span(limit)}",
            }
        )
        if took <= limit:
            return found.model_copy(update={"status": "warn"})
    return found.model_copy(update={"status": "fail", **_remedy(reading, health.reason)})


def _remedy(reading: ServiceReading, reason: str) -> dict[str, str]:
    """What would mend a service that does not serve, and what its log says."""
    cause = reading.diagnosis
    if cause is None or cause.label == "healthy_noise" or "recovered_in_last_start" in cause.facts:
        return {"suggests": OUTAGE}
    line = f": {cause.evidence[0]}" if cause.evidence else ""
    words = {"evidence": f"{reason}; {cause.label}{line}"[:300]}
    if cause.remedy:
        return {**words, "suggests": cause.remedy.replace("_", "-")}
    return {**words, "advice": cause.advice}


def restarts(
    reading: ServiceReading, before: Remembered | None, now: datetime, policy: CheckPolicy
) -> Finding:
    """Restarts since the last check, or within the window where there was none.

    Another container or process counts as one restart, and so does a start after the last
    check without a counted one. Where the status tells no count it is at least that one, or
    unknown. Handbook 003: a service that restarts is looked at.
    """
    found = Finding(
        check="restarts",
        subject=reading.name,
        status="unknown",
        threshold=f"0, fail from {policy.restarts_fail}",
    )
    state = reading.state
    if state is None or state.phase == "unknown":
        detail = state.detail if state else ""
        return found.model_copy(update={"evidence": detail or reading.unread("state")})
    if state.started_at is None:
        return found.model_copy(update={"evidence": f"{state.phase}; when it started is not known"})
    least = ""
    if before is None or before.started_at is None:
        count, since = _restarts_within(state, now - timedelta(hours=policy.window_h))
        if count is None:
            evidence = f"started {ago(state.started_at, now)}; {since}"
            return found.model_copy(update={"evidence": evidence, "advice": COUNT})
        since = f"{since}, in a window of {policy.window_h:g} h" if count else since
    else:
        count = _restarts_since(state, before)
        since = f"since the check {ago(before.at, now)}"
        if count and state.instance != before.instance:
            since += "; it is another container or process now"
        if count and not state.restarts_known:
            least, since = "≥ ", f"{since}; {UNCOUNTED}"
    return found.model_copy(
        update={
            "status": "ok" if count == 0 else "warn" if count < policy.restarts_fail else "fail",
            "value": f"{least}{count}",
            "evidence": f"{since}; started {ago(state.started_at, now)}",
            "suggests": "remediate-crash" if count >= policy.restarts_fail else "",
            "advice": "see why it ended: runbooks diagnose" if count else "",
        }
    )


def _restarts_since(state: ServiceState, before: Remembered) -> int:
    """At least so many; exactly so many where the runtime counts them."""
    if state.started_at == before.started_at:
        return 0
    if not state.restarts_known:
        return 1
    # A pid is another one after every start, and the count of its unit goes on.
    container = bool(state.instance) and not state.instance.isdecimal()
    if container and state.instance != before.instance:
        return 1 + state.restarts
    counted = state.restarts - before.restarts
    # Less than before: a start by hand, which is one, set the count back to zero.
    return 1 + state.restarts if counted < 0 else max(1, counted)


def _restarts_within(state: ServiceState, begin: datetime) -> tuple[int | None, str]:
    """Without an earlier check: the runtime's own count, where the latest start is recent."""
    if state.started_at is None or state.started_at < begin:
        return 0, "no automatic restart"
    if not state.restarts_known:
        return None, UNCOUNTED
    if not state.restarts:
        return 0, "no automatic restart"
    return state.restarts, "since it was created"


def error_lines(reading: ServiceReading, since: datetime, policy: CheckPolicy) -> Finding:
    """Error lines of its log within the window, grouped; what is known to be benign left out.

    Few in a part of the window say nothing of the rest of it: that is unknown.
    """
    window = f"{policy.window_h:g} h"
    found = Finding(
        check="error lines",
        subject=reading.name,
        status="unknown",
        threshold=f"< {policy.error_lines_warn} in {window}",
    )
    errors = reading.errors
    if errors is None:
        return found.model_copy(update={"evidence": reading.unread("log")})
    bad = errors.count >= policy.error_lines_warn
    notes, value = [], str(errors.count)
    short = bool(reading.log_cut) and (errors.reaches is None or errors.reaches > since)
    if short:
        form = "%H:%M" if policy.window_h <= 24 else "%d %b %H:%M"
        at = errors.reaches and f"{errors.reaches.astimezone(since.tzinfo):{form}}"
        value += f" since {at}" if at else " in what was read"
        notes.append(f"only a part was read: {reading.log_cut}")
    if not errors.dated:
        notes.append("no time stamps: the whole log")
    said = [f"{g.count}× {g.sample}" for g in errors.groups[:3]]
    more = len(errors.groups) - len(said)
    if more > 0:
        said.append(f"and {more} more")
    return found.model_copy(
        update={
            "status": "warn" if bad else "unknown" if short else "ok",
            "value": value,
            "evidence": "; ".join(notes + said),
            "advice": "look: runbooks diagnose" if errors.count else "",
        }
    )


def image(reading: ServiceReading) -> Finding | None:
    """Whether its image is pinned; None where there is no container.

    Handbook 000, 2.1: "never latest". A digest or an image id is pinned, and so is a tag with a
    number in it; `main`, `stable` or `nightly` is another image tomorrow.
    """
    found = Finding(
        check="image", subject=reading.name, status="unknown", threshold="a version or a digest"
    )
    if reading.image is None:
        return found.model_copy(update={"evidence": reading.unread("image")})
    if not reading.image:
        return None
    found = found.model_copy(update={"value": reading.image})
    name, _, digest = reading.image.partition("@")
    if digest or name.startswith("sha256:"):
        return found.model_copy(update={"status": "ok"})
    _, _, tag = name.rsplit("/", 1)[-1].partition(":")
    if any(c.isdigit() for c in tag) and not re.search(r"(?:^|[-_.])latest(?:$|[-_.])", tag):
        return found.model_copy(update={"status": "ok"})
    return found.model_copy(
        update={
            "status": "warn",
            "evidence": f"tag {tag}: another pull is another image" if tag else "no tag: latest",
            "advice": "start it from a version tag or a digest",
        }
    )


def drift(
    reading: ServiceReading, applied: ServingConfig | None, before: ServingConfig | None
) -> Finding:
    """Whether its written config is what was last applied, else what the last check saw."""
    found = Finding(check="drift", subject=reading.name, status="unknown")
    if reading.config is None:
        return found.model_copy(update={"evidence": reading.unread("config")})
    reference = applied or before
    if reference is None:
        return found.model_copy(update={"evidence": FIRST})
    source = "the last change that was kept" if applied else "the last check"
    changes = reference.diff(reading.config)
    if not changes:
        return found.model_copy(
            update={"status": "ok", "value": "none", "evidence": f"as {source} left it"}
        )
    back = [f"-p {k}={was}" for k, (was, _) in changes.items() if was is not None and "." not in k]
    return found.model_copy(
        update={
            "status": "warn",
            "value": ", ".join(f"{k} {_word(now)}" for k, (_, now) in changes.items()),
            "threshold": ", ".join(f"{k} {_word(was)}" for k, (was, _) in changes.items()),
            "evidence": f"edited since {source}",
            "suggests": "apply-serving" if len(back) == len(changes) else "",
            "advice": " ".join(back)
            if len(back) == len(changes)
            else "somebody edited it by hand: put it back, or apply what is right",
        }
    )


def _word(value: object) -> str:
    return "not set" if value is None else str(value)


def ago(at: datetime, now: datetime) -> str:
    """How long ago."""
    return f"{span((now - at).total_seconds())} ago"
