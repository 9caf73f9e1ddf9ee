"""The commands after `/runbook`."""

from collections.abc import Awaitable, Callable

from blocks.errors import Permanent
from blocks.slack_blocks import escape, message
from deployments.gateway.slack_answers import acknowledge, close, decide, waiting_here
from deployments.gateway.slack_call import Call
from deployments.gateway.slack_freeze import freeze as add_freeze
from deployments.gateway.slack_freeze import unfreeze as end_freezes
from deployments.gateway.slack_freeze import words_of
from deployments.gateway.slack_line import Line, Wanted, lasting, wanted
from deployments.gateway.slack_menu import answer_buttons, show_menu, status_text
from deployments.gateway.slack_procedures import names
from deployments.gateway.slack_reading import find_run, look_now, read_record, run_url
from deployments.gateway.slack_start import propose
from deployments.gateway.slack_why import story
from deployments.gateway.slack_words import HELP, Told, quoted, suggestion
from deployments.gateway.state import record_fact


async def obey(call: Call, line: Line) -> None:
    """Do what a command says.

    Raises:
        RunbookError: it cannot be done; the text is for who asked.
    """
    await _VERBS[line.verb](call, line.words)


async def _menu(call: Call, words: tuple[str, ...]) -> None:
    if await call.permitted("viewer"):
        await show_menu(call)


async def _help(call: Call, words: tuple[str, ...]) -> None:
    if await call.permitted("viewer"):
        procedures = ", ".join(f"`{n}`" for n in names())
        await call.say(f"{HELP}\n*Procedures* {procedures}")


async def _status(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("viewer"):
        return
    known = list(call.spec.services)
    for word in words:
        if word not in known:
            raise Told(
                f"There is no service {quoted(word, 60)} in {quoted(call.spec.name)}; "
                f"{suggestion(word, known)}"
            )
    found = await look_now(call.spec, list(dict.fromkeys(words)) or known)
    await call.say(status_text(call.spec.name, found))


async def _run(call: Call, words: tuple[str, ...]) -> None:
    try:
        asked: Wanted = wanted(words, names())
    except Permanent:
        if await call.permitted("operator"):
            raise
        return
    if await call.permitted("operator", asked.procedure):
        await propose(call, asked.procedure, asked.service, asked.values)


async def _why(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("viewer"):
        return
    if len(words) != 1:
        raise Told("Which run? Write `/runbook why RUN`, the first 8 digits of its id.")
    run = await find_run(call.spec.name, words[0])
    await call.say(story(run, await read_record(run, call.spec.name), run_url(str(run.id))))


async def _freeze(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("operator"):
        return
    length, reason = lasting(words)
    window = await add_freeze(call.spec.name, length, reason, call.name)
    fact = {"stack": call.spec.name, "who": call.name, "source": "slack", "what": "freeze"}
    await record_fact("freeze", {**fact, "until": str(window.until), "reason": reason})
    await call.say(
        f"{quoted(call.spec.name)} is frozen {escape(words_of(window))}\n"
        "Nothing is changed until then, by nobody and nothing; a change under way is finished. "
        "`/runbook unfreeze` ends it, and so does `runbooks apply`, which takes the file's windows."
    )


async def _unfreeze(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("operator"):
        return
    ended, still = await end_freezes(call.spec.name)
    if ended:
        fact = {"stack": call.spec.name, "who": call.name, "source": "slack", "what": "unfreeze"}
        await record_fact("freeze", {**fact, "ended": len(ended)})
    said = [f"Ended: {escape(words_of(w))}" for w in ended] or ["No freeze from Slack was on."]
    for window in still:
        said.append(
            f"Still frozen by the inventory, {escape(words_of(window))}: "
            "take it out of the file, then `runbooks apply`."
        )
    await call.say("\n".join(said))


async def _ack(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("operator"):
        return
    if len(words) != 1:
        raise Told("Which incident? Write `/runbook ack INCIDENT`; the menu lists them.")
    await call.say(await acknowledge(call, words[0]))


async def _close(call: Call, words: tuple[str, ...]) -> None:
    if not await call.permitted("operator"):
        return
    if len(words) != 1:
        raise Told("Which incident? Write `/runbook close INCIDENT`; the menu lists them.")
    await call.say(await close(call, words[0]))


async def _approve(call: Call, words: tuple[str, ...]) -> None:
    """With a digest it is approved; without one the plan is shown first, to be approved by it."""
    if len(words) == 2:
        await call.say_if(await decide(call, "approve", words[0], words[1]))
        return
    if not await call.permitted("approver"):
        return
    if len(words) != 1:
        raise Told("Which run? Write `/runbook approve RUN`; the menu lists what waits.")
    run = await find_run(call.spec.name, words[0])
    found = await waiting_here(call.spec.name, str(run.id))
    if not found:
        state = run.state.name if run.state else "unknown"
        raise Told(f"Run {quoted(str(run.id)[:8])} does not wait for an approval: {state}.")
    await call.say("A plan waits.", message(answer_buttons(call.spec.name, found[0])))


async def _reject(call: Call, words: tuple[str, ...]) -> None:
    if not 1 <= len(words) <= 2:
        if await call.permitted("approver"):
            raise Told("Which run? Write `/runbook reject RUN`; the menu lists what waits.")
        return
    await call.say_if(await decide(call, "reject", words[0], words[1] if words[1:] else ""))


_VERBS: dict[str, Callable[[Call, tuple[str, ...]], Awaitable[None]]] = {
    "menu": _menu,
    "help": _help,
    "status": _status,
    "run": _run,
    "why": _why,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
    "ack": _ack,
    "close": _close,
    "approve": _approve,
    "reject": _reject,
}
