"""The stand-in's HTTP surface: /api/METHOD, uploads, response_urls and the socket's address."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from deployments.sandbox.slack_api import Api, Args
from deployments.sandbox.slack_sockets import Sockets
from deployments.sandbox.slack_state import Ack, Fault, Refused, Url, View

USES = 5
"""A response_url is good for so many messages (and 30 minutes)."""


@dataclass(frozen=True)
class Tokens:
    """The secrets that the app must show."""

    bot: str
    app: str


def app(api: Api, sockets: Sockets, tokens: Tokens) -> Starlette:
    """All routes."""

    async def call(request: Request) -> Response:
        method = request.path_params["method"]
        args = await _arguments(request)
        fault = api.state.fault(method)
        if fault:
            await asyncio.sleep(fault.delay_s)
        wrong = _wrong(fault)
        if wrong and fault and not fault.lost:
            return wrong
        answer = _checked(api, tokens, method, args)
        return wrong or answer

    async def upload(request: Request) -> Response:
        for file in api.state.files:
            if file.id == request.path_params["file"]:
                file.content = await request.body()
                return PlainTextResponse(f"OK - {len(file.content)}")
        return PlainTextResponse("not found", 404)

    async def respond(request: Request) -> Response:
        fault = api.state.fault("response_url")
        if fault:
            await asyncio.sleep(fault.delay_s)
        return _wrong(fault) or _responded(api, request.path_params["url"], await request.json())

    return Starlette(
        routes=[
            Route("/api/{method}", call, methods=["GET", "POST"]),
            Route("/upload/v1/{file}", upload, methods=["POST"]),
            Route("/actions/{url}", respond, methods=["POST"]),
            WebSocketRoute("/link/", sockets.serve),
        ]
    )


async def _arguments(request: Request) -> Args:
    body = await request.body()
    args: Args = dict(request.query_params)
    if "json" in request.headers.get("content-type", ""):
        args |= json.loads(body or b"{}")
    else:
        args |= dict(parse_qsl(body.decode(), keep_blank_values=True))
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return {"token": bearer} | args


def _checked(api: Api, tokens: Tokens, method: str, args: Args) -> Response:
    """Carry out one call."""
    token = args.pop("token", "")
    api.state.calls.append((method, args))
    try:
        if method not in api.methods:
            raise Refused("unknown_method")
        if not token:
            raise Refused("not_authed")
        if token != (tokens.app if method == "apps.connections.open" else tokens.bot):
            raise Refused("invalid_auth")
        return JSONResponse({"ok": True, **api.methods[method](args)})
    except Refused as e:
        more: Args = {"errors": e.faults} if e.faults else {}
        if e.faults:
            more["response_metadata"] = {"messages": [f"[ERROR] {f}" for f in e.faults]}
        return JSONResponse({"ok": False, "error": e.error, **more})


def _wrong(fault: Fault | None) -> Response | None:
    """What a fault answers; None when it only delays."""
    if fault is None or (fault.status == 200 and not fault.error):
        return None
    if fault.status == 429:
        wait = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
        return JSONResponse({"ok": False, "error": "ratelimited"}, 429, headers=wait)
    if fault.error:
        return JSONResponse({"ok": False, "error": fault.error}, fault.status)
    return PlainTextResponse("<html>Server Error</html>", fault.status, media_type="text/html")


def _responded(api: Api, name: str, args: Args) -> Response:
    """One message to a response_url."""
    url = api.state.urls.get(name)
    if url is None or url.used >= USES:
        error = "used_url" if url else "expired_url"
        return JSONResponse({"ok": False, "error": error}, 404)
    url.used += 1
    try:
        _show(api, url, args)
    except Refused as e:
        return JSONResponse({"ok": False, "error": e.error, "errors": e.faults}, 400)
    return PlainTextResponse("ok")


def _show(api: Api, url: Url, args: Args) -> None:
    if args.get("delete_original") and url.message:
        url.message.deleted = True
        if url.message in api.state.ephemerals:
            api.state.ephemerals.remove(url.message)
        return
    if args.get("replace_original") and url.message:
        api.edit(url.message, args)
        return
    private = args.get("response_type", "ephemeral") != "in_channel"
    message = api.message(args, url.channel, user=url.user if private else "")
    (api.state.ephemerals if private else api.state.posted).append(message)


def show_answer(api: Api, ack: Ack, channel: str, user: str, view: View | None = None) -> Ack:
    """Show what an acknowledgement carried: a message, or a modal's errors or next view."""
    answer: dict[str, Any] = ack.payload
    if not ack.acked:
        return ack
    try:
        if view is None:
            if answer.get("text") or answer.get("blocks"):
                _show(api, Url(channel, user, None), answer)
        elif answer.get("response_action") == "errors":
            blocks = {b["block_id"] for b in view.view["blocks"] if b["type"] == "input"}
            if unknown := set(answer["errors"]) - blocks:
                raise Refused("invalid_arguments", [f"no input block {sorted(unknown)}"])
            view.errors = dict(answer["errors"])
        elif answer.get("response_action") in ("update", "push"):
            api.set_view(view, answer["view"])
        else:
            view.open = False
    except Refused as e:
        ack.faults.append(f"{e.error}: {'; '.join(e.faults)}")
    return ack
