"""What `runbooks doctor` says of the gateway of this machine."""

import asyncio
import json
import urllib.error
import urllib.request

from blocks.stack import StackSpec
from deployments.connection import read_up
from deployments.doctor_line import Line
from flows.decisions.finding import Status

_FIX = "restart `runbooks up`; its log is gateway.log beside worker.log"


async def gateway_lines(spec: StackSpec) -> list[Line]:
    """Whether the gateway that takes this stack's alerts and Slack commands is well.

    Only the one of this machine's `runbooks up` can be asked; a stack that needs none has no line.
    """
    if spec.alerts is None and not (spec.slack and (spec.slack.app_token or _by_http(spec))):
        return []
    up = read_up()
    if up is None or not up.gateway:
        said = "no `runbooks up` of this home runs one: alerts and Slack commands reach nobody here"
        return [_line("warn", said, "runbooks up, or run doctor on the machine of the gateway")]
    status, said = await asyncio.to_thread(_ask, up.gateway)
    return [_line(status, f"{up.gateway}: {said}", "" if status == "ok" else _FIX)]


def _by_http(spec: StackSpec) -> bool:
    return bool(spec.slack and spec.slack.signing_secret)


def _ask(url: str) -> tuple[Status, str]:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:  # noqa: S310 - ours
            return "ok", _words(answer.read(4096))
    except urllib.error.HTTPError as e:
        return "fail", _words(e.read(4096))
    except (OSError, ValueError) as e:
        return "fail", f"does not answer: {type(e).__name__}"


def _words(body: bytes) -> str:
    try:
        parts = json.loads(body)
        return ", ".join(f"{k} {v}" for k, v in parts.items() if k != "status")[:300]
    except (ValueError, AttributeError):
        return "answers something else than the gateway"


def _line(status: Status, message: str, fix: str) -> Line:
    return Line(area="gateway", subject="alerts and Slack", status=status, message=message, fix=fix)
