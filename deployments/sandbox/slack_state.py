"""What the stand-in for Slack keeps: messages with their edits, views, files, acknowledgements."""

import itertools
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ACK_S = 3.0
"""Slack shows the user a failure when an app has not acknowledged by then, s."""


class Refused(Exception):
    """An answer of Slack with `ok: false`."""

    def __init__(self, error: str, faults: list[str] | None = None) -> None:
        super().__init__(error)
        self.error, self.faults = error, faults or []


@dataclass
class Message:
    """One message as it stands now; `edits` are its earlier texts and blocks."""

    channel: str
    ts: str
    text: str
    blocks: list[dict[str, Any]]
    thread_ts: str = ""
    user: str = ""
    """Who alone sees it (an ephemeral one); empty: the channel."""
    edits: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    deleted: bool = False

    @property
    def words(self) -> str:
        """Every text of it, a line each, as Slack received it (escapes and all)."""
        return "\n".join([self.text, *(str(t["text"]) for t in texts(self.blocks))])

    @property
    def mentions(self) -> list[str]:
        """What would notify people or be taken for a command: `<!channel>`, `<@U1>`, `<#C1>`."""
        marked = [self.text, *(t["text"] for t in texts(self.blocks) if t["type"] == "mrkdwn")]
        return [m for text in marked for m in re.findall(r"<[!@#][^>]*>", text)]

    @property
    def buttons(self) -> dict[str, dict[str, Any]]:
        """action_id -> element."""
        return {e["action_id"]: e for e, _ in elements(self.blocks) if e.get("action_id")}


@dataclass
class View:
    """One modal as it stands now."""

    id: str
    user: str
    view: dict[str, Any]
    """With the block_ids that Slack gave where the app gave none."""
    open: bool = True
    errors: dict[str, str] = field(default_factory=dict)
    """What the app's last answer objected to: block_id -> text."""


@dataclass
class File:
    """One uploaded file; `channel` is empty until it is completed."""

    id: str
    name: str
    content: bytes = b""
    title: str = ""
    channel: str = ""
    thread_ts: str = ""


@dataclass
class Ack:
    """What the app answered to a command, a click or a submission."""

    kind: str
    acked: bool = False
    took_s: float = 0.0
    payload: dict[str, Any] = field(default_factory=dict)
    status: int = 0
    """HTTP status; 0 over the socket."""
    faults: list[str] = field(default_factory=list)
    """Why Slack would not show what the acknowledgement carried."""
    body: bytes = b""
    """What was sent, for a replay over HTTP."""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def late(self) -> bool:
        """Whether Slack would have told the user that the app failed."""
        return not self.acked or self.took_s > ACK_S


@dataclass
class Fault:
    """What Slack does wrong, `times` times (-1: until it is taken away)."""

    method: str = "*"
    """e.g. chat.postMessage, or * for all; `response_url` for those."""
    status: int = 200
    error: str = ""
    retry_after_s: int | None = None
    delay_s: float = 0.0
    times: int = -1
    lost: bool = False
    """The request is carried out, and only its answer is an error."""


@dataclass
class Url:
    """One response_url: whom it answers, and how often it was used."""

    channel: str
    user: str
    message: Message | None
    used: int = 0


class State:
    """All of it. Written by the server's thread, read by tests."""

    def __init__(self, channels: dict[str, str], users: dict[str, str]) -> None:
        self.channels, self.users = channels, users
        self.groups: dict[str, list[str]] = {}
        self.posted: list[Message] = []
        self.ephemerals: list[Message] = []
        self.views: list[View] = []
        self.files: list[File] = []
        self.acks: list[Ack] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """Every call of the Web API: method, arguments without the token."""
        self.faults: list[Fault] = []
        self.triggers: dict[str, tuple[str, float]] = {}
        self.urls: dict[str, Url] = {}
        self._count = itertools.count(1)

    def new_ts(self) -> str:
        """A time stamp that no other message has."""
        return f"{int(time.time())}.{next(self._count):06d}"

    def new_trigger(self, user: str) -> str:
        """A trigger_id; good for one view."""
        name = f"{next(self._count)}.{secrets.token_hex(8)}"
        self.triggers[name] = (user, time.monotonic())
        return name

    def new_url(self, channel: str, user: str, message: Message | None = None) -> str:
        """The secret part of a response_url."""
        name = secrets.token_hex(12)
        self.urls[name] = Url(channel, user, message)
        return name

    def channel_id(self, channel: str) -> str:
        """The id of a channel given by id or name, or of the talk with one user."""
        if channel in self.users:
            self.channels.setdefault(f"D{channel}", "directmessage")
            return f"D{channel}"
        names = {"#" + name: one for one, name in self.channels.items()}
        bare = {name: one for one, name in self.channels.items()}
        found = channel if channel in self.channels else names.get(channel) or bare.get(channel)
        if not found:
            raise Refused("channel_not_found")
        return found

    def fault(self, method: str) -> Fault | None:
        """What goes wrong with this call, if anything; counted down."""
        for one in list(self.faults):
            if one.method in ("*", method):
                one.times -= 1
                if one.times == 0:
                    self.faults.remove(one)
                return one
        return None


def texts(value: Any) -> Iterator[dict[str, Any]]:
    """Every text object in blocks, in their order."""
    if isinstance(value, dict):
        if value.get("type") in ("plain_text", "mrkdwn") and "text" in value:
            yield value
            return
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from texts(item)


def elements(blocks: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every interactive element with its block's id."""
    for block in blocks:
        inside = [*block.get("elements", ()), block.get("accessory"), block.get("element")]
        for one in inside:
            if isinstance(one, dict) and one.get("type") not in ("mrkdwn", "plain_text", "image"):
                yield one, str(block.get("block_id", ""))


def named(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks as Slack keeps them: each with an id, and its elements too."""
    kept = []
    for block in blocks:
        one = {"block_id": secrets.token_hex(3), **block}
        for key in ("elements", "accessory", "element"):
            if isinstance(one.get(key), list):
                one[key] = [_acts(e) for e in one[key]]
            elif isinstance(one.get(key), dict):
                one[key] = _acts(one[key])
        kept.append(one)
    return kept


def _acts(element: dict[str, Any]) -> dict[str, Any]:
    passive = element.get("type") in ("mrkdwn", "plain_text", "image")
    return element if passive else {"action_id": secrets.token_hex(3), **element}
