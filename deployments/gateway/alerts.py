"""POST /alerts: check who sends, check what it is, write it down, answer.

Nothing else happens before the answer: the dispatcher works what was written.
"""

import hmac
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from blocks.errors import Transient
from deployments.gateway.alert_models import Notification, Received, received
from deployments.gateway.metrics import bounded
from deployments.gateway.state import AT_ONCE_S, Gateway, log

SHOWN, FAULTS = 60, 5
"""Characters of a wrong value, and faults, that an answer repeats."""


class _Refused(Exception):
    def __init__(self, status: int, error: Any) -> None:
        super().__init__(status)
        self.status, self.error = status, error


def router(gateway: Gateway) -> APIRouter:
    """The two endpoints that Alertmanager may post to."""
    routes = APIRouter()

    async def post(request: Request, stack: str) -> JSONResponse:
        try:
            return await _take(gateway, request, stack)
        except _Refused as e:
            if e.status == 401:
                gateway.refused(stack)
            return _refusal(e.status, e.error)
        except Transient:
            said = "the inbox takes nothing now: /healthz says why; Alertmanager sends it again"
            return _refusal(503, said)

    @routes.post("/alerts/{stack}")
    async def of_stack(request: Request, stack: str) -> JSONResponse:
        """Alerts of one stack."""
        return await post(request, stack)

    @routes.post("/alerts")
    async def of_any(request: Request) -> JSONResponse:
        """Alerts whose stack is the only one, or stands in the label `stack`."""
        return await post(request, "")

    return routes


def _refusal(status: int, error: Any) -> JSONResponse:
    headers = {"Retry-After": "5"} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error}, status, headers)


async def _take(gateway: Gateway, request: Request, stack: str) -> JSONResponse:
    token = _bearer(request)
    allowed = await _allowed(gateway, token, stack)
    said = _parsed(await request.body(), token)
    alerts = [
        received(_stack_of(alert.labels, stack, allowed, gateway, n), alert)
        for n, alert in enumerate(said.alerts)
    ]
    if said.truncatedAlerts:
        log.warning("%d alerts of a group were left out by Alertmanager", said.truncatedAlerts)
    new, known = await gateway.inbox.accept(alerts, time.time())
    _count(gateway, alerts, known)
    answer = {"accepted": new, "duplicates": known, "truncated": said.truncatedAlerts}
    return JSONResponse(answer, 202)


def _count(gateway: Gateway, alerts: list[Received], known: int) -> None:
    if known:
        # Of one notification all alerts have one stack, but for the label's rare use.
        stack = bounded(alerts[0].stack, gateway.stacks())
        gateway.metrics.alerts.labels(stack, "deduplicated").inc(known)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _allowed(gateway: Gateway, token: str, stack: str) -> list[str]:
    """The stacks that a token opens, among those that are meant.

    A stack that does not exist is answered as a wrong token is, after the same look.
    """
    if token:
        if not (found := _opened(gateway, token, stack)):
            # A new stack, or a token that was changed a moment ago.
            await gateway.refresh(AT_ONCE_S)
            found = _opened(gateway, token, stack)
        if found:
            return found
    if not gateway.known:
        raise Transient("the stacks could not be read yet")
    raise _Refused(401, "a valid bearer token is needed")


def _opened(gateway: Gateway, token: str, stack: str) -> list[str]:
    given = token.encode(errors="replace")
    found = []
    for name, wanted in gateway.tokens().items():
        # Each is compared, so that the time does not tell which stacks there are.
        if hmac.compare_digest(given, wanted.encode()) and stack in ("", name):
            found.append(name)
    return found


def _stack_of(
    labels: dict[str, str], stack: str, allowed: list[str], gateway: Gateway, number: int
) -> str:
    if stack:
        return stack
    named = labels.get("stack", "")
    if named in allowed:
        return named
    if len(gateway.tokens()) == 1:
        return allowed[0]
    if named:
        raise _Refused(401, "a valid bearer token is needed")
    fault = {
        "field": f"alerts.{number}.labels.stack",
        "problem": "is missing, and there are several stacks",
        "remedy": "post to /alerts/STACK, or give the alert the label stack",
    }
    raise _Refused(422, [fault])


def _parsed(body: bytes, token: str) -> Notification:
    try:
        return Notification.model_validate_json(body)
    except ValidationError as e:
        errors = e.errors(include_url=False, include_context=False)
    except (ValueError, RecursionError):
        raise _Refused(400, "the body is no JSON; send Alertmanager's webhook, version 4") from None
    if errors[0]["type"] == "json_invalid":
        said = f"the body is no JSON ({errors[0]['msg'][:120]}); send Alertmanager's webhook"
        raise _Refused(400, said)
    raise _Refused(422, [_fault(error, token) for error in errors[:FAULTS]])


def _fault(error: Any, token: str) -> dict[str, str]:
    """One fault: the field, what it holds (shortened, and never the token), and the remedy."""
    value = repr(error["input"]).replace(token, "***")[:SHOWN]
    field = ".".join(str(part).replace(token, "***")[:SHOWN] for part in error["loc"]) or "body"
    remedy = "send Alertmanager's webhook unaltered"
    if field == "version":
        remedy = 'send version "4": Alertmanager 0.15 or newer'
    elif error["type"] == "missing":
        value = "missing"
    problem = error["msg"].replace(token, "***")[:120]
    return {"field": field[:200], "value": value, "problem": problem, "remedy": remedy}
