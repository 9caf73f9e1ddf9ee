"""What LiteLLM 1.106 answers when it refuses or its backend fails (captures/litellm).

Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.sandbox.litellm_config import Deployment

SSL = "<ssl.SSLContext object at 0x7f819a90e720>"
NO_DEPLOYMENTS = "No deployments available for selected model"
FALLBACK = "\n\nLiteLLM: model group '{}' failed with the error above. No fallback was attempted."
CONTEXT = (
    "litellm.ContextWindowExceededError: litellm.BadRequestError: {}\nmodel={}. "
    "context_window_fallbacks=None. fallbacks=None.\n\nSet 'context_window_fallback' - "
    "https://docs.litellm.ai/docs/routing#fallbacks"
)
_NAMES = {
    400: ("BadRequestError", "invalid_request_error"),
    401: ("AuthenticationError", "auth_error"),
    404: ("NotFoundError", "invalid_request_error"),
    408: ("Timeout", "timeout_error"),
    429: ("RateLimitError", "throttling_error"),
    503: ("ServiceUnavailableError", "internal_server_error"),
}


class ProxyError(Exception):
    """One error answer of the proxy."""

    def __init__(
        self, status: int, message: str, kind: str = "", *, counts: bool = False, timeout: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.kind = kind or _NAMES.get(status, ("", "internal_server_error"))[1]
        self.counts = counts
        """Whether it counts towards the deployment's cool-down."""
        self.timeout = timeout

    @property
    def body(self) -> dict[str, object]:
        """The JSON body."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": None,
            "code": str(self.status),
        }
        return {"error": error}


class BackendDown(Exception):
    """The backend could not be reached, or hung up."""


class BackendSlow(Exception):
    """The backend did not answer in time."""


def unauthorized(given: str) -> ProxyError:
    """No key, or the wrong one."""
    why = (
        "Invalid proxy server token passed. Received API Key does not match the master key."
        if given
        else "No api key passed in."
    )
    return ProxyError(401, f"Authentication Error, {why}", "auth_error")


def unknown_model(name: object, path: str) -> ProxyError:
    """No such alias."""
    return ProxyError(
        400,
        f"{path.removeprefix('/v1')}: Invalid model name passed in model={name}. Call `/v1/models` "
        "to view available models for your key.",
    )


def rate_limited() -> ProxyError:
    """Every deployment is over its rpm or tpm: captured; it names neither limit nor time."""
    return ProxyError(429, f"{NO_DEPLOYMENTS}.", "internal_server_error")


def cooling(alias: str, seconds: float, checks: bool, ids: list[str]) -> ProxyError:
    """Every deployment is in cool-down (types/router.py, RouterRateLimitError)."""
    return ProxyError(
        429,
        f"{NO_DEPLOYMENTS}, Try again in {seconds:g} seconds. Passed model={alias}. "
        f"pre-call-checks={checks}, cooldown_list={ids}",
        "internal_server_error",
    )


def too_long(d: Deployment, tokens: int) -> ProxyError:
    """The prompt exceeds every deployment's max_input_tokens."""
    cause = (
        "litellm._pre_call_checks: Context Window exceeded for given call. No models have context "
        f"window large enough for this call.\nModel={d.model}, Max Input "
        f"Tokens={d.max_input_tokens}, Got={tokens}"
    )
    return ProxyError(400, CONTEXT.format(cause, d.alias) + FALLBACK.format(d.alias))


def unreachable_text(d: Deployment, error: BackendDown) -> str:
    """What aiohttp says of a backend that nobody listens for."""
    host, port, _ = d.address
    return (
        f"litellm.InternalServerError: InternalServerError: {d.provider}Exception - Cannot connect "
        f"to host {host}:{port} ssl:{SSL} [{error}]"
    )


def unreachable(d: Deployment, error: BackendDown, timeout_s: float) -> ProxyError:
    """The backend is down."""
    text = unreachable_text(d, error) + FALLBACK.format(d.alias)
    return ProxyError(500, text, counts=True, timeout=int(timeout_s))


def slow(d: Deployment, timeout_s: float) -> ProxyError:
    """The backend did not answer in time."""
    return ProxyError(
        408,
        "litellm.Timeout: APITimeoutError - Request timed out. Error_str: Request timed out. - "
        f"timeout value={timeout_s:.1f}, time taken={timeout_s:.2f} seconds"
        + FALLBACK.format(d.alias),
        counts=True,
        timeout=int(timeout_s),
    )


def refused(d: Deployment, status: int, said: str) -> ProxyError:
    """The backend answered with an error."""
    if status == 400 and "maximum context length" in said:
        cause = f"ContextWindowExceededError: {d.provider}Exception - {said}"
        return ProxyError(400, CONTEXT.format(cause, d.alias) + FALLBACK.format(d.alias))
    name = _NAMES.get(status, ("InternalServerError", ""))[0]
    code = status if status in _NAMES else 500
    text = f"litellm.{name}: {name}: {d.provider}Exception - {said}" + FALLBACK.format(d.alias)
    # LiteLLM cools down for 401, 404, 408, 429 and 5xx, not for what the client did wrong.
    return ProxyError(code, text, counts=status in (401, 404, 408, 429) or status >= 500)
