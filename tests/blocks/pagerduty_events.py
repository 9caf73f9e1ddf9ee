"""A stand-in for PagerDuty's Events API v2, which checks an event as the documentation says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Events:
    """POST /v2/enqueue on loopback: 202, 400 with the errors, or what a test says."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.reply: tuple[int, Any, dict[str, str]] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body, headers = outer.reply or outer.judge(event)
                outer.received.append(event)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v2/enqueue"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @staticmethod
    def judge(event: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """What is required of an event, and how it is refused (Events API v2, "Send an event")."""
        errors = []
        if len(str(event.get("routing_key", ""))) != 32:
            errors.append("Length of 'routing_key' is incorrect (should be 32 characters)")
        if event.get("event_action") not in ("trigger", "acknowledge", "resolve"):
            errors.append("'event_action' is missing or not supported")
        payload = event.get("payload") or {}
        if event.get("event_action") == "trigger":
            errors += [
                f"'payload.{key}' is missing or blank"
                for key in ("summary", "source", "severity")
                if not payload.get(key)
            ]
            if payload.get("severity") not in ("critical", "error", "warning", "info"):
                errors.append("'payload.severity' is invalid (must be one of the following: ...)")
            if len(payload.get("summary", "")) > 1024:
                errors.append("'payload.summary' is too long")
        elif not event.get("dedup_key"):
            errors.append("'dedup_key' is missing or blank")
        if errors:
            body = {"status": "invalid event", "message": "Event object is invalid"}
            return 400, {**body, "errors": errors}, {}
        good = {"status": "success", "message": "Event processed"}
        return 202, {**good, "dedup_key": event.get("dedup_key", "made-up")}, {}

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
