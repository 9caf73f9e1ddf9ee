"""Block Kit: what people see in Slack, always within its limits. Pure, and never raises.

Text is escaped: no log line can mention @channel or pose as a link. What is meant as markup is
`Mrkdwn`, made by `mention`, `link` or `code`; in other text `*bold*`, `_italic_`, `` `code` ``
and a `>` at the start of a line work. Limits: https://docs.slack.dev/reference/block-kit; they are
counted in UTF-16 units, the more careful way.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

Block = dict[str, Any]

SECTION_LIMIT = 3000
"""Characters of one section's or context's text."""
BLOCKS_LIMIT = 50
"""Blocks of one message, the header among them."""
HEADER_LIMIT, FIELD_LIMIT, VALUE_LIMIT, BUTTON_LIMIT, URL_LIMIT = 150, 2000, 2000, 75, 3000
ELEMENTS_LIMIT, FIELDS_LIMIT = 25, 10
"""Buttons of one row; fields of one section."""
TOTAL_LIMIT = 12_000
"""Characters of all blocks as JSON. Slack refuses more than about 13,200 (msg_blocks_too_long);
that stands in no reference, users measured it: slackapi/bolt-js issue 2509."""
NOTE = "\n… (cut; see the record)"


class Mrkdwn(str):
    """Text that is Slack's markup already, and safe."""

    __slots__ = ()


def escape(text: str) -> Mrkdwn:
    """Text of unknown origin, as Slack shows it to the letter; `>` quotes at a line's start."""
    if isinstance(text, Mrkdwn):
        return text
    safe = _clean(text).replace("&", "&amp;").replace("<", "&lt;")
    return Mrkdwn(re.sub(r"(?<!^)>", "&gt;", safe, flags=re.MULTILINE))


def join(*parts: str, by: str = "") -> Mrkdwn:
    """Several texts as one; what is no Mrkdwn is escaped."""
    return Mrkdwn(by.join(map(escape, parts)))


def mention(user_or_group: str) -> Mrkdwn:
    """Notify a person (U…, W…) or a group (S…); any other text is shown as it is."""
    if re.fullmatch(r"[UW][A-Z0-9]+", user_or_group):
        return Mrkdwn(f"<@{user_or_group}>")
    if re.fullmatch(r"S[A-Z0-9]+", user_or_group):
        return Mrkdwn(f"<!subteam^{user_or_group}>")
    return escape(user_or_group)


def link(url: str, label: str) -> Mrkdwn:
    """A link; only its label where the address is none."""
    words = escape(label).replace("\n", " ").replace("|", "¦")
    if not re.fullmatch(r"https?://[^\s<>|]{1,2900}", url):
        return Mrkdwn(words)
    return Mrkdwn(f"<{url.replace('&', '&amp;')}|{words}>")


def code(text: str) -> Mrkdwn:
    """A block of monospaced text."""
    inside = escape(text.replace("`", "'")).strip("\n")
    return Mrkdwn(f"```\n{re.sub(r'^>', '&gt;', inside, flags=re.MULTILINE)}\n```")


def clip(text: str, limit: int, note: str = NOTE) -> Mrkdwn:
    """Escaped text within a limit; never half of an escape, of a link or of a code block."""
    whole = escape(text)
    return whole if _size(whole) <= limit else _cut(whole, limit, note)


def header(text: str) -> Block:
    """A title, plain text."""
    return {"type": "header", "text": _plain(text, HEADER_LIMIT)}


def section(text: str) -> Block:
    """A paragraph."""
    return {"type": "section", "text": _mrkdwn(text, SECTION_LIMIT)}


def fields(pairs: Iterable[tuple[str, str]]) -> Block:
    """Names and values in two columns; `message` makes several sections of more than ten."""
    return {
        "type": "section",
        "fields": [
            _mrkdwn(join(Mrkdwn(f"*{escape(name)}*\n"), value), FIELD_LIMIT)
            for name, value in pairs
        ]
        or [_mrkdwn("-", FIELD_LIMIT)],
    }


def context(text: str) -> Block:
    """Small grey text."""
    return {"type": "context", "elements": [_mrkdwn(text, SECTION_LIMIT)]}


def divider() -> Block:
    """A line."""
    return {"type": "divider"}


def actions(buttons: Iterable[Block]) -> Block:
    """A row of buttons; `message` makes several rows of more than 25, or of a repeated id."""
    return {"type": "actions", "elements": list(buttons)}


def button(
    text: str,
    action_id: str,
    value: str,
    style: Literal["", "primary", "danger"] = "",
    confirm: Block | None = None,
    url: str = "",
) -> Block:
    """A button. One whose value or address is over the limit is left out by `message`: it would
    say something else than was meant.
    """
    one: Block = {"type": "button", "text": _plain(text, BUTTON_LIMIT), "action_id": action_id}
    one |= {"value": value} if value else {}
    one |= {"style": style} if style in ("primary", "danger") else {}
    one |= {"confirm": confirm} if confirm else {}
    return one | ({"url": url} if url else {})


def confirmation(
    title: str, text: str, yes: str, no: str = "Cancel", danger: bool = False
) -> Block:
    """What a button asks before it acts."""
    asked = {
        "title": _plain(title, 100),
        "text": _mrkdwn(text, 300),
        "confirm": _plain(yes, 30),
        "deny": _plain(no, 30),
    }
    return asked | ({"style": "danger"} if danger else {})


def message(blocks: Sequence[Block], link: str = "", most: int = BLOCKS_LIMIT) -> list[Block]:
    """Blocks that Slack takes: what is over a limit is cut, said so, and linked to the record.

    Rows of buttons are the last to go. Doing it twice changes nothing.

    Args:
        blocks: from the functions here, or made by hand.
        link: address of the record; empty: it is only named.
        most: blocks; 100 in a modal.
    """
    fit = [_linked(one, link) for block in blocks for one in _parts(block)]
    note = context(join("… more was cut; ", _record(link)))
    fit = _fewer(fit, most, note)
    short = 300 + 3 * _size(_note(link))
    while _total(fit) > TOTAL_LIMIT:
        longest = max(fit, key=lambda b: _size(_text(b)))
        size = _size(_text(longest))
        if size > short:
            cut = clip(Mrkdwn(_text(longest)), size * 2 // 3, _note(link))
            fit = [_with_text(b, cut) if b is longest else b for b in fit]
        elif len(fit) > 2:
            fit = _fewer(fit, len(fit) - 2, note)
        else:
            return [section("the message was too long; it stands in the record"), note]
    return fit or [section("-")]


# ---- within ----


def _fewer(blocks: list[Block], most: int, note: Block) -> list[Block]:
    """At most so many blocks; the last ones go, but for rows of buttons."""
    if len(blocks) <= most:
        return blocks
    rows = [i for i, b in enumerate(blocks) if b["type"] == "actions"][: max(1, most // 2 - 1)]
    others = [i for i, b in enumerate(blocks) if b["type"] != "actions" and b != note]
    kept = {*rows, *others[: max(most - 1 - len(rows), 0)]}
    return [*(b for i, b in enumerate(blocks) if i in kept), note][-most:]


def _parts(block: Block) -> Iterator[Block]:
    """A block within its own limits; several where one may not hold so much."""
    kind = block.get("type")
    if kind == "actions":
        yield from _rows(block)
        return
    if kind in ("section", "header") and _text(block):
        limit = SECTION_LIMIT if kind == "section" else HEADER_LIMIT
        marked = block["text"].get("type") == "mrkdwn"
        text = clip(Mrkdwn(_text(block)), limit) if marked else _plain_cut(_text(block), limit)
        block = _with_text(block, text)
    columns = block.get("fields") or ()
    if len(columns) <= FIELDS_LIMIT:
        yield block
        return
    for i in range(0, len(columns), FIELDS_LIMIT):
        first = {k: v for k, v in block.items() if i == 0 or k == "type"}
        yield {**first, "fields": columns[i : i + FIELDS_LIMIT]}


def _rows(block: Block) -> Iterator[Block]:
    """Rows of at most 25 buttons with ids of their own."""
    row: list[Block] = []
    for one in block.get("elements") or ():
        if _size(str(one.get("value", ""))) > VALUE_LIMIT or len(one.get("url", "")) > URL_LIMIT:
            yield context(f"the button {_text(one)!r} was left out: its value is too long")
            continue
        if len(row) == ELEMENTS_LIMIT or one.get("action_id") in {b.get("action_id") for b in row}:
            yield {"type": "actions", "elements": row}
            row = []
        row = [*row, one]
    if row:
        yield {**block, "elements": row}


def _cut(text: Mrkdwn, limit: int, note: str) -> Mrkdwn:
    """Its beginning and the note."""
    cut = re.sub(r"&[a-z]{0,4}$", "", _take(text, limit - _size(note) - 4))
    if cut.rfind("<") > cut.rfind(">"):
        cut = cut[: cut.rfind("<")]
    cut = cut.rstrip("`")  # half of a fence, or one that nothing follows
    return Mrkdwn(cut + ("\n```" if cut.count("```") % 2 else "") + note)


def _linked(block: Block, link: str) -> Block:
    """The note of a cut text, with the record's address."""
    text, note = _text(block), _note(link)
    if not text.endswith(NOTE) or block["type"] not in ("section", "context"):
        return block
    body = Mrkdwn(text.removesuffix(NOTE))
    fits = _size(body) + _size(note) <= SECTION_LIMIT
    return _with_text(block, Mrkdwn(body + note) if fits else _cut(body, SECTION_LIMIT, note))


def _record(url: str) -> Mrkdwn:
    return link(url if len(url) <= 500 else "", "see the record")


def _note(url: str) -> str:
    return f"\n… (cut; {_record(url)})"


def _text(block: Block) -> str:
    """The one long text of a block; empty where there is none."""
    inside = block.get("text")
    if block.get("type") == "context" and len(block.get("elements") or ()) == 1:
        inside = block["elements"][0]
    words = inside.get("text") if isinstance(inside, dict) else ""
    return words if isinstance(words, str) else ""


def _with_text(block: Block, text: str) -> Block:
    if block["type"] == "context":
        return {**block, "elements": [{**block["elements"][0], "text": str(text)}]}
    return {**block, "text": {**block["text"], "text": str(text)}}


def _mrkdwn(text: str, limit: int) -> Block:
    shown = clip(text, limit)
    # verbatim: Slack would else find mentions and channels in plain words, too.
    return {"type": "mrkdwn", "text": str(shown) if shown.strip() else "-", "verbatim": True}


def _plain(text: str, limit: int) -> Block:
    shown = _plain_cut(_clean(text), limit)
    return {"type": "plain_text", "text": shown if shown.strip() else "-", "emoji": True}


def _plain_cut(text: str, limit: int) -> str:
    return text if _size(text) <= limit else _take(text, limit - 1) + "…"


def _clean(text: str) -> str:
    """Without characters that no JSON or no screen takes."""
    whole = str(text).encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", whole)


def _size(text: str) -> int:
    return len(text.encode("utf-16-le", "replace")) // 2


def _take(text: str, size: int) -> str:
    return text.encode("utf-16-le", "replace")[: 2 * max(size, 0)].decode("utf-16-le", "ignore")


def _total(blocks: list[Block]) -> int:
    return _size(json.dumps(blocks, ensure_ascii=False, default=str))
