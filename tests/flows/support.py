"""A sandbox platform that procedures are run on, and a stand-in for Slack."""

import asyncio
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from blocks.journal import Journal
from blocks.stack import StackSpec, lock_name
from blocks.target import load_target
from deployments.bootstrap import register
from deployments.running import load_flow
from deployments.sandbox.local import Sandbox
from deployments.scenarios import SERVICE, Scenario
from deployments.staging import stage
from flows.decisions.health import judge
from flows.report import Options, Report
from tasks.reads import look

QUICK = {
    "autonomy": "auto",
    "attempts": 20,
    "cooldown_s": 0,
    "start_timeout_s": 15,
    "stabilisation_s": 0.4,
    "decode_timeout_s": 1,
    "poll_s": 0.1,
}
LADDER = {"max_model_len": [16384, 12288, 8192]}


class Scene:
    """One stack with one stand-in server; the stack may be edited and registered again."""

    def __init__(self, box: Sandbox, spec: StackSpec) -> None:
        self.box, self.spec = box, spec
        self.config = Path(spec.services[SERVICE].serving.path)
        self.journal = Journal(spec.name, SERVICE)
        self.lock = lock_name(spec.name, SERVICE)

    @classmethod
    async def build(
        cls,
        box: Sandbox,
        *,
        serving: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        until: str = "exited",
        policy: dict[str, Any] | None = None,
        restart: str = "no",
        **stack: Any,
    ) -> "Scene":
        """A server that died of its KV cache, or (until=serving) that fits and serves."""
        fits = {"max_model_len": 8192 if until == "serving" else 16384}
        scenario = Scenario.model_validate(
            {
                "name": "test",
                "title": "test",
                "story": "test",
                "platform": {
                    "serving": {**fits, **(serving or {})},
                    "params": {"startup_s": 0.1, **(params or {})},
                    "ladder": LADDER,
                    "restart": restart,
                    "policy": {**QUICK, **(policy or {})},
                },
                "trigger": {"until": until},
                "expect": {"verdict": "passed", "decoding": True},
            }
        )
        spec = await stage(scenario, box)
        scene = cls(box, spec.model_copy(update={"name": f"t-{uuid4().hex[:8]}"}))
        await scene.edit(**stack)
        return scene

    async def edit(self, *, policy: dict[str, Any] | None = None, **stack: Any) -> None:
        """Change the inventory and register it."""
        document = self.spec.model_dump(mode="json") | stack
        service = document["services"][SERVICE]
        service["policy"] |= policy or {}
        service |= stack.get("service", {})
        document.pop("service", None)
        self.spec = StackSpec.model_validate(document)
        await register(self.spec)

    async def run(self, procedure: str, **parameters: Any) -> Report:
        """Run a procedure in this process; its report, whatever the verdict."""
        state = await self.state(procedure, **parameters)
        report = await state.result(raise_on_failure=False)
        assert isinstance(report, Report), state.message
        return report

    async def state(self, procedure: str, *, flags: dict[str, Any] | None = None, **more: Any):
        """The final Prefect state of a run."""
        options = Options(**{"actor": "ada", "source": "cli", "wait": False, **(flags or {})})
        names = {"stack": self.spec.name, "service": SERVICE, **more}
        return await load_flow(procedure)(**names, options=options, return_state=True)

    @property
    def pid(self) -> int | None:
        return self.box.status(SERVICE)["pid"]

    def fault(self, **faults: Any) -> None:
        self.box.fault(SERVICE, **faults)

    def snapshot(self) -> dict[str, Any]:
        """Everything that a run which touches nothing must leave alone."""
        folder = self.journal.folder
        kept = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "lock"]
        return {
            "pid": self.pid,
            "mtime": self.config.stat().st_mtime_ns,
            "inode": self.config.stat().st_ino,
            "config": self.config.read_bytes(),
            "journal": {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept},
        }

    async def health(self) -> str:
        """What the service is now: healthy, loading, broken or unknown."""
        target = await load_target(self.spec.name, SERVICE)
        from blocks.target import runtime_of
        from flows.verify import expectation

        state, serving = await look(target)
        config = await runtime_of(target).read_config()
        return judge(state, serving, expectation(target, config)).status

    def as_before(self, content: bytes) -> None:
        """The file to the byte, and nothing left in the journal."""
        assert self.config.read_bytes() == content
        assert self.journal.entry() is None


async def artifacts(run_id: str) -> dict[str, Any]:
    """The artifacts of a flow run: key -> data."""
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run_id)]))
        )
    return {str(a.key): a.data for a in found}


async def until(condition: Any, timeout_s: float = 60) -> Any:
    """Wait for something to become true; its value."""
    for _ in range(int(timeout_s / 0.05)):
        if value := condition():
            return value
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


class Slack:
    """chat.postMessage on loopback: keeps what it received, answers as told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.status, self.answer = 200, {"ok": True, "ts": "1.0"}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tokens.append(self.headers.get("Authorization", ""))
                outer.messages.append(json.loads(body))
                data = json.dumps(outer.answer).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                if outer.status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def spec(self, channel: str = "#llm") -> dict[str, Any]:
        """The slack section of a stack."""
        return {
            "token": "${TEST_SLACK_TOKEN}",
            "channel": channel,
            "api_url": self.url,
            "timeout_s": 2,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
