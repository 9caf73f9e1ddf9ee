"""The gateway's line of `runbooks doctor`, and the references that it resolves."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks.stack import StackSpec
from deployments.connection import Up, write_up
from deployments.doctor_gateway import gateway_lines
from deployments.doctor_servers import secrets_of

SERVICE = {"url": "http://127.0.0.1:9", "runtime": {"kind": "docker", "container": "c"}}


def stack(**more: Any) -> StackSpec:
    return StackSpec.model_validate({"name": "s", "services": {"chat": SERVICE}, **more})


ALERTS = {"alerts": {"token": "${ALERTS}"}}


@pytest.mark.parametrize(("code", "status"), [(200, "ok"), (503, "fail")])
async def test_what_the_gateway_says_of_itself(home: Path, code: int, status: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": "x", "inbox": "ok", "prefect": "does not answer"}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        home.mkdir()
        write_up(Up(pid=1, url="http://127.0.0.1:9/api", children={}, gateway=url))
        (line,) = await gateway_lines(stack(**ALERTS))
        server.shutdown()
    assert line.status == status and "prefect does not answer" in line.message
    (gone,) = await gateway_lines(stack(**ALERTS))
    assert gone.status == "fail" and "does not answer" in gone.message


async def test_without_one(home: Path) -> None:
    assert await gateway_lines(stack()) == []
    (line,) = await gateway_lines(stack(**ALERTS))
    assert line.status == "warn" and "runbooks up" in line.fix


def test_every_reference_is_found() -> None:
    spec = stack(
        slack={"token": "${BOT}", "app_token": "secret:app", "channel": "C1"},
        escalation={
            "severities": {
                "P0": {"meaning": "down", "respond_min": 15, "path": ["boss"], "via": ["pagerduty"]}
            },
            "contacts": {"boss": "eve"},
            "pagerduty": {"routing_key": "secret:pd"},
        },
        people={"members": {"eve": {}}},
        **ALERTS,
    )
    assert secrets_of(spec) == {
        "${BOT}": "slack.token",
        "secret:app": "slack.app_token",
        "${ALERTS}": "alerts.token",
        "secret:pd": "escalation.pagerduty.routing_key",
    }
