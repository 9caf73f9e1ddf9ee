"""What a failed connection is called to an operator. Pure; never repeats more than its cause."""

_CUT = ("RemoteProtocolError", "ReadError", "ConnectionResetError")
_UNKNOWN = ("name or service not known", "nodename nor servname", "no address associated")


def why(error: Exception) -> str:
    """Why nobody could be spoken to, in a few words, with the remedy where there is one.

    Args:
        error: of httpx, or an OSError of a socket.
    """
    text, kind = str(error), type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        cause = text.rsplit("certificate verify failed: ", 1)[-1].split(" (_ssl")[0]
        return (
            f"its certificate is not accepted ({cause[:100]}); install its CA, or tls_verify: false"
        )
    if "[SSL" in text:
        return "no TLS there; is the url http:// ?"
    lower = text.lower()
    if any(words in lower for words in _UNKNOWN):
        return "its host name is not known here"
    if "unreachable" in lower or "no route" in lower:
        return "no route to it"
    if kind in _CUT:
        return "connection cut"
    # Several addresses that all refuse are one OSError without a number.
    return "connection refused" if kind == "ConnectError" or isinstance(error, OSError) else kind
