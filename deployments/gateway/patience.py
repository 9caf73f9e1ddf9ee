"""Connections that send nothing, or too slowly, are closed before they keep the others out.

uvicorn answers 503 to everybody while `limit_concurrency` connections are open, and waits for ever
for a request's first byte.
"""

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S, BODY_S = 10.0, 30.0
"""A request's header must be whole by then, and its body so long after it (seconds). The guard
answers 408 to a slow body earlier; this closes those that go on all the same."""
FULL = 192
"""Connections from which on a new one takes the place of the one that waits longest."""


class Patient(H11Protocol):
    """HTTP/1.1 with an end to its patience."""

    _timer: asyncio.TimerHandle | None = None
    _waits: tuple[str, Any] = ("", None)
    _since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connects."""
        others = [c for c in self.connections if isinstance(c, Patient) and c.waits]
        if len(self.connections) >= FULL and others:
            min(others, key=lambda c: c._since).transport.abort()
        super().connection_made(cast(asyncio.Transport, transport))
        self._since = self.loop.time()
        self._look()

    def data_received(self, data: bytes) -> None:
        """Bytes come."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """A request was answered."""
        super().on_response_complete()
        self._since = self.loop.time()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        super().connection_lost(exc)
        self._wait("", 0)

    @property
    def waits(self) -> bool:
        """Whether its client owes a header or a body, or has no request just now."""
        owes = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return owes and not self.transport.is_closing()

    def _look(self) -> None:
        """Set the clock for what is waited for now."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._wait("body", BODY_S)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait("header", HEADER_S)
        else:  # an answer is under way, or uvicorn's keep-alive runs
            self._wait("", 0)

    def _wait(self, what: str, seconds: float) -> None:
        # For the same part of the same request the clock goes on: a byte now and then buys none.
        if self._waits[0] == what and self._waits[1] is self.cycle:
            return
        self._waits = (what, self.cycle)
        if self._timer:
            self._timer.cancel()
        # Abort: one that does not read either must not keep its place until it does.
        self._timer = self.loop.call_later(seconds, self.transport.abort) if what else None
