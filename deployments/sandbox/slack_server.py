"""A stand-in for Slack: its Web API and Socket Mode on loopback, as slack-sdk speaks them.

    async with SlackServer() as slack:
        stack = {"slack": slack.spec()}  # and slack.env in the environment
        ack = await slack.command("/runbook", "status", user="U1", channel="C1")
        await slack.click(slack.messages("C1")[-1], "approve", user="U2")
        await slack.submit(slack.views[-1], {"service": "wintermute"}, user="U1")

It runs in a thread of its own, so a client that blocks its event loop cannot block it. Blocks and
views are checked as strictly as Slack does (slack_rules.py). A `url` to the three calls above
sends them as signed HTTP requests instead of over the socket.
"""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any, Self

import httpx
import uvicorn

from deployments.sandbox.slack_api import Api
from deployments.sandbox.slack_app import Tokens, app, show_answer
from deployments.sandbox.slack_people import People, form
from deployments.sandbox.slack_sockets import Sockets
from deployments.sandbox.slack_state import Ack, Fault, File, Message, State, View

USERS = {"U1": "ada", "U2": "bob", "U3": "eve"}
CHANNELS = {"C1": "llm-incidents", "C2": "general"}


class SlackServer:
    """One workspace with one app. Users, groups and channels are dicts that tests may change."""

    bot_token, app_token, signing_secret = "xoxb-sandbox-bot", "xapp-sandbox-app", "sandbox-signing"

    def __init__(self, *, trigger_s: float = 30) -> None:
        """A server that is not listening yet.

        Args:
            trigger_s: how long a trigger_id is good for; Slack's 3 s are tight for a loaded
                machine.
        """
        self.state = State(dict(CHANNELS), dict(USERS))
        self.users, self.channels = self.state.users, self.state.channels
        self.groups = self.state.groups
        self.ephemerals, self.views = self.state.ephemerals, self.state.views
        self.files, self.acks, self.calls = self.state.files, self.state.acks, self.state.calls
        self._port = 0
        self._api = Api(self.state, lambda: self.url, trigger_s)
        self._sockets = Sockets(self._api)
        self._app = app(self._api, self._sockets, Tokens(self.bot_token, self.app_token))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """Its address without the API's path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        """For SlackSpec.api_url, or a WebClient's base_url."""
        return f"{self.url}/api/"

    @property
    def env(self) -> dict[str, str]:
        """Where `spec()` says the secrets are: to be put into the environment."""
        return {
            "SANDBOX_SLACK_TOKEN": self.bot_token,
            "SANDBOX_SLACK_APP_TOKEN": self.app_token,
            "SANDBOX_SLACK_SIGNING": self.signing_secret,
        }

    def spec(self, **more: Any) -> dict[str, Any]:
        """The slack section of a stack."""
        return {
            "token": "${SANDBOX_SLACK_TOKEN}",
            "app_token": "${SANDBOX_SLACK_APP_TOKEN}",
            "signing_secret": "${SANDBOX_SLACK_SIGNING}",
            "channel": "C1",
            "api_url": self.api_url,
            **more,
        }

    # ---- its life ----

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_level="critical",
            access_log=False,
            ws="websockets-sansio",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = server = uvicorn.Server(config)

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await server.serve(sockets=[listening])

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), name="slack-stand-in")
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the stand-in for Slack did not start")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Refuse every connection, as a Slack that is down; what it keeps stays."""
        if self._server and self._thread:
            await self._within(self._sockets.drop())
            self._server.should_exit = self._server.force_exit = True
            await asyncio.to_thread(self._thread.join)
            self._server = self._thread = None

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        await self.stop()

    # ---- what it kept ----

    def messages(self, channel: str = "") -> list[Message]:
        """Messages that were not deleted, replies in threads too, the oldest first."""
        where = self.state.channel_id(channel) if channel else ""
        return [m for m in self.state.posted if not m.deleted and where in ("", m.channel)]

    def replies(self, message: Message) -> list[Message]:
        """What stands in the thread of a message."""
        return [m for m in self.messages(message.channel) if m.thread_ts == message.ts]

    def delete(self, message: Message) -> None:
        """A person deletes a message."""
        message.deleted = True

    # ---- what it does wrong ----

    def fail(self, method: str = "*", **what: Any) -> Fault:
        """Answer this method wrongly from now on; see Fault for what can be told."""
        fault = Fault(method, **what)
        self.state.faults.append(fault)
        return fault

    def heal(self) -> None:
        """No more faults."""
        self.state.faults.clear()

    async def disconnect(self, reason: str = "refresh_requested") -> None:
        """Ask the app to connect anew (`warning`, `refresh_requested`, `link_disabled`)."""
        await self._within(self._sockets.disconnect(reason))

    async def drop(self) -> None:
        """Break the app's socket connections."""
        await self._within(self._sockets.drop())

    # ---- what people do ----

    async def connected(self, count: int = 1, within_s: float = 30) -> None:
        """Wait until the app has so many Socket Mode connections."""
        async with asyncio.timeout(within_s):
            while len(self._sockets.open) < count:  # noqa: ASYNC110 - another thread's list
                await asyncio.sleep(0.02)

    async def command(
        self,
        command: str,
        text: str = "",
        *,
        user: str,
        channel: str,
        url: str = "",
        wait_s: float = 30,
    ) -> Ack:
        """Somebody types a slash command; what the app answered."""
        payload = self._people.command(command, text, user, channel)
        ack = await self._deliver("slash_commands", payload, url, wait_s)
        return show_answer(self._api, ack, payload["channel_id"], user)

    async def click(
        self,
        on: Message | View,
        action_id: str,
        *,
        user: str,
        value: Any = None,
        url: str = "",
        wait_s: float = 30,
    ) -> Ack:
        """Somebody taps a button (its confirmation too), or chooses `value` in a menu."""
        payload = self._people.click(on, action_id, user, value)
        return await self._deliver("interactive", payload, url, wait_s)

    async def submit(
        self,
        view: View,
        values: dict[str, Any] | None = None,
        *,
        user: str = "",
        url: str = "",
        wait_s: float = 30,
    ) -> Ack:
        """Somebody submits a modal; the answer's errors or next view are put into `view`."""
        payload = self._people.submission(view, values or {}, user or view.user)
        ack = await self._deliver("interactive", payload, url, wait_s)
        return show_answer(self._api, ack, "", user or view.user, view)

    def sign(self, body: bytes, *, at: float | None = None, secret: str = "") -> dict[str, str]:
        """Headers of a request from Slack; `at` and `secret` forge it."""
        stamp = str(int(time.time() if at is None else at))
        key = (secret or self.signing_secret).encode()
        digest = hmac.new(key, f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        return {
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={digest}",
        }

    @property
    def _people(self) -> People:
        return People(self.state, self.url)

    async def _deliver(self, kind: str, payload: dict[str, Any], url: str, wait_s: float) -> Ack:
        ack = Ack(str(payload.get("type", "command")))
        self.acks.append(ack)
        if url:
            await self._post(url, payload, ack, wait_s)
            return ack
        await self.connected(within_s=wait_s)
        future: Future[Ack] = Future()
        await self._within(self._sockets.send(kind, payload, ack, future))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), wait_s)
        except TimeoutError:
            return ack  # acked stays False: Slack tells the user that the app failed

    async def _post(self, url: str, payload: dict[str, Any], ack: Ack, wait_s: float) -> None:
        ack.body = form(payload)
        ack.headers = self.sign(ack.body)
        begun = time.monotonic()
        try:
            async with httpx.AsyncClient(timeout=wait_s) as client:
                answer = await client.post(url, content=ack.body, headers=ack.headers)
        except httpx.HTTPError as e:
            ack.faults.append(type(e).__name__)
            return
        ack.took_s, ack.status = time.monotonic() - begun, answer.status_code
        ack.acked = answer.status_code == 200
        try:
            ack.payload = json.loads(answer.content) if answer.content else {}
        except ValueError:
            ack.payload = {"text": answer.text}

    async def _within(self, what: Any) -> Any:
        assert self._loop is not None  # noqa: S101 - it was started
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, self._loop))


__all__ = ["Ack", "Fault", "File", "Message", "SlackServer", "View"]
