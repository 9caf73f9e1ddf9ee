"""One entry for both ways in, Socket Mode and HTTP: which platform is meant, and what is wanted.

A request is first acknowledged (`acknowledge`, quick: Slack waits 3 s) and then worked
(`handle`, which never raises). Its transport has proved by then that it comes from Slack, and
says which stacks it may be for: those that share the secret.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from blocks.errors import RunbookError
from blocks.slack_blocks import escape
from blocks.stack import StackSpec
from deployments.gateway.slack_actions import carried, click
from deployments.gateway.slack_call import Call, log
from deployments.gateway.slack_commands import obey
from deployments.gateway.slack_line import read
from deployments.gateway.slack_modals import CALLBACK
from deployments.gateway.slack_procedures import key_of, names, ready
from deployments.gateway.slack_start import check_form, memo_of, submit
from deployments.gateway.slack_words import Told, quoted
from deployments.gateway.state import Gateway
from flows.decisions.diagnosis_text import redact

Payload = Mapping[str, Any]
MOST_AT_ONCE = 200
"""Wishes that are worked at once; more are refused, so that a storm of them stays bounded."""
BUSY = "Too much at once just now; try again in a moment."
MOST_WORDS = 100
"""Of those who are told that it is busy, at once, on top."""
_work: set["asyncio.Task[None]"] = set()


def begin(work: Coroutine[Any, Any, None], more: int = 0) -> bool:
    """Work after the acknowledgement; False when there is too much of it already."""
    if len(_work) >= MOST_AT_ONCE + more:
        work.close()
        return False
    task = asyncio.create_task(work)
    _work.add(task)  # the loop itself keeps no task alive
    task.add_done_callback(_work.discard)
    return True


def busy(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> dict[str, Any]:
    """The acknowledgement of what cannot be worked now: whoever asked is told to try again.

    A click has no answer of its own in Slack, so its words are sent apart: an approval that was
    dropped must not look like one that was given.
    """
    if payload.get("command"):
        return {"response_type": "ephemeral", "text": BUSY}
    if _is_form(payload):
        if values := _state(payload):
            return {"response_action": "errors", "errors": {str(next(iter(values))): BUSY}}
    begin(_tell_busy(gateway, stacks, payload), MOST_WORDS)
    return {}


async def _tell_busy(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> None:
    known = gateway.stacks()
    for name in (_named(payload), *stacks):
        spec = known.get(name) if name in stacks else None
        if spec and spec.slack:
            await _call(gateway, spec, payload).say(BUSY)
            return


def acknowledge(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> dict[str, Any]:
    """The acknowledgement of a request: at once, from what is known already.

    What is wrong with a submitted form must be said here; everything else is said later.
    """
    if _is_form(payload):
        errors = _form_errors(gateway, stacks, payload)
        return {"response_action": "errors", "errors": errors} if errors else {}
    words = str(payload.get("text") or "").split()
    if payload.get("command") and words[:1] == ["status"]:
        return {"response_type": "ephemeral", "text": "Looking…"}
    return {}


def _form_errors(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> dict[str, str]:
    if not ready():  # a first import takes seconds: the form is checked after the answer
        return {}
    state = _state(payload)
    try:
        memo = memo_of(str(payload["view"].get("private_metadata") or ""))
        spec = gateway.stacks().get(memo.stack if memo.stack in stacks else "")
        return check_form(_call(gateway, spec, payload), memo, state) if spec else {}
    except RunbookError:  # told afterwards, privately
        return {}


async def handle(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> None:
    """Do what a request from Slack asks for; never raises.

    Args:
        gateway: its stacks.
        stacks: names of those that the request may be for, by its secret or its connection.
        payload: the fields of a slash command, or the JSON of an interaction.
    """
    call: Call | None = None
    try:
        spec = await _meant(gateway, stacks, payload)
        if spec is None:
            return
        call = _call(gateway, spec, payload)
        await _do(call, payload)
    except RunbookError as e:
        text = str(e) if isinstance(e, Told) else escape(redact(str(e)))
        await _say(call, text)
    except Exception as e:  # noqa: BLE001 - one broken wish must not take the others
        # Not its text: that may repeat what somebody sent.
        where = e.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
        log.error("a request from Slack failed: %s at %s", type(e).__name__, at)
        await _say(call, "That failed inside the gateway; its log says where. Nothing is sure.")


async def _say(call: Call | None, text: str) -> None:
    if call:
        await call.say(text)


async def _do(call: Call, payload: Payload) -> None:
    if payload.get("command"):
        try:
            line = read(str(payload.get("text") or ""), names())
        except Told:
            if await call.permitted("viewer"):
                raise
            return
        await obey(call, line)
    elif payload.get("type") == "block_actions":
        if action := _action(payload):
            await click(call, dict(action))
    elif _is_form(payload):
        view = payload["view"]
        memo = memo_of(str(view.get("private_metadata") or ""))
        await submit(call, memo, _state(payload), str(view.get("id") or ""))


def _state(payload: Payload) -> Mapping[str, Any]:
    """What stands in a form's inputs, by block; only those that are formed as Slack's are."""
    state = payload["view"].get("state")
    values = state.get("values") if isinstance(state, Mapping) else None
    if not isinstance(values, Mapping):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, Mapping)}


def _is_form(payload: Payload) -> bool:
    view = payload.get("view")
    ours = isinstance(view, Mapping) and view.get("callback_id") == CALLBACK
    return payload.get("type") == "view_submission" and ours


async def _meant(gateway: Gateway, stacks: Sequence[str], payload: Payload) -> StackSpec | None:
    """The stack that a request is for; None when that cannot be told, which is then said."""
    known = gateway.stacks()
    specs = {n: known.get(n) or await gateway.stack(n) for n in stacks}
    usable = {n: s for n, s in specs.items() if s.slack is not None}
    named = _named(payload)
    if named in usable:
        return usable[named]
    where = _channel(payload)
    here = {n: s for n, s in usable.items() if where in s.people.channels}
    fitting = here if len(here) == 1 else usable
    if not named and len(fitting) == 1:
        return next(iter(fitting.values()))
    if usable:  # answered through any of them: they share the workspace
        call = _call(gateway, next(iter(usable.values())), payload)
        open_here = [n for n, s in usable.items() if not s.people.channels or n in here]
        await call.audit("viewer", "", f"no stack {named!r}" if named else "no stack named")
        missing = f"There is no stack {quoted(named, 60)} here" if named else "Which stack?"
        there = ", ".join(quoted(n) for n in open_here) or "none in this channel"
        await call.say(f"{missing} Add `stack=NAME`; there is: {there}.")
    return None


def _named(payload: Payload) -> str:
    """The stack that a command, a button or a form names; empty: none."""
    if payload.get("command"):
        words = str(payload.get("text") or "")[:3000].split()
        return next((w.partition("=")[2] for w in words if w.startswith("stack=")), "")
    if _is_form(payload):
        source = str(payload["view"].get("private_metadata") or "")
    else:
        source = str(_action(payload).get("value") or "")
    return carried(source).get("stack", "")


def _action(payload: Payload) -> Mapping[str, Any]:
    found = payload.get("actions")
    first = found[0] if isinstance(found, list) and found else {}
    return first if isinstance(first, Mapping) else {}


def _part(payload: Payload, name: str) -> str:
    found = payload.get(name)
    return str(found.get("id") or "") if isinstance(found, Mapping) else ""


def _memo(payload: Payload) -> dict[str, str]:
    return carried(str(payload["view"].get("private_metadata") or "")) if _is_form(payload) else {}


def _channel(payload: Payload) -> str:
    memo = _memo(payload).get("channel", "")
    return str(payload.get("channel_id") or "") or _part(payload, "channel") or memo


def _call(gateway: Gateway, spec: StackSpec, payload: Payload) -> Call:
    trigger = str(payload.get("trigger_id") or "")
    if payload.get("command"):
        asked = f"/runbook {payload.get('text') or ''}".strip()
    elif _is_form(payload):
        asked = f"form {_memo(payload).get('procedure', '')}"
    else:
        asked = f"button {_action(payload).get('action_id', '')}"
    return Call(
        gateway=gateway,
        spec=spec,
        user=str(payload.get("user_id") or "") or _part(payload, "user"),
        channel=_channel(payload),
        asked=asked,
        response_url=str(payload.get("response_url") or "") or _memo(payload).get("url", ""),
        trigger_id=trigger,
        key=key_of("trigger", trigger),
    )
