"""The OpenAI-compatible and operational endpoints, with vLLM 0.32's bodies (captures/vllm).

Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox import vllm_text as text
    from deployments.sandbox.vllm_bodies import (
        ApiError,
        answer,
        bad,
        chat_text,
        choice,
        event,
        json_object,
        models,
        tail,
        tokens_of,
        usage_of,
    )
    from deployments.sandbox.vllm_engine import Engine, EngineDead, Job
    from deployments.sandbox.vllm_http import Request, Response, as_json
    from deployments.sandbox.vllm_requests import jobs_of
else:
    import vllm_text as text
    from vllm_bodies import (
        ApiError,
        answer,
        bad,
        chat_text,
        choice,
        event,
        json_object,
        models,
        tail,
        tokens_of,
        usage_of,
    )
    from vllm_engine import Engine, EngineDead, Job
    from vllm_http import Request, Response, as_json
    from vllm_requests import jobs_of

if TYPE_CHECKING:
    from deployments.sandbox.vllm_metrics import Metrics
    from deployments.sandbox.vllm_settings import Source

_LOOPBACK = ("127.", "::1", "::ffff:127.")
_UNCOUNTED = ("/health", "/metrics", "/ping", "/version", "/load", "/sandbox/faults")


class Api:
    """Routes of one server."""

    def __init__(
        self,
        *,
        source: Source,
        metrics: Metrics,
        engine: Engine,
        names: list[str],
        root: str,
        max_model_len: int,
        keys: Iterable[str] = (),
    ) -> None:
        self._source, self._metrics, self._engine = source, metrics, engine
        self._names, self._root, self._max_len = names, root, max_model_len
        self._keys = {f"Bearer {key}" for key in keys}
        self._created = int(time.time())
        self._routes: dict[str, dict[str, Callable[[Request], Awaitable[Response]]]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._fixed({"version": text.VERSION})},
            "/load": {"GET": self._load},
            "/kv_event_sources": {"GET": self._fixed({})},
            "/openapi.json": {"GET": self._fixed({"openapi": "3.1.0", "paths": {}})},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/v1/completions": {"POST": lambda r: self._generate(r, chat=False)},
            "/v1/chat/completions": {"POST": lambda r: self._generate(r, chat=True)},
            "/sandbox/faults": {"GET": self._faults, "POST": self._faults},
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises an error of ours."""
        if (
            request.path.startswith("/v1")
            and self._keys
            and request.method != "OPTIONS"
            and (request.headers.get("authorization") not in self._keys)
        ):
            return as_json({"error": "Unauthorized"}, 401)
        methods = self._routes.get(request.path)
        if methods is None:
            return as_json({"detail": "Not Found"}, 404)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return as_json({"detail": "Method Not Allowed"}, 405, allow=", ".join(methods))
        try:
            return await handler(request)
        except ApiError as e:
            return e.response
        except EngineDead:
            return ApiError(500, "InternalServerError", text.ENGINE_DEAD).response

    def finished(self, request: Request, response: Response, seconds: float) -> None:
        """Count and log one request."""
        known = request.path in self._routes
        if request.path not in _UNCOUNTED and response.status != 499:
            size_in = int(request.headers.get("content-length", "0"))
            self._metrics.http(
                request.path if known else "none",
                request.method,
                response.status,
                size_in,
                response.sent,
                seconds,
            )
        if response.status != 499:
            text.access(request.peer, f"{request.method} {request.path}", response.status)

    def _fixed(self, value: Any) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            return as_json(value)

        return answer

    async def _health(self, _: Request) -> Response:
        return Response(503 if self._engine.dead else self._source.current().health_status)

    async def _load(self, _: Request) -> Response:
        return as_json({"server_load": self._engine.in_flight})

    async def _metrics_page(self, _: Request) -> Response:
        while self._source.current().frozen_metrics:  # noqa: ASYNC110 - a file changes
            await asyncio.sleep(0.05)
        self._engine.refresh()
        s = self._source.current()
        page = self._metrics.text(
            old=s.old_metric_names, without=s.metrics_without, empty=s.histograms_empty
        )
        return Response(200, page.encode(), "text/plain; version=1.0.0; charset=utf-8")

    async def _faults(self, request: Request) -> Response:
        if not request.peer[0].startswith(_LOOPBACK):
            return as_json({"detail": "Not Found"}, 404)
        if request.method == "POST":
            try:
                self._source.post(json_object(request))
            except ValueError as e:
                raise bad(str(e)) from e
        return as_json(vars(self._source.current()))

    async def _models(self, _: Request) -> Response:
        if dangling(self._root):
            text.asgi_failed(
                "FileNotFoundError: [Errno 2] No such file or directory: "
                f"'{self._root}/config.json'"
            )
            return Response(500, b"Internal Server Error", "text/plain; charset=utf-8")
        served = self._source.current().served_max_model_len or self._max_len
        return as_json(models(self._names, self._root, served, self._created))

    async def _tokenize(self, request: Request) -> Response:
        body = json_object(request)
        self._check_model(body)
        tokens = tokens_of(chat_text(body) if "messages" in body else body.get("prompt", ""))
        return as_json(
            {
                "count": len(tokens),
                "max_model_len": self._max_len,
                "tokens": tokens,
                "token_strs": None,
            }
        )

    def _check_model(self, body: dict[str, Any]) -> str:
        name = body.get("model") or self._names[0]
        if name not in self._names:
            raise ApiError(
                404,
                "NotFoundError",
                f"The model `{name}` does not exist. Valid aliases: {', '.join(self._names)}.",
                "model",
            )
        return str(name)

    async def _generate(self, request: Request, *, chat: bool) -> Response:
        body = json_object(request)
        model = self._check_model(body)
        jobs = jobs_of(body, chat, self._max_len)
        frame = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return Response(
                content_type="text/event-stream; charset=utf-8",
                stream=self._stream(frame, jobs, chat, usage),
            )

        async def whole(job: Job) -> None:
            async for _ in self._engine.generate(job):
                pass

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_quiet(whole(job))) for job in jobs]
        if not all(task.result() for task in tasks):
            raise EngineDead
        return as_json(
            {
                **frame,
                "choices": [choice(i, j, chat) for i, j in enumerate(jobs)],
                "service_tier": None,
                "system_fingerprint": "vllm-0.32.0-8da877ce",
                "usage": usage_of(jobs),
                **tail(chat),
            }
        )

    async def _stream(
        self, frame: dict[str, Any], jobs: list[Job], chat: bool, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        frame = {**frame, "object": "chat.completion.chunk"} if chat else frame
        for index, job in enumerate(jobs):
            if chat:
                yield event(
                    {
                        **frame,
                        "choices": [
                            {
                                "index": index,
                                "delta": {"role": "assistant", "content": ""},
                                "logprobs": None,
                                "finish_reason": None,
                            }
                        ],
                    }
                )
            try:
                async for count in self._engine.generate(job):
                    piece = answer(count, job.produced - count)
                    part = {"delta": {"content": piece}} if chat else {"text": piece}
                    yield event(
                        {
                            **frame,
                            "choices": [
                                {"index": index, **part, "logprobs": None, "finish_reason": None}
                            ],
                        }
                    )
            except EngineDead:
                yield event(
                    json.loads(ApiError(500, "InternalServerError", text.ENGINE_DEAD).response.body)
                )
                break
            end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            yield event(
                {
                    **frame,
                    "choices": [
                        {
                            "index": index,
                            **end,
                            "logprobs": None,
                            "finish_reason": job.finish,
                            "stop_reason": None,
                        }
                    ],
                }
            )
        if usage:
            yield event({**frame, "choices": [], "usage": usage_of(jobs)})
        yield b"data: [DONE]\n\n"


def dangling(model: str) -> bool:
    """True for a link whose target is gone; a name that is no path at all is none."""
    return os.path.islink(model) and not os.path.exists(model)


async def _quiet(work: Awaitable[None]) -> bool:
    try:
        await work
    except EngineDead:
        return False
    return True
