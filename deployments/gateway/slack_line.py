"""The words after `/runbook`, read. Pure."""

import re
import shlex
from datetime import timedelta

from blocks.models import Frozen
from deployments.gateway.slack_words import Told, quoted, suggestion

LONGEST = 2000
"""Characters of a command; more is refused."""
VERBS = (
    *("menu", "status", "run", "why", "freeze", "unfreeze", "ack", "close", "approve"),
    *("reject", "help"),
)
ALIASES = {"?": "help", "acknowledge": "ack", "start": "run", "explain": "why", "approval": "menu"}
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,60}")
LONGEST_FREEZE = timedelta(days=14)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_STRAIGHT = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "\u00a0": " "})


class Line(Frozen):
    """One command."""

    verb: str
    words: tuple[str, ...] = ()
    stack: str = ""
    """Named with `stack=NAME`; empty: not named."""


class Wanted(Frozen):
    """What `run` asks for."""

    procedure: str
    service: str = ""
    values: dict[str, str] = {}
    """Parameter -> the text of its value, as typed."""


def read(text: str, procedures: tuple[str, ...]) -> Line:
    """The command; a procedure's name alone is short for `run`.

    Args:
        text: as Slack sends it: `&`, `<` and `>` are escaped, quotes may be curly.
        procedures: names that are known.

    Raises:
        Permanent: no such command, or it is too long.
    """
    if len(text) > LONGEST:
        raise Told(f"The command is too long: {len(text)} characters, at most {LONGEST}.")
    words = _words(text)
    named = [w.partition("=")[2] for w in words if w.startswith("stack=")]
    words = [w for w in words if not w.startswith("stack=")]
    stack = named[0] if named else ""
    if not words:
        return Line(verb="menu", stack=stack)
    first, rest = words[0], tuple(words[1:])
    verb = ALIASES.get(first.lower(), first.lower())
    if verb in VERBS:
        return Line(verb=verb, words=rest, stack=stack)
    if _dashed(first) in procedures:
        return Line(verb="run", words=(_dashed(first), *rest), stack=stack)
    hint = suggestion(_dashed(first), (*VERBS, *procedures))
    raise Told(f"There is no command {quoted(first, 60)}; {hint} `/runbook help` lists them.")


def wanted(words: tuple[str, ...], procedures: tuple[str, ...]) -> Wanted:
    """What is to be run.

    Raises:
        Permanent: no or an unknown procedure, a word too many, or a key given twice.
    """
    if not words:
        raise Told(f"Which procedure? {suggestion('', procedures)}")
    procedure = _dashed(words[0])
    if procedure not in procedures:
        hint = suggestion(procedure, procedures)
        raise Told(f"There is no procedure {quoted(words[0], 60)}; {hint}")
    service, values = "", dict[str, str]()
    for word in words[1:]:
        key, equals, value = word.partition("=")
        key = key.removeprefix("-p").lstrip("-")
        if not equals:
            if service:
                raise Told(f"One service at a time: {quoted(service, 60)} or {quoted(word)}?")
            service = word
        elif not KEY.fullmatch(key):
            raise Told(f"{quoted(word)}: write key=value, for example `max_model_len=8192`.")
        elif key in values or (key == "service" and service):
            raise Told(f"{quoted(key)} is given twice; say it once.")
        elif key == "service":
            service = value
        else:
            values[key] = value
    return Wanted(procedure=procedure, service=service, values=values)


def lasting(words: tuple[str, ...]) -> tuple[timedelta, str]:
    """How long a freeze lasts, and why.

    Raises:
        Permanent: no duration, too long a one, or no reason.
    """
    how = "write for example `/runbook freeze 2h release in progress`"
    found = re.fullmatch(r"(\d{1,5})(m|h|d)(?:in)?", words[0].lower()) if words else None
    if not found:
        given = f"{quoted(words[0], 60)} is no duration" if words else "For how long"
        raise Told(f"{given}: {how} (30m, 2h, 1d).")
    length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta(minutes=1) <= length <= LONGEST_FREEZE:
        days = LONGEST_FREEZE.days
        raise Told(f"{quoted(words[0])}: a freeze lasts one minute to {days} days; {how}.")
    reason = " ".join(words[1:]).strip()
    if not reason:
        raise Told(f"A freeze needs a reason: {how}.")
    return length, reason[:200]


def _words(text: str) -> list[str]:
    plain = text.translate(_STRAIGHT)
    for escaped, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        plain = plain.replace(escaped, character)
    plain = "".join(c for c in plain if c.isprintable() or c.isspace())
    try:
        return shlex.split(plain)
    except ValueError:  # a lone quote, as in `it's down`
        return plain.split()


def _dashed(word: str) -> str:
    return word.lower().replace("_", "-")
