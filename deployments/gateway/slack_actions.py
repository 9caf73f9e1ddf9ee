"""Buttons."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from blocks.slack_blocks import clip, code
from deployments.gateway.slack_answers import Decision, acknowledge, decide
from deployments.gateway.slack_call import Call
from deployments.gateway.slack_procedures import names
from deployments.gateway.slack_reading import read_tail
from deployments.gateway.slack_start import confirmed, memo_of, propose
from deployments.gateway.slack_words import HELP, Told, quoted

LOG_LIMIT = 3500


def carried(value: str) -> dict[str, str]:
    """What a button's value says; texts only, and empty where it is none of ours."""
    try:
        found = json.loads(value)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, str)}


async def click(call: Call, action: dict[str, Any]) -> None:
    """Do what a button says.

    Raises:
        RunbookError: it cannot be done; the text is for who clicked.
    """
    name = str(action.get("action_id", "")).partition(":")[0]
    act = _BUTTONS.get(name)
    if act:
        await act(call, str(action.get("value") or ""))


async def _decide(call: Call, decision: Decision, value: str) -> None:
    said = carried(value)
    if not (said.get("run") and said.get("digest")):
        raise Told("This button names no plan any more; `/runbook` shows what waits now.")
    await call.say_if(await decide(call, decision, said["run"], said["digest"]))


async def _approve(call: Call, value: str) -> None:
    await _decide(call, "approve", value)


async def _reject(call: Call, value: str) -> None:
    await _decide(call, "reject", value)


async def _ack(call: Call, value: str) -> None:
    if await call.permitted("operator"):
        await call.say(await acknowledge(call, carried(value).get("incident", "")))


async def _show_log(call: Call, value: str) -> None:
    service = carried(value).get("service", "")
    # A log may hold what its users sent: that is not for everybody who may look.
    if not await call.permitted("operator", what=f"show-log {service}"):
        return
    if service not in call.spec.services:
        raise Told(f"There is no service {quoted(service, 60)} in {quoted(call.spec.name)}.")
    text = await read_tail(call.spec, service)
    if not text.strip():
        await call.say(f"The log of {quoted(service, 60)} is empty.")
        return
    # The end of a log says more than its beginning: what is too long loses its first lines.
    while len(code(text)) > LOG_LIMIT and "\n" in text:
        text = text.partition("\n")[2]
    await call.say(f"Log of {quoted(service, 60)}\n{clip(code(text), LOG_LIMIT)}")


async def _run(call: Call, value: str) -> None:
    said = carried(value)
    procedure = said.get("procedure", "")
    if not await call.permitted("operator", procedure, f"run {procedure}"):
        return
    if procedure not in names():
        raise Told(f"There is no procedure {quoted(procedure, 60)} any more.")
    await propose(call, procedure, said.get("service", ""), {})


async def _start(call: Call, value: str) -> None:
    await confirmed(call, memo_of(value))


async def _cancel(call: Call, value: str) -> None:
    if await call.permitted("viewer"):
        await call.say("Nothing was started.", replace_original=True)


async def _help(call: Call, value: str) -> None:
    if await call.permitted("viewer"):
        await call.say(HELP)


_BUTTONS: dict[str, Callable[[Call, str], Awaitable[None]]] = {
    "approve": _approve,
    "reject": _reject,
    "ack": _ack,
    "show-log": _show_log,
    "run": _run,
    "start": _start,
    "cancel": _cancel,
    "help": _help,
}
