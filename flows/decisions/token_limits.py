"""How long a request the proxy lets through, against what the server behind it takes. Pure.

Source: handbook 004, "Token Limit Errors": LiteLLM's max_input_tokens at 85-90 % of vLLM's
max_model_len (16384 -> 14000, 8192 -> 7000); the burst profile 15000 of 16384.
"""

import math
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from blocks.check_policy import TokenLimits
from blocks.models import Frozen
from blocks.service import Service
from flows.decisions.finding import Finding

CHECK = "token limits"
REMEDY = "align-token-limits"
_SECOND = re.compile(r"#\d+$")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FINER = (100, 50, 10, 1)


class Misalignment(Frozen):
    """One deployment whose limit does not fit the server behind it. Tokens."""

    model: str
    """As in `ServingConfig.limits`: `MODEL`, or `MODEL#2`."""
    limit: int | None
    """max_input_tokens as written; None: not set."""
    length: int
    """max_model_len as the server reports it."""
    wanted: int

    def summary(self) -> str:
        """`llama31: 14000 of 8192, wanted 7000`."""
        written = "not set" if self.limit is None else str(self.limit)
        return f"{self.model}: {written} of {self.length}, wanted {self.wanted}"


def is_burst(model: str, rule: TokenLimits) -> bool:
    """Whether a model key names a burst profile."""
    return bool(rule.burst_suffix) and _SECOND.sub("", model).endswith(rule.burst_suffix)


def wanted(max_model_len: int, rule: TokenLimits, burst: bool) -> int:
    """The limit to set, in tokens: the share, rounded down as far as the range allows.

    A burst profile gets more than `rule.high` where that can be. At least 1.
    """
    share = rule.burst_share if burst else rule.share
    low, high = (rule.high, rule.burst_high) if burst else (rule.low, rule.high)
    least, most = math.ceil(max_model_len * low - 1e-6), math.floor(max_model_len * high + 1e-6)
    exact = max_model_len * share + 1e-6
    for unit in (rule.round_to, *(u for u in _FINER if u < rule.round_to)):
        if least <= (value := int(exact // unit) * unit) <= most:
            return max(1, value)
    return max(1, min(max(int(exact), least), most))


def aligned(limit: int, max_model_len: int, rule: TokenLimits, burst: bool) -> bool:
    """Whether a limit lies in the range; a burst profile may go up to `rule.burst_high`."""
    share = limit / max_model_len
    return rule.low - 1e-9 <= share <= (rule.burst_high if burst else rule.high) + 1e-9


def misalignments(
    limits: Mapping[str, int], lengths: Mapping[str, int], rule: TokenLimits
) -> list[Misalignment]:
    """The deployments to change; one whose server's length is not in `lengths` is left alone.

    Args:
        limits: `ServingConfig.limits` of the proxy.
        lengths: model key -> max_model_len of the server behind it, tokens.
        rule: the shares.
    """
    found = []
    for model, length in lengths.items():
        burst = is_burst(model, rule)
        limit = limits.get(f"{model}.max_input_tokens")
        # A context of one or two tokens has no number in the range: nothing to gain.
        target = wanted(length, rule, burst)
        if (limit is None or not aligned(limit, length, rule, burst)) and limit != target:
            found.append(Misalignment(model=model, limit=limit, length=length, wanted=target))
    return found


def realigned(limits: Mapping[str, int], found: list[Misalignment]) -> dict[str, int]:
    """The proxy's limits with every misalignment put right."""
    return {**limits, **{f"{m.model}.max_input_tokens": m.wanted for m in found}}


def too_long(limits: Mapping[str, int], lengths: Mapping[str, int]) -> dict[str, str]:
    """Deployments whose longest request and longest answer together exceed the context.

    Model key -> what to do about it. The server refuses such a request although the proxy's own
    limits allow both.
    """
    found = {}
    for model, length in lengths.items():
        takes, answers = (limits.get(f"{model}.max_{way}_tokens") for way in ("input", "output"))
        if takes and answers and takes <= length < takes + answers:
            found[model] = (
                f"max_input_tokens {takes} + max_output_tokens {answers} exceed {length}: lower "
                f"max_output_tokens to {length - takes}"
            )
    return found


def judge_limits(
    proxy: str,
    limits: Mapping[str, int],
    lengths: Mapping[str, int | None],
    rule: TokenLimits,
    *,
    enforced: bool | None = None,
) -> list[Finding]:
    """The findings of one proxy: one line per deployment that needs a person, one for the rest.

    Args:
        proxy: its name in the inventory.
        limits: its written limits.
        lengths: model key -> live max_model_len of the server behind it; None: not known.
        rule: the shares.
        enforced: whether its file has enable_pre_call_checks; None: not known, nothing is said.
    """
    findings = [_judge(proxy, model, limits, length, rule) for model, length in lengths.items()]
    well = [f for f in findings if f.status == "ok"]
    if len(well) > 1:
        words = f"{len(well)} models within their range"
        findings = [f for f in findings if f.status != "ok"]
        findings.append(well[0].model_copy(update={"value": words}))
    if not lengths:
        why = "its file lists no model: kept in its database, or in an included file"
        findings.append(_finding(proxy, "unknown", evidence=why))
    if enforced is False and lengths:
        findings.append(
            _finding(
                proxy,
                "warn",
                value="not enforced",
                threshold="enforced",
                evidence="router_settings.enable_pre_call_checks is not true in its file",
                advice="set it: without it LiteLLM refuses nothing for its length",
            )
        )
    return findings


def backend_of(
    model: str, api_base: str | None, services: Mapping[str, Service], routes: Mapping[str, str]
) -> str | None:
    """The service behind one deployment: as the inventory routes it, else by its api_base.

    Args:
        model: model key, `MODEL` or `MODEL#2`.
        api_base: as in LiteLLM's file, with or without /v1; one from the environment is not known.
        services: of the stack.
        routes: `Service.routes` of the proxy.
    """
    if named := routes.get(model) or routes.get(_SECOND.sub("", model)):
        return named if named in services else None
    if (base := _place(api_base or "")) is None:
        return None
    for name, service in services.items():
        place = _place(service.url)
        if place and place[:2] == base[:2] and place[2] in ("", base[2]):
            return name
    return None


def _place(url: str) -> tuple[str, int, str] | None:
    """Host, port and path without /v1; None for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = "localhost" if parts.hostname in _LOOPBACK else parts.hostname
    return host, port, parts.path.rstrip("/").removesuffix("/v1")


def _judge(
    proxy: str, model: str, limits: Mapping[str, int], length: int | None, rule: TokenLimits
) -> Finding:
    limit = limits.get(f"{model}.max_input_tokens")
    burst = is_burst(model, rule)
    high = rule.burst_high if burst else rule.high
    threshold = f"{rule.low * 100:g}-{high * 100:g} %"
    written = "not set" if limit is None else str(limit)
    if length is None:
        why = "the max_model_len of the server behind it is not known"
        advice = "if its api_base is none of the inventory's urls, name the service under routes"
        value = f"{model}: {written}"
        return _finding(proxy, "unknown", value, threshold, why, advice=advice)
    value = f"{model}: {written} of {length}"
    if limit is None:
        why = "max_input_tokens is not in its file: the proxy lets any length through"
        return _finding(proxy, "unknown", value, threshold, why, suggests=REMEDY)
    if limit > length:
        why = f"the proxy lets through what the server refuses, from {length + 1} tokens on"
        return _finding(proxy, "fail", value, threshold, why, suggests=REMEDY)
    share = f"{limit / length * 100:.1f} % of the server's max_model_len"
    if not aligned(limit, length, rule, burst):
        return _finding(proxy, "warn", value, threshold, share, suggests=REMEDY)
    if advice := too_long(limits, {model: length}).get(model, ""):
        return _finding(proxy, "warn", value, threshold, share, advice=advice)
    return _finding(proxy, "ok", value, threshold, share)


def _finding(
    proxy: str,
    status: str,
    value: str = "",
    threshold: str = "",
    evidence: str = "",
    suggests: str = "",
    advice: str = "",
) -> Finding:
    return Finding.model_validate(
        {
            "check": CHECK,
            "subject": proxy,
            "status": status,
            "value": value,
            "threshold": threshold,
            "evidence": evidence,
            "suggests": suggests,
            "advice": advice,
        }
    )
