"""The proxy's side of a connection to a backend: http.client in threads.

Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox.litellm_errors import BackendDown, BackendSlow
else:
    from litellm_errors import BackendDown, BackendSlow

if TYPE_CHECKING:
    from deployments.sandbox.litellm_config import Deployment

_POOL = ThreadPoolExecutor(256, thread_name_prefix="backend")


@dataclass
class Answer:
    """The head of a backend's answer; the body is read by `whole` or `lines`."""

    status: int
    headers: list[tuple[str, str]]
    response: http.client.HTTPResponse
    connection: http.client.HTTPConnection

    async def whole(self) -> bytes:
        """The body.

        Raises:
            BackendDown: the backend hung up in the middle.
            BackendSlow: it stopped in the middle.
        """
        try:
            body: bytes = await _in_thread(self.connection, self.response.read)
            return body
        finally:
            self.close()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The body line by line as it comes; raises as `whole`."""
        try:
            while line := await _in_thread(self.connection, self.response.readline):
                yield line
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self.response.close()
        self.connection.close()


async def ask(d: Deployment, path: str, body: dict[str, Any], timeout_s: float) -> Answer:
    """POST `body` to `path` below the deployment's api_base.

    Raises:
        BackendDown: nobody listens, or it hung up.
        BackendSlow: no answer within `timeout_s` seconds.
    """
    host, port, prefix = d.address
    https = d.api_base.startswith("https:")
    kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"}
    if d.api_key:
        headers["Authorization"] = f"Bearer {d.api_key}"
    data = json.dumps(body).encode()

    def send() -> http.client.HTTPResponse:
        connection.request("POST", prefix + path, data, headers)
        return connection.getresponse()

    try:
        response = await _in_thread(connection, send)
    except BaseException:
        connection.close()
        raise
    return Answer(response.status, response.getheaders(), response, connection)


async def _in_thread(connection: http.client.HTTPConnection, work: Any) -> Any:
    """Run blocking work; a client that hangs up meanwhile cuts the backend's connection too."""
    host, port = connection.host, connection.port
    try:
        return await asyncio.get_running_loop().run_in_executor(_POOL, work)
    except asyncio.CancelledError:
        if connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        raise
    except TimeoutError as e:
        raise BackendSlow(str(e)) from e
    except ConnectionRefusedError as e:
        raise BackendDown(f"Connect call failed ('{host}', {port})") from e
    except socket.gaierror as e:
        raise BackendDown(e.strerror or str(e)) from e
    except http.client.HTTPException as e:
        raise BackendDown("Server disconnected") from e
    except OSError as e:
        raise BackendDown(f"{e.strerror or e}") from e
