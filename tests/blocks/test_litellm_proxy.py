"""`observe` of a LiteLLM proxy: the stand-in over real stand-in servers, and raw answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks.litellm_proxy import live_limits, observe
from blocks.models import ServiceState, Serving
from blocks.service import Service
from deployments.sandbox.local import Sandbox
from flows.decisions.health import Expectation, judge
from tests.conftest import free_port

KEY = "sk-proxy-0123456789"
TOKEN = {"choices": [{"message": {"content": " pong"}}], "usage": {"completion_tokens": 1}}
NO_DEPLOYMENTS = {"error": {"message": "No deployments available for selected model."}}
DOWN = {"error": {"message": "litellm.InternalServerError: Cannot connect to host 10.0.0.9:4400"}}
Reply = tuple[int, Any]


class Proxy:
    """Answers as LiteLLM 1.106 does (captures), each path and each model as the test says."""

    def __init__(self) -> None:
        self.paths: dict[str, Reply] = {
            "/health/liveliness": (200, "I'm alive!"),
            "/health/readiness": (200, {"status": "healthy", "db": "Not connected"}),
            "/v1/models": (200, self.listing("a", "b", "c", "d")),
            "/model/info": (401, {"error": {"message": "Authentication Error"}}),
        }
        self.models: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.reply(*outer.paths.get(self.path, (404, {"detail": "Not Found"})))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append({"path": self.path, **body})
                self.reply(*outer.models.get(body["model"], (200, TOKEN)))

            def reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @staticmethod
    def listing(*models: str | dict[str, Any]) -> dict[str, Any]:
        data = [{"id": m, "mode": "chat"} if isinstance(m, str) else m for m in models]
        return {"object": "list", "data": data}

    def tried(self) -> list[str]:
        return [b["model"] for b in self.bodies]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    one = Proxy()
    yield one
    one.close()


def service(url: str, **more: Any) -> Service:
    return Service.model_validate(
        {
            "engine": "litellm",
            "url": url,
            "runtime": {"kind": "docker", "container": "c"},
            "policy": {"decode_timeout_s": 1},
            **more,
        }
    )


def status_of(serving: Serving) -> str:
    return judge(ServiceState(phase="running"), serving, Expectation()).status


async def test_the_first_model_that_answers_is_enough(proxy: Proxy) -> None:
    seen = await observe(service(proxy.url))
    assert seen.decoded and seen.decode_s is not None and status_of(seen) == "healthy"
    assert (seen.health_status, seen.model_id, seen.model_ids) == (200, "a", ("a", "b", "c", "d"))
    assert seen.max_model_len is None
    (ping,) = proxy.bodies
    assert ping["path"] == "/v1/chat/completions" and ping["max_tokens"] == 1
    seen = await observe(service(proxy.url, served_model_name="c"))
    assert seen.model_id == "c" and proxy.tried()[1:] == ["c"]


async def test_a_dead_backend_of_one_model_does_not_make_the_proxy_sick(proxy: Proxy) -> None:
    proxy.models = {"a": (500, DOWN), "b": (429, NO_DEPLOYMENTS)}
    assert (await observe(service(proxy.url))).decoded is True
    assert sorted(proxy.tried()) == ["a", "b", "c"]


async def test_only_when_every_asked_model_fails_it_does_not_decode(proxy: Proxy) -> None:
    proxy.models = dict.fromkeys("abc", (500, DOWN))
    seen = await observe(service(proxy.url))
    assert seen.decoded is False and status_of(seen) == "broken"
    assert "a: /v1/chat/completions answered 500, no token (InternalServerError)" in seen.problem
    assert "c: " in seen.problem and "10.0.0.9" not in seen.problem
    assert "d" not in proxy.tried(), "at most three models are asked"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((429, NO_DEPLOYMENTS), "ask the backend itself"),
        ((429, {"error": {"message": "Rate limit exceeded"}}), "a: throttled (429)"),
        ((401, {}), "answered 401: set api_key of this service"),
    ],
)
async def test_what_says_nothing_of_the_engine_is_unknown(
    proxy: Proxy, reply: Reply, words: str
) -> None:
    proxy.models = {**dict.fromkeys("abc", (500, DOWN)), "a": reply}
    seen = await observe(service(proxy.url))
    assert seen.decoded is None and status_of(seen) == "unknown"
    assert words in seen.problem


@pytest.mark.parametrize("body", [TOKEN | {"usage": {}}, {"usage": {"completion_tokens": 0}}, []])
async def test_a_200_without_a_token_is_no_token(proxy: Proxy, body: Any) -> None:
    proxy.models = dict.fromkeys("abc", (200, body))
    assert (await observe(service(proxy.url))).decoded is False


async def test_models_that_do_not_chat_are_not_asked(proxy: Proxy) -> None:
    proxy.paths["/v1/models"] = (
        200,
        Proxy.listing({"id": "bge", "mode": "embedding"}, "openai/*", {"id": "plain"}, {"no": 1}),
    )
    assert (await observe(service(proxy.url))).decoded is True
    assert proxy.tried() == ["plain"]
    proxy.paths["/v1/models"] = (200, Proxy.listing({"id": "bge", "mode": "embedding"}))
    seen = await observe(service(proxy.url))
    assert seen.decoded is None and "no chat model" in seen.problem


async def test_an_old_proxy_spells_liveliness_liveness(proxy: Proxy) -> None:
    proxy.paths["/health/liveness"] = proxy.paths.pop("/health/liveliness")
    assert (await observe(service(proxy.url))).decoded is True
    assert proxy.asked[:3] == ["/health/liveliness", "/health/liveness", "/health/readiness"]


@pytest.mark.parametrize(
    ("path", "reply", "health", "verdict"),
    [
        ("/health/liveliness", (500, {}), 500, "broken"),
        ("/health/readiness", (503, {"detail": "Not connected"}), 503, "broken"),
        ("/health/readiness", (429, {}), 429, "unknown"),
        ("/v1/models", (401, {}), 200, "unknown"),
        ("/v1/models", (500, {}), 200, "broken"),
        ("/v1/models", (200, Proxy.listing()), 200, "broken"),
        ("/v1/models", (200, []), 200, "broken"),
    ],
)
async def test_each_step_is_named_and_nothing_more_is_asked(
    proxy: Proxy, path: str, reply: Reply, health: int, verdict: str
) -> None:
    proxy.paths[path] = reply
    seen = await observe(service(proxy.url))
    assert (seen.health_status, status_of(seen)) == (health, verdict)
    assert seen.problem.startswith(f"{path} answered {reply[0]}") and not proxy.bodies


async def test_nothing_listens() -> None:
    seen = await observe(service(f"http://127.0.0.1:{free_port()}"))
    assert (seen.reachable, seen.decoded) == (False, None)
    assert seen.problem == "/health/liveliness: connection refused"


# --- the stand-in, with its file and its backends ------------------------------------------------


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    one = Sandbox.create(tmp_path_factory.mktemp("box"))
    one.add_vllm("wintermute", serving={"max_model_len": 8192}, params={"startup_s": 0.1})
    one.add_litellm(
        "motoko",
        {
            "llama31": [
                {"backend": "wintermute", "max_input_tokens": 7000, "tpm": 120000, "rpm": 600},
                {"backend": "wintermute", "max_input_tokens": 6000},
            ],
            "far": {"api_base": "http://127.0.0.1:9/v1", "model": "hosted_vllm/far"},
        },
        master_key=KEY,
    )
    one.start("wintermute", ready_s=20)
    one.start("motoko", ready_s=20)
    yield one
    one.stop_all()


@pytest.fixture
def motoko(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Service:
    for name, value in box.environ().items():
        monkeypatch.setenv(name, value)
    fragment = box.stack()["services"]["motoko"]
    return Service.model_validate(fragment | {"policy": {"decode_timeout_s": 3}})


async def test_the_stand_in_is_healthy_and_tells_its_limits(motoko: Service) -> None:
    seen = await observe(motoko)
    assert status_of(seen) == "healthy", seen
    assert seen.model_ids == ("llama31", "far")
    assert await live_limits(motoko) == {
        "llama31.max_input_tokens": 7000,
        "llama31.tpm": 120000,
        "llama31.rpm": 600,
        "llama31#2.max_input_tokens": 6000,
    }


async def test_a_proxy_that_was_not_restarted_after_an_edit_is_found(motoko: Service) -> None:
    file = Path(motoko.serving.path)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("max_input_tokens: 6000", "max_input_tokens: 3500"))
    try:
        seen = await observe(motoko)
        blind = await observe(motoko.model_copy(update={"api_key": None}))
    finally:
        file.write_text(text)
    assert seen.decoded is False and seen.problem == (
        "it serves llama31#2.max_input_tokens 6000, its file says 3500: it was not restarted"
    )
    assert blind.decoded is None and "set api_key" in blind.problem
    assert (await observe(motoko)).decoded is True


async def test_without_a_key_the_limits_are_not_known(motoko: Service) -> None:
    why = await live_limits(motoko.model_copy(update={"api_key": None}))
    assert isinstance(why, str) and "/model/info answered 401" in why and KEY not in why


async def test_faults_of_the_stand_in(box: Sandbox, motoko: Service) -> None:
    try:
        box.fault("motoko", status_5xx=True)
        assert (await observe(motoko)).decoded is False
        box.fault("motoko", clear=True, unready=True)
        assert (await observe(motoko)).health_status == 503
        box.fault("motoko", clear=True, frozen=True)
        quick = motoko.policy.model_copy(update={"decode_timeout_s": 0.3})
        seen = await observe(motoko.model_copy(update={"policy": quick}))
        assert seen.decoded is False and "no token within 0.3 s" in seen.problem
    finally:
        box.fault("motoko", clear=True)


async def test_a_dead_backend_in_cool_down_is_not_called_throttling(
    box: Sandbox, motoko: Service
) -> None:
    box.stop("wintermute")
    try:
        box.fault("motoko", bare_429=True)
        looks = [await observe(motoko) for _ in range(8)]
    finally:
        box.fault("motoko", clear=True)
    assert all(look.decoded is not True for look in looks)
    assert looks[0].decoded is False and "500" in looks[0].problem
    cooling = [look for look in looks if look.decoded is None]
    assert cooling and "its backend is dead" in cooling[0].problem
