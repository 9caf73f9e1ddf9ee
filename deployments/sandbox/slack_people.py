"""What Slack sends an app when a person types, taps or submits: payloads as on
https://docs.slack.dev/interactivity and .../reference/interaction-payloads.
"""

import json
import time
from typing import Any
from urllib.parse import urlencode

from deployments.sandbox.slack_api import APP, TEAM
from deployments.sandbox.slack_state import Message, State, View, elements

Payload = dict[str, Any]


class People:
    """Builds the payloads; `base` is the stand-in's address, for response_urls."""

    def __init__(self, state: State, base: str) -> None:
        self.state, self.base = state, base

    def _user(self, user: str) -> Payload:
        name = self.state.users.setdefault(user, user.lower())
        return {"id": user, "username": name, "name": name, "team_id": TEAM["id"]}

    def _common(self, kind: str, user: str) -> Payload:
        return {
            "type": kind,
            "team": dict(TEAM),
            "user": self._user(user),
            "api_app_id": APP,
            "token": "verification-token",
            "trigger_id": self.state.new_trigger(user),
            "enterprise": None,
            "is_enterprise_install": False,
        }

    def command(self, command: str, text: str, user: str, channel: str) -> Payload:
        """A slash command: the form's fields."""
        where = self.state.channel_id(channel)
        return {
            "token": "verification-token",
            "team_id": TEAM["id"],
            "team_domain": TEAM["domain"],
            "channel_id": where,
            "channel_name": self.state.channels[where],
            "user_id": user,
            "user_name": self._user(user)["name"],
            "command": command,
            "text": text,
            "api_app_id": APP,
            "is_enterprise_install": "false",
            "response_url": f"{self.base}/actions/{self.state.new_url(where, user)}",
            "trigger_id": self.state.new_trigger(user),
        }

    def click(self, on: Message | View, action_id: str, user: str, value: Any = None) -> Payload:
        """A tap on a button, or a choice (`value`) in a menu.

        Raises:
            LookupError: there is no such element; the text names those there are.
        """
        blocks = on.blocks if isinstance(on, Message) else on.view["blocks"]
        found = [(e, b) for e, b in elements(blocks) if e.get("action_id") == action_id]
        if not found:
            there = sorted(str(e.get("action_id")) for e, _ in elements(blocks))
            raise LookupError(f"no element {action_id!r} to click; there are: {there}")
        element, block_id = found[0]
        said = ("action_id", "type", "text", "value", "style", "url")
        act = {k: element[k] for k in said if k in element}
        if value is not None:
            act |= answered(element, value)
        act |= {"block_id": block_id, "action_ts": f"{time.time():.6f}"}
        payload = self._common("block_actions", user) | {"actions": [act]}
        if isinstance(on, View):
            container = {"type": "view", "view_id": on.id}
            return payload | {"container": container, "view": on.view}
        return payload | self._container(on, user)

    def _container(self, on: Message, user: str) -> Payload:
        channel = {"id": on.channel, "name": self.state.channels[on.channel]}
        more: Payload = {
            "container": {
                "type": "message",
                "message_ts": on.ts,
                "channel_id": on.channel,
                "is_ephemeral": bool(on.user),
            },
            "channel": channel,
            "state": {"values": {}},
            "response_url": f"{self.base}/actions/{self.state.new_url(on.channel, user, on)}",
        }
        if not on.user:
            more["message"] = {
                "type": "message",
                "bot_id": "B1",
                "app_id": APP,
                "ts": on.ts,
                "text": on.text,
                "blocks": on.blocks,
            } | ({"thread_ts": on.thread_ts} if on.thread_ts else {})
        return more

    def submission(self, one: View, values: dict[str, Any], user: str) -> Payload:
        """A modal that is submitted; `values` by action_id or block_id, the rest as it stood.

        Raises:
            LookupError: a value for an input that is not there, or none for one that is required
                (Slack does not let such a modal be submitted).
        """
        state: Payload = {}
        left = dict(values)
        for block in one.view["blocks"]:
            if block["type"] != "input":
                continue
            element, block_id = block["element"], block["block_id"]
            key = next((k for k in (element["action_id"], block_id) if k in left), None)
            given = left.pop(key) if key else None
            answer = initial(element) if key is None else answered(element, given)
            if not block.get("optional") and not any(v for k, v in answer.items() if k != "type"):
                raise LookupError(f"input {block_id!r} ({element['action_id']!r}) is required")
            state[block_id] = {element["action_id"]: answer}
        if left:
            raise LookupError(f"no input {sorted(left)} in this modal; there are: {sorted(state)}")
        view = one.view | {"state": {"values": state}}
        return self._common("view_submission", user) | {"view": view, "response_urls": []}


def answered(element: Payload, value: Any) -> Payload:
    """One element's entry of `state.values` after a person gave it this value."""
    kind = element["type"]
    if kind in ("checkboxes", "multi_static_select"):
        return {"type": kind, "selected_options": [_option(element, v) for v in value]}
    if kind in ("static_select", "radio_buttons", "overflow"):
        chosen = None if value is None else _option(element, value)
        return {"type": kind, "selected_option": chosen}
    names = {"users_select": "user", "datepicker": "date", "timepicker": "time"}
    if kind in names:
        return {"type": kind, f"selected_{names[kind]}": value}
    return {"type": kind, "value": None if value is None else str(value)}


def initial(element: Payload) -> Payload:
    """The entry of an element that nobody touched."""
    kind = element["type"]
    if kind in ("checkboxes", "multi_static_select"):
        return {"type": kind, "selected_options": element.get("initial_options", [])}
    if kind in ("static_select", "radio_buttons"):
        return {"type": kind, "selected_option": element.get("initial_option")}
    names = {"users_select": "user", "datepicker": "date", "timepicker": "time"}
    if kind in names:
        return {"type": kind, f"selected_{names[kind]}": element.get(f"initial_{names[kind]}")}
    return {"type": kind, "value": element.get("initial_value")}


def _option(element: Payload, value: str) -> Payload:
    options = list(element.get("options", ()))
    options += [o for g in element.get("option_groups", ()) for o in g["options"]]
    for option in options:
        if option["value"] == value:
            return dict(option)
    there = [o["value"] for o in options]
    raise LookupError(f"no option {value!r} in {element.get('action_id')!r}; there are: {there}")


def form(payload: Payload) -> bytes:
    """The body of Slack's HTTP request that carries this payload."""
    fields = payload if "command" in payload else {"payload": json.dumps(payload)}
    return urlencode(fields).encode()
