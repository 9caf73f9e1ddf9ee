"""The endpoints of the stand-in LiteLLM proxy, with LiteLLM 1.106's answers (captures/litellm)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING or __package__:
    from deployments.sandbox import litellm_bodies as bodies
    from deployments.sandbox import litellm_errors as errors
    from deployments.sandbox import litellm_text as text
    from deployments.sandbox.litellm_backend import Answer, ask
    from deployments.sandbox.litellm_router import Router
    from deployments.sandbox.vllm_bodies import ApiError, chat_text, event, tokens_of
    from deployments.sandbox.vllm_http import Request, Response
    from deployments.sandbox.vllm_text import access
else:
    import litellm_bodies as bodies
    import litellm_errors as errors
    import litellm_text as text
    from litellm_backend import Answer, ask
    from litellm_router import Router
    from vllm_bodies import ApiError, chat_text, event, tokens_of
    from vllm_http import Request, Response
    from vllm_text import access

if TYPE_CHECKING:
    from deployments.sandbox.litellm_config import Config, Deployment
    from deployments.sandbox.litellm_settings import ProxySource

PROBE = {"messages": [{"role": "user", "content": "Hey how's it going?"}], "max_tokens": 16}
"""What /health asks every backend."""
_HEALTH_S = 10.0
T = TypeVar("T")
_Handler = Callable[[Request], Awaitable[Response]]


class Proxy:
    """Routes of one proxy."""

    def __init__(self, config: Config, source: ProxySource) -> None:
        self._config, self._source = config, source
        self._router = Router(config)
        self._slots = {
            d.id: asyncio.Semaphore(d.max_parallel_requests)
            for d in config.deployments
            if d.max_parallel_requests
        }
        self._open: dict[str, tuple[str, _Handler]] = {
            "/health/liveliness": ("GET", self._alive),
            "/health/liveness": ("GET", self._alive),
            "/health/readiness": ("GET", self._ready),
        }
        self._guarded: dict[str, tuple[str, _Handler]] = {
            "/health": ("GET", self._health),
            "/models": ("GET", self._models),
            "/model/info": ("GET", self._info),
            "/chat/completions": ("POST", lambda r: self._complete(r, "/chat/completions")),
            "/completions": ("POST", lambda r: self._complete(r, "/completions")),
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises an error of ours."""
        path = request.path.removeprefix("/v1")
        guarded = path in self._guarded and (path != "/health" or request.path == path)
        route = self._guarded[path] if guarded else self._open.get(request.path)
        if route is None:
            return bodies.plain({"detail": "Not Found"}, 404)
        method, handler = route
        if method != ("GET" if request.method == "HEAD" else request.method):
            return bodies.plain({"detail": "Method Not Allowed"}, 405)
        try:
            if guarded:
                self._check_key(request)
            return await handler(request)
        except errors.ProxyError as e:
            return self._refusal(e)

    def finished(self, request: Request, response: Response, _: float) -> None:
        """Log one request, as uvicorn does."""
        if response.status != 499:
            access(request.peer, f"{request.method} {request.path}", response.status)

    def _check_key(self, request: Request) -> None:
        wanted = self._config.master_key
        given = request.headers.get("authorization", "")
        if wanted and given != f"Bearer {wanted}":
            raise errors.unauthorized(given)

    def _refusal(self, e: errors.ProxyError) -> Response:
        text.answered_error(e.message)
        body, own = bodies.sized(e.body)
        head = [
            ("x-litellm-call-id", str(uuid.uuid4())),
            ("x-litellm-response-cost", "0"),
            ("x-litellm-key-spend", "0.0"),
            *([("x-litellm-timeout", str(e.timeout))] if e.timeout else []),
            *own,
        ]
        return Response(e.status, body, head=bodies.secured(len(body), head))

    async def _alive(self, _: Request) -> Response:
        return bodies.plain("I'm alive!")

    async def _ready(self, _: Request) -> Response:
        if self._source.current().unready:
            return bodies.plain({"detail": "Service Unhealthy (sandbox: unready)"}, 503)
        return bodies.plain({"status": "healthy", "db": "Not connected"})

    async def _health(self, _: Request) -> Response:
        """Ask every backend for a few tokens, all at once."""
        deployments = self._config.deployments
        found = await asyncio.gather(*(self._probe(d) for d in deployments))
        pairs = list(zip(deployments, found, strict=True))
        request = {d.id: {"model": d.backend_model, **PROBE} for d in deployments}
        well = [bodies.endpoint(d, None, {}) for d, error in pairs if error is None]
        ill = [bodies.endpoint(d, error, request[d.id]) for d, error in pairs if error is not None]
        return bodies.plain(
            {
                "healthy_endpoints": well,
                "unhealthy_endpoints": ill,
                "healthy_count": len(well),
                "unhealthy_count": len(ill),
            }
        )

    async def _probe(self, d: Deployment) -> str | None:
        """Why a deployment is not healthy; None when it answers."""
        limit = min(self._source.current().timeout_s, _HEALTH_S)
        try:
            answer = await ask(d, "/chat/completions", {"model": d.backend_model, **PROBE}, limit)
            data = await answer.whole()
        except errors.BackendDown as e:
            return (
                f"{errors.unreachable_text(d, e)}\nstack trace: Traceback (most recent call "
                f"last):\nConnectionRefusedError: [Errno 111] {e}\n"
            )
        except errors.BackendSlow:
            return errors.slow(d, limit).message
        return (
            None if answer.status == 200 else errors.refused(d, answer.status, _said(data)).message
        )

    async def _models(self, _: Request) -> Response:
        of = self._config.deployments
        return bodies.plain(
            bodies.model_list([next(d for d in of if d.alias == a) for a in self._config.aliases])
        )

    async def _info(self, _: Request) -> Response:
        return bodies.plain(bodies.model_info(self._config.deployments))

    async def _complete(self, request: Request, path: str) -> Response:
        body = _body(request)
        alias = body.get("model")
        if alias not in self._config.aliases:
            raise errors.unknown_model(alias, request.path)
        try:
            prompt = chat_text(body) if path == "/chat/completions" else body.get("prompt", "")
        except ApiError as e:
            raise errors.ProxyError(400, str(e)) from e
        while self._source.current().frozen:  # noqa: ASYNC110 - a file changes
            await asyncio.sleep(0.05)
        if self._source.current().status_5xx:
            raise errors.ProxyError(500, "litellm.InternalServerError: Internal server error")
        d = self._pick(str(alias), len(tokens_of(prompt)))
        # As LiteLLM does it: who is over max_parallel_requests waits; it is not refused.
        slot = self._slots.get(d.id)
        async with contextlib.AsyncExitStack() as held:
            if slot is not None:
                await held.enter_async_context(slot)
            begun = time.monotonic()
            answer = await self._ask(d, path, {**body, "model": d.backend_model})
            if body.get("stream"):
                lines = self._stream(d, answer, held.pop_all())
                ms = 1000 * (time.monotonic() - begun)
                head = [("content-type", "text/event-stream; charset=utf-8")]
                return Response(stream=lines, head=self._head(d, answer, head, ms))
            data = json.loads(await self._guard(d, answer.whole()))
        shown = bodies.reshaped(data, d.alias)
        self._done(d, shown["usage"]["total_tokens"])
        content, own = bodies.sized(shown)
        ms = 1000 * (time.monotonic() - begun)
        return Response(200, content, head=self._head(d, answer, own, ms))

    def _pick(self, alias: str, tokens: int) -> Deployment:
        try:
            return self._router.pick(alias, tokens, time.monotonic())
        except errors.ProxyError as e:
            if e.status == 429 and self._source.current().bare_429:
                raise errors.rate_limited() from e
            raise

    async def _ask(self, d: Deployment, path: str, body: dict[str, Any]) -> Answer:
        answer = await self._guard(d, ask(d, path, body, self._source.current().timeout_s))
        if answer.status != 200:
            said = _said(await self._guard(d, answer.whole()))
            raise self._count(d, errors.refused(d, answer.status, said))
        return answer

    async def _guard(self, d: Deployment, work: Awaitable[T]) -> T:
        """Wait for the backend; its failure becomes the client's error, and is counted."""
        limit = self._source.current().timeout_s
        try:
            return await work
        except errors.BackendDown as e:
            raise self._count(d, errors.unreachable(d, e, limit)) from e
        except errors.BackendSlow as e:
            raise self._count(d, errors.slow(d, limit)) from e

    def _count(self, d: Deployment, e: errors.ProxyError) -> errors.ProxyError:
        text.failed(d.model, e.message)
        if e.counts and self._router.failed(d, time.monotonic()):
            text.rests(d.id, self._config.cooldown_time)
        return e

    def _done(self, d: Deployment, tokens: int) -> None:
        self._router.succeeded(d, tokens, time.monotonic())
        text.completed(d.model)

    async def _stream(
        self, d: Deployment, answer: Answer, held: contextlib.AsyncExitStack
    ) -> AsyncGenerator[bytes, None]:
        """The backend's events under the alias; an error in the middle is the last event."""
        pieces = 0
        async with held:
            try:
                async for line in answer.lines():
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    pieces += 1
                    yield event({**json.loads(line[6:]), "model": d.alias})
            except (errors.BackendDown, errors.BackendSlow) as e:
                down = e if isinstance(e, errors.BackendDown) else errors.BackendDown(str(e))
                failure = self._count(d, errors.unreachable(d, down, 0))
                text.answered_error(failure.message)
                yield event(failure.body)
                return
        self._done(d, pieces)
        yield b"data: [DONE]\n\n"

    def _head(self, d: Deployment, answer: Answer, own: bodies.Head, ms: float) -> bodies.Head:
        used = self._router.usage(d, time.monotonic())
        limits: bodies.Head = []
        for name, limit, count in (
            ("tokens", d.tpm, used.tokens),
            ("requests", d.rpm, used.requests),
        ):
            if limit is not None:
                limits.append((f"x-ratelimit-remaining-{name}", str(max(0, limit - count))))
                limits.append((f"x-ratelimit-limit-{name}", str(limit)))
        size = next((int(v) for k, v in own if k == "content-length"), 0)
        call = ("x-litellm-call-id", str(uuid.uuid4()))
        head = bodies.completion_head(d, [*own, call], limits, answer.headers, ms)
        return bodies.secured(size, head)


def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.body or b"{}")
    except ValueError as e:
        raise errors.ProxyError(400, f"Invalid JSON payload: {e}") from e
    if not isinstance(value, dict):
        raise errors.ProxyError(400, "Invalid JSON payload: an object is needed")
    return value


def _said(data: bytes) -> str:
    """The message of a backend's error body."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(data)["error"]["message"])
    return data.decode("utf-8", "replace")[:300]
