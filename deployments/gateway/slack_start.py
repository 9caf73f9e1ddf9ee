"""From the wish for a run to the run: what is missing is asked for, what is there is confirmed."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from blocks.models import Frozen
from blocks.slack_blocks import actions, button, escape, message, section
from deployments.gateway.slack_call import Call
from deployments.gateway.slack_modals import (
    DRY_RUN,
    Field,
    named,
    texts_of,
    values_of,
    view,
)
from deployments.gateway.slack_procedures import inputs, key_of, missing, parameters, start
from deployments.gateway.slack_words import Told, quoted, suggestion
from flows.decisions.plan import shown

VALUE_LIMIT = 2000
"""Characters of a button's value."""


class Memo(Frozen):
    """What a form carries with it, and a confirmation's button."""

    stack: str
    procedure: str
    channel: str = ""
    url: str = ""
    """The response_url of the command that asked."""
    values: dict[str, Any] = {}
    key: str = ""


def memo_of(text: str) -> Memo:
    """Read it back.

    Raises:
        Permanent: it is of another version, or not ours.
    """
    try:
        return Memo.model_validate_json(text)
    except ValidationError:
        raise Told("This is of another version of the gateway; ask for it anew.") from None


async def propose(call: Call, procedure: str, service: str, typed: Mapping[str, str]) -> None:
    """A form when something is missing, else a confirmation.

    Raises:
        Permanent: a parameter that is unknown or invalid, named.
    """
    fields = await asyncio.to_thread(inputs, procedure, call.spec)
    texts, unknown = named({**({"service": service} if service else {}), **typed}, fields)
    if unknown:
        known = [f.name.rpartition(".")[2] for f in fields]
        raise Told(
            f"{quoted(procedure)} has no parameter {quoted(unknown[0], 60)} that Slack may set; "
            f"{suggestion(unknown[0], known)}"
        )
    given = [f for f in fields if f.name in texts]
    values, errors = values_of(texts, given)
    wanted, more = parameters(procedure, call.spec, values, call.name)
    if errors | more:
        raise Told(_faults(errors | more))
    if missing(procedure, wanted):
        await _ask(call, procedure, fields, values)
    else:
        await _confirm(call, procedure, values)


async def _ask(
    call: Call, procedure: str, fields: tuple[Field, ...], given: Mapping[str, Any]
) -> None:
    memo = Memo(
        stack=call.spec.name, procedure=procedure, channel=call.channel, url=call.response_url
    )
    form = view(procedure, call.spec.name, fields, given, memo.model_dump_json())
    await (await call.client()).open_view(call.trigger_id, form)


async def _confirm(call: Call, procedure: str, values: dict[str, Any]) -> None:
    """Ask with a button: a slip of the keyboard must not restart a server."""
    memo = Memo(stack=call.spec.name, procedure=procedure, values=values, key=call.key)
    value = memo.model_dump_json(exclude={"channel", "url"})
    if len(value) > VALUE_LIMIT:
        raise Told("That is too much for a command; use the form: leave a parameter away.")
    told = [f"*{escape(procedure)}* on {quoted(call.spec.name)}"]
    told += [f"• {escape(k)} = {quoted(shown(v), 120)}" for k, v in values.items() if k != DRY_RUN]
    if values.get(DRY_RUN):
        told.append("It plans only, and changes nothing.")
    else:
        told.append("A plan that needs an approval waits for it.")
    blocks = [
        section("\n".join(told)),
        actions(
            [
                button("Start", "start", value, style="primary"),
                button("Cancel", "cancel", json.dumps({"stack": call.spec.name})),
            ]
        ),
    ]
    await call.say(f"Start {escape(procedure)}?", message(blocks))


def check_form(call: Call, memo: Memo, state: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a submitted form, by input; quick, for Slack waits for it.

    Raises:
        Permanent: no such procedure any more.
    """
    _, errors = _filled(call, memo, state)
    fields = inputs(memo.procedure, call.spec)
    blocks = {f.name for f in fields}
    shown_at = {}
    for name, text in errors.items():
        near = [b for b in blocks if b == name or b.startswith(name + ".")]
        head = [b for b in blocks if b.partition(".")[0] == name.partition(".")[0]]
        at = next(iter(sorted(near) or sorted(head) or sorted(blocks)), "")
        shown_at[at] = text
    return shown_at


def _filled(
    call: Call, memo: Memo, state: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    fields = inputs(memo.procedure, call.spec)
    values, errors = values_of(texts_of(state, fields), fields)
    wanted, more = parameters(memo.procedure, call.spec, values, call.name)
    for name in missing(memo.procedure, wanted):
        more.setdefault(name, f"give at least one of these: {name}")
    return wanted, more | errors


async def submit(call: Call, memo: Memo, state: Mapping[str, Any], view_id: str) -> None:
    """Start what a form asks for.

    Raises:
        RunbookError: it cannot be started; the text is for who asked.
    """
    if not await call.permitted("operator", memo.procedure):
        return
    wanted, errors = await asyncio.to_thread(_filled, call, memo, state)
    if errors:  # the inventory changed since the form was checked
        raise Told(_faults(errors))
    await call.say(await start(call, memo.procedure, wanted, key_of("view", view_id)))


async def confirmed(call: Call, memo: Memo) -> None:
    """Start what a confirmation shows; the second click starts nothing.

    Raises:
        RunbookError: it cannot be started; the text is for who asked.
    """
    if not await call.permitted("operator", memo.procedure):
        return
    await asyncio.to_thread(inputs, memo.procedure, call.spec)
    wanted, errors = parameters(memo.procedure, call.spec, memo.values, call.name)
    errors |= dict.fromkeys(missing(memo.procedure, wanted), "is needed")
    if errors:
        raise Told(_faults(errors))
    key = key_of("confirm", call.user, memo.key)
    said = await start(call, memo.procedure, wanted, key)
    await call.say(said, replace_original=True)


def _faults(errors: Mapping[str, str]) -> str:
    lines = [f"• {quoted(name, 60)}: {escape(text)}" for name, text in list(errors.items())[:10]]
    return "That cannot be run:\n" + "\n".join(lines)
