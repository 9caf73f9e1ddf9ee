"""Slack's Web API as the stand-in answers it: the methods that llm-runbooks and slack-sdk call.

Arguments and answers as on https://docs.slack.dev/reference/methods. A refusal is HTTP 200 with
`ok: false`, as with Slack.
"""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from deployments.sandbox.slack_rules import faults_of_blocks, faults_of_view
from deployments.sandbox.slack_state import File, Message, Refused, State, View, named

Args = dict[str, Any]
TEAM = {"id": "T1", "domain": "sandbox"}
APP, BOT_USER = "A1", "UBOT"
TEXT_LIMIT, ALL_BLOCKS_LIMIT = 4000, 13_200
"""Characters of `text`, and of all blocks as JSON: the second stands in no reference; it was
measured by users (slackapi/bolt-js issue 2509), who got msg_blocks_too_long above it."""


class Api:
    """One method of Slack is one method here."""

    def __init__(self, state: State, base: Callable[[], str], trigger_s: float) -> None:
        self.state, self._base, self._trigger_s = state, base, trigger_s
        self.tickets: set[str] = set()
        """Socket Mode addresses that were given out and not used yet."""
        self.methods: dict[str, Callable[[Args], Args]] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.postEphemeral": self._ephemeral,
            "views.open": self._open,
            "views.update": self._update_view,
            "apps.connections.open": self._connect,
            "files.getUploadURLExternal": self._upload_url,
            "files.completeUploadExternal": self._complete,
            "usergroups.list": self._groups,
            "usergroups.users.list": self._group_users,
            "users.info": self._user,
        }

    def _auth_test(self, args: Args) -> Args:
        url = f"https://{TEAM['domain']}.slack.com/"
        return {"url": url, "team": "sandbox", "team_id": TEAM["id"], "user_id": BOT_USER}

    def _post(self, args: Args) -> Args:
        message = self.message(args, self.state.channel_id(str(args.get("channel", ""))))
        self.state.posted.append(message)
        return {
            "channel": message.channel,
            "ts": message.ts,
            "message": {"type": "message", "ts": message.ts, "text": message.text},
        }

    def _update(self, args: Args) -> Args:
        channel = str(args.get("channel", ""))
        if channel not in self.state.channels:  # here Slack takes an id only
            raise Refused("channel_not_found")
        found = self.find(channel, str(args.get("ts", "")))
        self.edit(found, args)
        return {"channel": found.channel, "ts": found.ts, "text": found.text}

    def _ephemeral(self, args: Args) -> Args:
        channel = self.state.channel_id(str(args.get("channel", "")))
        if args.get("user") not in self.state.users:
            raise Refused("user_not_in_channel")
        message = self.message(args, channel, user=str(args["user"]))
        self.state.ephemerals.append(message)
        return {"message_ts": message.ts}

    def message(self, args: Args, channel: str, user: str = "") -> Message:
        """A message that Slack would take; not kept yet."""
        blocks, text = _json(args.get("blocks")) or [], str(args.get("text") or "")
        self.check(blocks, text)
        thread = str(args.get("thread_ts") or "")
        return Message(channel, self.state.new_ts(), text, named(blocks), thread, user)

    def check(self, blocks: Any, text: str) -> None:
        """Refuse what Slack refuses."""
        if faults := faults_of_blocks(blocks):
            raise Refused("invalid_blocks", faults)
        if not blocks and not text:
            raise Refused("no_text")
        if len(text) > TEXT_LIMIT:
            raise Refused("msg_too_long")
        if len(json.dumps(blocks, ensure_ascii=False)) > ALL_BLOCKS_LIMIT:
            raise Refused("msg_blocks_too_long")

    def find(self, channel: str, ts: str) -> Message:
        """A message that was not deleted."""
        for message in self.state.posted:
            if (message.channel, message.ts) == (channel, ts) and not message.deleted:
                return message
        raise Refused("message_not_found")

    def edit(self, message: Message, args: Args) -> None:
        """Change a message in place; blocks that are not given stay."""
        given = _json(args.get("blocks"))
        blocks = message.blocks if given is None else given
        text = str(args["text"]) if args.get("text") is not None else message.text
        self.check(blocks, text)
        message.edits.append((message.text, message.blocks))
        message.text, message.blocks = text, named(blocks)

    def _open(self, args: Args) -> Args:
        user, at = self.state.triggers.pop(str(args.get("trigger_id", "")), ("", 0.0))
        if not user:
            raise Refused("invalid_trigger_id")
        if time.monotonic() - at > self._trigger_s:
            raise Refused("expired_trigger_id")
        one = View(f"V{secrets.token_hex(4).upper()}", user, {})
        self.set_view(one, _json(args.get("view")))
        self.state.views.append(one)
        return {"view": one.view}

    def _update_view(self, args: Args) -> Args:
        found = [v for v in self.state.views if v.id == args.get("view_id") and v.open]
        if not found:
            raise Refused("not_found")
        self.set_view(found[0], _json(args.get("view")))
        return {"view": found[0].view}

    def set_view(self, one: View, view: Any) -> None:
        """Put a view that Slack would take in its place."""
        if faults := faults_of_view(view):
            raise Refused("invalid_arguments", faults)
        fixed = {"id": one.id, "team_id": TEAM["id"], "hash": secrets.token_hex(6)}
        fixed |= {"app_id": APP, "bot_id": "B1", "root_view_id": one.id}
        empty = {"private_metadata": "", "callback_id": "", "state": {"values": {}}}
        one.view, one.errors = {**empty, **view, **fixed, "blocks": named(view["blocks"])}, {}

    def _connect(self, args: Args) -> Args:
        ticket = secrets.token_hex(12)
        self.tickets.add(ticket)
        return {"url": f"ws{self._base()[4:]}/link/?ticket={ticket}&app_id={APP}"}

    def _upload_url(self, args: Args) -> Args:
        if not args.get("filename") or not str(args.get("length", "")).isdecimal():
            raise Refused("invalid_arguments")
        file = File(f"F{secrets.token_hex(4).upper()}", str(args["filename"]))
        self.state.files.append(file)
        return {"file_id": file.id, "upload_url": f"{self._base()}/upload/v1/{file.id}"}

    def _complete(self, args: Args) -> Args:
        done = []
        channel = str(args.get("channel_id") or "")
        if channel and channel not in self.state.channels:
            raise Refused("channel_not_found")
        for given in _json(args.get("files")) or []:
            file = next((f for f in self.state.files if f.id == given["id"]), None)
            if file is None or not file.content:
                raise Refused("file_not_found")
            file.title, file.channel = str(given.get("title") or file.name), channel
            file.thread_ts = str(args.get("thread_ts") or "")
            done.append({"id": file.id, "title": file.title})
        return {"files": done}

    def _groups(self, args: Args) -> Args:
        members = str(args.get("include_users", "")).lower() in ("1", "true")
        return {
            "usergroups": [
                {"id": one, "is_usergroup": True, "date_delete": 0, "handle": one.lower()}
                | ({"users": list(users)} if members else {})
                for one, users in self.state.groups.items()
            ]
        }

    def _group_users(self, args: Args) -> Args:
        if args.get("usergroup") not in self.state.groups:
            raise Refused("no_such_subteam")
        return {"users": list(self.state.groups[args["usergroup"]])}

    def _user(self, args: Args) -> Args:
        user = str(args.get("user", ""))
        if user not in self.state.users:
            raise Refused("user_not_found")
        name = self.state.users[user]
        profile = {"real_name": name, "email": f"{name}@example.com"}
        return {"user": {"id": user, "name": name, "real_name": name, "profile": profile}}


def _json(value: Any) -> Any:
    """An argument that came as JSON text in a form, or as itself in a JSON body."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError as e:
        raise Refused("invalid_arguments") from e
