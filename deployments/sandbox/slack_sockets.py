"""Socket Mode as Slack speaks it: hello, envelopes, acknowledgements, disconnect.

https://docs.slack.dev/apis/events-api/using-socket-mode
"""

import asyncio
import contextlib
import itertools
import json
import time
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.sandbox.slack_api import APP, Api
from deployments.sandbox.slack_state import Ack

DEBUG = {"host": "sandbox", "build_number": 1, "approximate_connection_time": 3600}


class Sockets:
    """The app's connections. Everything here runs in the server's thread."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.open: list[WebSocket] = []
        self._waiting: dict[str, tuple[Future[Ack], Ack, float]] = {}
        self._turn = itertools.count()

    async def serve(self, ws: WebSocket) -> None:
        """One connection, until it closes."""
        ticket = ws.query_params.get("ticket", "")
        if ticket not in self._api.tickets:
            await ws.close(4000)
            return
        self._api.tickets.discard(ticket)
        await ws.accept()
        hello = {
            "type": "hello",
            "num_connections": len(self.open) + 1,
            "debug_info": DEBUG,
            "connection_info": {"app_id": APP},
        }
        await ws.send_text(json.dumps(hello))
        self.open.append(ws)
        try:
            while True:
                self._received(await ws.receive_text())
        except (WebSocketDisconnect, RuntimeError):
            pass  # RuntimeError: this side closed it
        finally:
            if ws in self.open:
                self.open.remove(ws)

    def _received(self, text: str) -> None:
        try:
            frame = json.loads(text)
        except ValueError:
            return
        waiting = self._waiting.pop(str(frame.get("envelope_id")), None)
        if waiting is None:
            return
        future, ack, sent = waiting
        ack.acked, ack.took_s = True, time.monotonic() - sent
        ack.payload = frame.get("payload") or {}
        if not future.done():  # nobody waits any more: it is late, and says so
            future.set_result(ack)

    async def send(self, kind: str, payload: dict[str, Any], ack: Ack, future: Future[Ack]) -> None:
        """Send one envelope over one of the connections; `future` gets the acknowledgement.

        Raises:
            ConnectionError: no connection is open.
        """
        if not self.open:
            raise ConnectionError("no app is connected by Socket Mode")
        envelope = str(uuid4())
        ws = self.open[next(self._turn) % len(self.open)]
        self._waiting[envelope] = (future, ack, time.monotonic())
        frame = {
            "envelope_id": envelope,
            "type": kind,
            "accepts_response_payload": True,
            "payload": payload,
        }
        await ws.send_text(json.dumps(frame))

    async def disconnect(self, reason: str) -> None:
        """Ask every connection to be replaced, as Slack does before it closes one."""
        for ws in list(self.open):
            self.open.remove(ws)  # nothing more is sent over it
            frame = {"type": "disconnect", "reason": reason, "debug_info": DEBUG}
            await ws.send_text(json.dumps(frame))

    async def drop(self) -> None:
        """Close every connection without a word."""
        for ws in list(self.open):
            self.open.remove(ws)
            with contextlib.suppress(RuntimeError, asyncio.CancelledError):
                await ws.close(1011)
