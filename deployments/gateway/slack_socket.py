"""Slack by Socket Mode: one connection for each app, no public address.

The SDK's client keeps the connection (pings, Slack's own requests to connect anew, a network that
was away) in threads of its own. Stacks that share an app share its connection: Slack gives every
envelope to one connection only, whichever it likes.
"""

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import Future
from typing import Any

from slack_sdk.socket_mode.builtin import SocketModeClient
from slack_sdk.socket_mode.client import BaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient

from blocks.errors import RunbookError
from blocks.secret_ref import resolve
from deployments.gateway.slack_call import log
from deployments.gateway.slack_dispatch import acknowledge, begin, busy, handle
from deployments.gateway.slack_procedures import warm
from deployments.gateway.slack_seen import Seen
from deployments.gateway.state import Gateway

SEEN_S, SEEN_MOST = 3600.0, 50_000
"""Envelopes are remembered for longer than Slack tries to deliver one."""
LOOK_S = 5.0
"""How often the stacks are looked at for apps that came or went, seconds."""
SLOWEST_S, ACK_S = 60.0, 2.0
"""The longest pause between two tries to connect, and that an acknowledgement may take."""
TYPES = ("slash_commands", "interactive")
# The SDK logs messages at DEBUG, and answers at ERROR: there may be a ticket in them.
_SILENT = logging.Logger("slack-socket", logging.CRITICAL + 1)


class Link:
    """The connection of one app."""

    def __init__(self, gateway: Gateway, token: str, api_url: str) -> None:
        """Nothing connects yet.

        Args:
            gateway: whose stacks are served.
            token: the app's token.
            api_url: of Slack's Web API.
        """
        self.stacks: tuple[str, ...] = ()
        self._gateway, self._loop = gateway, asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # Prefect's settings, which no SDK thread has
        self._seen = Seen(SEEN_S, SEEN_MOST)
        self._token, self._url = token, api_url.rstrip("/") + "/"

    async def run(self) -> None:
        """Connect and stay connected, until cancelled; never ends by itself."""
        pause, client = 1.0, await asyncio.to_thread(self._made)
        try:
            while True:
                try:
                    # Not `connect`: that would try an address again which is good for once only.
                    await asyncio.to_thread(client.connect_to_new_endpoint, True)
                    break
                except Exception as e:  # noqa: BLE001 - the SDK raises whatever the network does
                    log.warning("Slack cannot be reached by Socket Mode: %s", type(e).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, SLOWEST_S)
            await self._watch(client)
        finally:
            await asyncio.shield(asyncio.to_thread(client.close))

    def _made(self) -> SocketModeClient:
        web = WebClient(base_url=self._url, timeout=10, retry_handlers=[], logger=_SILENT)
        client = SocketModeClient(self._token, logger=_SILENT, web_client=web)
        client.socket_mode_request_listeners.append(self._received)
        return client

    async def _watch(self, client: SocketModeClient) -> None:
        """Say when the connection is lost and when it is back; the SDK makes it anew."""
        was = False
        while True:
            now = client.is_connected()
            if now != was:
                (log.info if now else log.warning)(
                    "Socket Mode for %s: %s", ", ".join(self.stacks), "on" if now else "LOST"
                )
            was = now
            await asyncio.sleep(1)

    def _received(self, client: BaseSocketModeClient, request: SocketModeRequest) -> None:
        """One envelope, in a thread of the SDK: acknowledged first, worked after."""
        said: dict[str, Any] = {}
        late = threading.Event()
        try:
            future: Future[dict[str, Any]] = self._context.copy().run(
                asyncio.run_coroutine_threadsafe, self._taken(request, late), self._loop
            )
            said = future.result(ACK_S)
        except Exception as e:  # noqa: BLE001 - it is acknowledged whatever happens
            late.set()  # it is worked all the same; what is wrong with a form is said privately
            log.warning("an envelope was acknowledged before it was read: %s", type(e).__name__)
        client.send_socket_mode_response(SocketModeResponse(request.envelope_id, said or None))

    async def _taken(self, request: SocketModeRequest, late: threading.Event) -> dict[str, Any]:
        """The acknowledgement; the work is begun unless the envelope came before."""
        payload = request.payload
        if request.type not in TYPES or not isinstance(payload, dict):
            return {}
        said = acknowledge(self._gateway, self.stacks, payload)
        try:
            if not self._seen.first(request.envelope_id):
                log.info("an envelope came twice; it is acted on once")
                return said
        except OverflowError:
            return busy(self._gateway, self.stacks, payload)
        told = "errors" in said and not late.is_set()
        if not told and not begin(handle(self._gateway, self.stacks, payload)):
            return busy(self._gateway, self.stacks, payload)
        return said


async def listen(gateway: Gateway) -> None:
    """Serve every stack that has an app token, until cancelled; stacks may come and go."""
    links: dict[tuple[str, str], tuple[Link, asyncio.Task[None]]] = {}
    warming = asyncio.create_task(warm())
    try:
        while True:
            wanted = await _apps(gateway)
            for app, stacks in wanted.items():
                if app not in links or links[app][1].done():
                    link = Link(gateway, *app)
                    links[app] = link, asyncio.create_task(link.run())
                links[app][0].stacks = stacks
            for app in [a for a in links if a not in wanted]:
                await _ended([links.pop(app)[1]])
            await asyncio.sleep(LOOK_S)
    finally:
        await _ended([warming, *(task for _, task in links.values())])


async def _ended(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_tokens: dict[str, str] = {}
"""Reference -> the last token it led to: a Prefect server that is away must not hang up."""


async def _apps(gateway: Gateway) -> dict[tuple[str, str], tuple[str, ...]]:
    """(app token, Web API) -> the stacks that it serves."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    await gateway.refresh(LOOK_S if not gateway.known else 30.0)
    for name, spec in gateway.stacks().items():
        if spec.slack is None or spec.slack.app_token is None:
            continue
        ref = spec.slack.app_token
        try:
            _tokens[ref] = (await resolve(ref)).get_secret_value()
        except RunbookError as e:
            if ref not in _tokens:
                log.warning("no Socket Mode for stack %s: %s", name, e)
                continue
        app = (_tokens[ref], spec.slack.api_url)
        found[app] = (*found.get(app, ()), name)
    return found
