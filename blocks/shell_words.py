"""Words of a `sh -c` string with their place in it, so that one can be replaced alone. Pure."""

import re
from dataclasses import dataclass

_REDIRECT = re.compile(r"(?:&>>?|<>|>\||[<>]&|>>|<|>)")
_OPERATOR = re.compile(r"(?:&&|\|\||;;|\|&|[;&|()\n])")


@dataclass(frozen=True)
class Word:
    """One word: `text` after quote removal, `script[start:end]` as written.

    `dynamic` is true when the shell would put something else in its place ($VAR, `cmd`, *).
    """

    text: str
    start: int
    end: int
    dynamic: bool = False


def read_commands(script: str) -> list[list[Word]]:
    """The simple commands of a shell script, each as its words, in order.

    Redirections and their targets, comments and operators belong to no command's words.

    Raises:
        ValueError: a quote that is not closed, or a here-document.
    """
    commands: list[list[Word]] = [[]]
    at, target = 0, False
    while at < len(script):
        char = script[at]
        if script.startswith("\\\n", at):
            at += 2
        elif char in " \t\r":
            at += 1
        elif char == "#":
            at = end if (end := script.find("\n", at)) >= 0 else len(script)
        elif script.startswith("<<", at):
            raise ValueError("a here-document")
        elif match := _REDIRECT.match(script, at):
            words = commands[-1]
            if words and words[-1].end == at and script[words[-1].start : at].isdigit():
                words.pop()  # the 2 of 2>&1 is no argument
            at, target = match.end(), True
        elif match := _OPERATOR.match(script, at):
            at, target = match.end(), False
            commands.append([])
        else:
            word = _read_word(script, at)
            if not target:
                commands[-1].append(word)
            at, target = word.end, False
    return [c for c in commands if c]


def _read_word(script: str, start: int) -> Word:
    text: list[str] = []
    at, dynamic = start, False
    while at < len(script):
        char = script[at]
        if char == "'":
            end = _closing(script, at)
            text.append(script[at + 1 : end])
            at = end + 1
        elif char == '"':
            end = _closing(script, at)
            inner = script[at + 1 : end]
            dynamic = dynamic or re.search(r"(?<!\\)(?:\\\\)*[$`]", inner) is not None
            text.append(re.sub(r'\\([$`"\\\n])', lambda m: m[1].strip("\n"), inner))
            at = end + 1
        elif char == "\\":
            if script.startswith("\\\n", at):
                at += 2
                continue
            text.append(script[at + 1 : at + 2])
            at += 2
        elif char == "$" and script[at + 1 : at + 2] in ("{", "("):
            # Spaces within ${A:-b c} and $(cmd) do not end the word.
            end = _closing_bracket(script, at + 1)
            text.append(script[at : end + 1])
            at, dynamic = end + 1, True
        elif char in " \t\r\n;&|()<>":
            break
        else:
            dynamic = dynamic or char in "$`*?[~{"
            text.append(char)
            at += 1
    return Word("".join(text), start, at, dynamic)


def _closing_bracket(script: str, at: int) -> int:
    opening, depth = script[at], 0
    closing = {"{": "}", "(": ")"}[opening]
    for end in range(at, len(script)):
        depth += (script[end] == opening) - (script[end] == closing)
        if not depth:
            return end
    raise ValueError("an expansion that is not closed")


def _closing(script: str, at: int) -> int:
    quote, end = script[at], at + 1
    while end < len(script):
        if script[end] == quote:
            return end
        end += 2 if quote == '"' and script[end] == "\\" else 1
    raise ValueError("a quote that is not closed")


def quote_like(value: str, written: str) -> str:
    """`value` as a shell word, in the quotes that `written` (the old word) wore.

    Raises:
        ValueError: those quotes cannot hold it.
    """
    if re.fullmatch(r"[\w@%+=:,./-]+", value, re.ASCII):
        for quote in ("'", '"'):
            if len(written) > 1 and written[0] == written[-1] == quote:
                return quote + value + quote
        return value
    if "'" in value:
        raise ValueError("a quote in the value")
    return f"'{value}'"
