"""What a failed connection is called."""

import socket
import ssl

import httpx
import pytest

from blocks.http_words import why
from tests.conftest import free_port

CERTIFICATE = (
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate "
    "(_ssl.c:1000)"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError(CERTIFICATE), "not accepted (self-signed certificate); install its CA"),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "no TLS there"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "not known here"),
        (socket.gaierror(-5, "No address associated with hostname"), "not known here"),
        (httpx.ConnectError("[Errno 101] Network is unreachable"), "no route to it"),
        (OSError(113, "No route to host"), "no route to it"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed"), "connection refused"),
        (httpx.ConnectError("All connection attempts failed"), "connection refused"),
        (httpx.ReadError(""), "connection cut"),
        (httpx.RemoteProtocolError("Server disconnected"), "connection cut"),
        (ConnectionResetError(104, "reset"), "connection cut"),
        (httpx.LocalProtocolError("Illegal header value b'Bearer sk-secret'"), "LocalProtocol"),
        (ssl.SSLError("[SSL] internal error"), "no TLS there"),
    ],
)
def test_every_cause_has_its_words_and_no_more(error: Exception, words: str) -> None:
    assert words in why(error) and "sk-secret" not in why(error)


async def test_what_httpx_says_of_a_closed_port_and_of_no_such_host() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError) as refused:
            await client.get(f"http://127.0.0.1:{free_port()}")
        assert why(refused.value) == "connection refused"
