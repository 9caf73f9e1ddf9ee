"""The stand-in LiteLLM proxy: as captured, limited, and broken on demand."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from deployments.sandbox import litellm_config, litellm_server
from deployments.sandbox.litellm_config import Config, Deployment
from deployments.sandbox.litellm_errors import ProxyError
from deployments.sandbox.litellm_router import Router
from deployments.sandbox.local import Sandbox, SandboxError, free_port
from flows.decisions.diagnosis import diagnose

CAPTURES = (
    Path(os.environ.get("RUNBOOKS_CAPTURES", Path(__file__).parents[3] / "shared/captures"))
    / "litellm"
)
captured = pytest.mark.skipif(not CAPTURES.is_dir(), reason="no captures beside this checkout")
QUICK = {"startup_s": 0.02, "tokens_per_s": 4000}
KEY = "sk-sandbox"
AUTH = {"Authorization": f"Bearer {KEY}"}
LIMITS = {"max_input_tokens": 8192, "max_output_tokens": 1024}


@pytest.fixture
def box(tmp_path):
    with Sandbox.create(tmp_path / "box") as box:
        yield box


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A proxy before one live backend and one that nobody listens for."""
    with Sandbox.create(tmp_path_factory.mktemp("platform")) as box:
        box.add_vllm("wintermute", params=QUICK)
        dead = {"api_base": f"http://127.0.0.1:{free_port()}/v1", "model": "hosted_vllm/wintermute"}
        live = {"backend": "wintermute", **LIMITS}
        box.add_litellm(
            "proxy",
            {
                "wintermute": {**live, "id": "wintermute-a", "rpm": 5, "tpm": 20000},
                "neuromancer": {**live, "id": "neuromancer-a", "rpm": 60, "tpm": 200000},
                "dead-backend": {**dead, **LIMITS},
                "unlimited": {"backend": "wintermute"},
            },
            master_key=KEY,
            allowed_fails=100,
        )
        box.start("wintermute")
        box.start("proxy", ready_s=5)
        box.wait_serving("wintermute", 5)
        with httpx.Client(base_url=box.services["proxy"].url, headers=AUTH, timeout=10) as client:
            yield box, client


def chat(client, model="neuromancer", content="hi", **body):
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **body}
    return client.post("/v1/chat/completions", json={"model": model, **body})


# --- as captured ----------------------------------------------------------------------------


def parts(name):
    head, _, body = (CAPTURES / name).read_text().replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.strip().split("\n")
    return status, [h.split(":")[0] for h in headers], json.loads(body)


def answered(response):
    names = [k.decode().lower() for k, _ in response.headers.raw]
    return f"HTTP/1.1 {response.status_code} {response.reason_phrase}", names, response.json()


def same_text(value):
    """Without what differs from run to run: addresses, ports, object addresses, counts."""
    text = re.sub(r"REDACTED|127\.0\.0\.1", "HOST", json.dumps(value))
    return re.sub(r"0x[0-9a-f]+|\b\d{4,5}\b", "N", text)


def shape(value):
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value]
    return type(value).__name__


@captured
@pytest.mark.parametrize("name", ["liveliness", "readiness"])
def test_probes_need_no_key_and_answer_the_captured_bytes(platform, name):
    box, _ = platform
    response = httpx.get(f"{box.services['proxy'].url}/health/{name}")
    assert answered(response) == parts(f"health_{name}.txt")


@captured
def test_models_are_listed_as_captured(platform):
    ours, theirs = answered(platform[1].get("/v1/models")), parts("v1_models.txt")
    assert ours[:2] == theirs[:2]
    assert ours[2]["data"][0] == theirs[2]["data"][0]
    assert list(ours[2]["data"][2]) == list(theirs[2]["data"][2])


@captured
def test_a_completion_has_the_captured_head_and_shape(platform):
    ours, theirs = answered(chat(platform[1])), parts("chat_ok.txt")
    assert [ours[0], shape(ours[2])] == [theirs[0], shape(theirs[2])]
    assert list(ours[2]) == list(theirs[2])
    assert ours[1] == theirs[1]
    assert ours[2]["model"] == "neuromancer"


@captured
def test_a_dead_backend_is_told_in_the_captured_words(platform):
    ours, theirs = answered(chat(platform[1], "dead-backend")), parts("backend_down.txt")
    assert ours[:2] == theirs[:2]
    assert same_text(ours[2]) == same_text(theirs[2]).replace("neuromancer", "dead-backend")


@captured
def test_a_prompt_over_max_input_tokens_is_refused_in_the_captured_words(platform):
    ours = answered(chat(platform[1], content="a " * 9041))
    theirs = parts("context_window_exceeded.txt")
    assert ours[:2] == theirs[:2]
    assert ours[2] == theirs[2]


@captured
def test_the_rate_limit_is_the_captured_bytes(platform):
    box, client = platform
    codes = [chat(client, "wintermute").status_code for _ in range(5)]
    assert codes == [200] * 5
    assert answered(chat(client, "wintermute")) == parts("rate_limit_429.txt")


@captured
def test_health_asks_the_backends(platform):
    ours, theirs = answered(platform[1].get("/health")), parts("health.txt")
    assert ours[:2] == theirs[:2]
    assert list(ours[2]) == list(theirs[2])
    assert (ours[2]["healthy_count"], ours[2]["unhealthy_count"]) == (3, 1)
    for kind in ("healthy_endpoints", "unhealthy_endpoints"):
        assert list(ours[2][kind][0]) == list(theirs[2][kind][0])
    mine, yours = (x[2]["unhealthy_endpoints"][0] for x in (ours, theirs))
    assert shape(mine["raw_request_typed_dict"]) == shape(yours["raw_request_typed_dict"])
    first = same_text(yours["error"].splitlines()[0])
    assert same_text(mine["error"].splitlines()[0]) == first


# --- endpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/model/info", "/v1/model/info"])
def test_the_master_key_guards_everything_but_the_probes(platform, path):
    box, client = platform
    url = f"{box.services['proxy'].url}{path}"
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        refused = httpx.get(url, headers=headers)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "auth_error")
    assert client.get(path).status_code == 200


def test_model_info_shows_limits_and_no_key(platform):
    data = platform[1].get("/model/info").json()["data"]
    first = data[0]
    assert first["model_name"] == "wintermute"
    assert first["litellm_params"]["rpm"] == 5
    assert first["model_info"]["max_input_tokens"] == 8192
    assert first["model_info"]["id"] == "wintermute-a"
    assert "api_key" not in json.dumps(data)


def test_text_completions_streams_and_unknown_models(platform):
    client = platform[1]
    body = {"model": "neuromancer", "prompt": "is it decoding", "max_tokens": 5}
    whole = client.post("/v1/completions", json=body).json()
    assert (whole["model"], whole["usage"]["completion_tokens"]) == ("neuromancer", 5)
    with client.stream("POST", "/completions", json={**body, "stream": True}) as response:
        events = [line[6:] for line in response.iter_lines() if line]
    assert (response.status_code, events[-1]) == (200, "[DONE]")
    chunks = [json.loads(e) for e in events[:-1]]
    assert {c["model"] for c in chunks} == {"neuromancer"}
    assert len("".join(c["choices"][0]["text"] for c in chunks).split()) == 5
    unknown = chat(client, "nosuch")
    assert unknown.status_code == 400
    assert "Invalid model name passed in model=nosuch" in unknown.json()["error"]["message"]
    assert client.post("/v1/completions", content=b"{").status_code == 400
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/nowhere").status_code == 404


def test_what_only_the_backend_refuses_is_passed_on_as_a_context_error(platform):
    refused = chat(platform[1], "unlimited", content="a " * 9000)
    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert message.startswith("litellm.ContextWindowExceededError")
    assert "This model's maximum context length is 8192 tokens" in message


# --- a backend that dies --------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True])
def test_a_dead_backend_ends_in_a_cool_down_and_comes_back(box, bare):
    backend = box.add_vllm("v", params=QUICK)
    proxy = box.add_litellm(
        "proxy",
        {"neuromancer": {"backend": "v", "id": "a"}},
        allowed_fails=1,
        cooldown_time=0.6,
        params={"bare_429": bare},
    )
    box.start("proxy", ready_s=5)
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        answers = [chat(client) for _ in range(3)]
        assert [a.status_code for a in answers] == [500, 500, 429]
        said = answers[2].json()["error"]["message"]
        assert said.startswith("No deployments available for selected model")
        assert ("Try again in" in said) is not bare
        verdict = diagnose(box.logs("proxy"))
        assert verdict.label == "proxy_backend_unreachable", box.logs("proxy")
        assert verdict.facts["backend"] == f"127.0.0.1:{backend.port}"
        box.start("v", ready_s=5)
        time.sleep(0.65)
        assert chat(client).status_code == 200


def test_a_backend_that_answers_500_or_never_counts_as_failed(box):
    box.add_vllm("v", params={**QUICK, "crash_after": 1, "crash_exit_code": 1})
    box.add_vllm("w", params={**QUICK, "frozen": True})
    proxy = box.add_litellm(
        "proxy",
        {"dying": {"backend": "v"}, "stuck": {"backend": "w"}},
        params={"timeout_s": 0.3},
    )
    box.start("v")
    box.start("w")
    box.start("proxy", ready_s=5)
    box.wait_serving("v", 5)
    box.wait_serving("w", 5)
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        dying, stuck = chat(client, "dying"), chat(client, "stuck")
        ill = client.get("/health").json()
    assert dying.status_code == 500
    assert "EngineCore encountered an issue" in dying.json()["error"]["message"]
    assert (stuck.status_code, "litellm.Timeout" in stuck.text) == (408, True)
    assert ill["unhealthy_count"] == 2


def test_a_rate_limit_alone_is_diagnosed_as_one(box):
    box.add_vllm("v", params=QUICK)
    proxy = box.add_litellm("proxy", {"neuromancer": {"backend": "v", "rpm": 1}})
    box.start("v")
    box.start("proxy", ready_s=5)
    box.wait_serving("v", 5)
    assert diagnose(box.logs("proxy")).label == "healthy_noise"
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        assert [chat(client).status_code for _ in range(2)] == [200, 429]
    assert diagnose(box.logs("proxy")).label == "rate_limited_429"


def test_more_than_max_parallel_requests_wait(box):
    service = box.add_vllm("v", params={**QUICK, "ttft_s": 0.2})
    box.add_litellm("proxy", {"n": {"backend": "v", "max_parallel_requests": 1}})
    box.start("v")
    box.start("proxy", ready_s=5)
    box.wait_serving("v", 5)
    with (
        httpx.Client(base_url=box.services["proxy"].url, timeout=10) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        begun = time.monotonic()
        codes = list(pool.map(lambda _: chat(client, "n").status_code, range(3)))
    assert codes == [200] * 3
    assert time.monotonic() - begun > 0.55
    page = httpx.get(f"{service.url}/metrics").text
    queued = re.search(r"vllm:request_queue_time_seconds_sum\{.*\} (\S+)", page)
    assert float(queued[1]) < 0.15  # they waited at the proxy, not there


# --- life and faults ------------------------------------------------------------------------


def test_faults_reach_the_running_proxy_and_sigterm_ends_it(box):
    box.add_vllm("v", params=QUICK)
    proxy = box.add_litellm("proxy", {"n": {"backend": "v"}})
    box.start("v")
    box.start("proxy", ready_s=5)
    box.wait_serving("v", 5)
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        assert box.fault("proxy", status_5xx=True, unready=True) == {
            "status_5xx": True,
            "unready": True,
        }
        assert chat(client, "n").status_code == 500
        assert client.get("/health/readiness").status_code == 503
        assert client.get("/health/liveliness").status_code == 200
        box.fault("proxy", clear=True, frozen=True)
        assert client.get("/health/readiness").status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json={"model": "n", "prompt": "x"}, timeout=0.3)
        box.fault("proxy", frozen=None)
        assert chat(client, "n").status_code == 200
    with pytest.raises(ValueError, match="unknown setting"):
        box.fault("proxy", crash_after=1)
    box.stop("proxy")
    assert box.status("proxy")["exit_code"] == 0
    assert "Application shutdown complete." in box.logs("proxy")


def test_a_backend_that_never_answers_does_not_hold_the_proxy_up(box):
    box.add_vllm("v", params={**QUICK, "frozen": True})
    proxy = box.add_litellm("proxy", {"n": {"backend": "v"}})
    box.start("v", ready_s=5)
    box.start("proxy", ready_s=5)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{proxy.url}/v1/completions", json={"model": "n", "prompt": "x"}, timeout=0.3)
    begun = time.monotonic()
    box.stop("proxy")
    assert time.monotonic() - begun < 20
    assert box.status("proxy")["exit_code"] == 0


def test_an_edited_file_is_read_by_a_restart(box):
    proxy = box.add_litellm("proxy", {"n": {"api_base": "http://127.0.0.1:9/v1", **LIMITS}})
    box.start("proxy", ready_s=5)
    text = proxy.config.read_text()
    assert "# else rpm" in text
    proxy.config.write_text(text.replace("8192", "7000"))
    box.restart("proxy", ready_s=5)
    found = httpx.get(f"{proxy.url}/v1/model/info").json()["data"][0]
    assert found["model_info"]["max_input_tokens"] == 7000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("model_list:", "model_list: - x: y: z"), "yaml.scanner.ScannerError"),
        (lambda t: t.replace("litellm_params", "litellm_parms"), "KeyError: 'litellm_params'"),
        (lambda t: t.replace("rpm: 7", "rpm: lots"), "unable to parse string as an integer"),
        (lambda t: "", "Config cannot be None or Empty"),
    ],
)
def test_a_broken_config_ends_the_start_with_1(box, change, said):
    proxy = box.add_litellm("proxy", {"n": {"api_base": "http://127.0.0.1:9/v1", "rpm": 7}})
    proxy.config.write_text(change(proxy.config.read_text()))
    box.start("proxy")
    assert box.wait_exited("proxy")["exit_code"] == 1
    assert said in box.logs("proxy")


def test_a_missing_config_and_a_taken_port(box):
    proxy = box.add_litellm("proxy", {})
    twin = box.add_litellm("twin", {})
    proxy.config.unlink()
    box.start("proxy")
    assert box.wait_exited("proxy")["exit_code"] == 1
    assert "Config file not found" in box.logs("proxy")
    box.start("twin", ready_s=5)
    again = subprocess.run(
        [sys.executable, litellm_server.__file__, "--config", str(twin.config), "--host"]
        + ["127.0.0.1", "--port", str(twin.port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert (again.returncode, diagnose(again.stdout).label) == (1, "port_in_use")


def test_it_starts_quickly(box):
    box.add_litellm("proxy", {}, params={"startup_s": 0})
    took = []
    for _ in range(3):
        begun = time.monotonic()
        box.restart("proxy", ready_s=5)
        took.append(time.monotonic() - begun)
    assert min(took) < 4, took  # 0.25 s on an idle machine, the supervisor's own call included


def test_the_sandbox_refuses_what_it_cannot_describe(box):
    with pytest.raises(SandboxError, match="no service 'v'"):
        box.add_litellm("p", {"n": {"backend": "v"}})
    with pytest.raises(SandboxError, match="unknown key 'rmp'"):
        box.add_litellm("p", {"n": {"api_base": "http://x", "rmp": 1}})
    proxy = box.add_litellm("p", {}, master_key="sk-1")
    with pytest.raises(SandboxError, match="share one master key"):
        box.add_litellm("q", {}, master_key="sk-2")
    assert box.environ() == {"SANDBOX_LITELLM_KEY": "sk-1"}
    assert proxy.fragment()["api_key"] == "${SANDBOX_LITELLM_KEY}"
    assert "sk-1" not in repr(proxy)


# --- the router -----------------------------------------------------------------------------


def deployment(name, **more):
    return Deployment("n", "hosted_vllm/w", "http://x/v1", id=name, **more)


def test_unweighted_deployments_get_nothing_beside_a_weighted_one():
    router = Router(Config((deployment("a"), deployment("b", weight=1))))
    assert {router.pick("n", 1, 0).id for _ in range(50)} == {"b"}


def test_limits_hold_for_a_minute_and_the_other_deployment_takes_over():
    router = Router(Config((deployment("a", rpm=2), deployment("b", tpm=100))))
    assert sorted(router.pick("n", 60, 0).id for _ in range(2)) == ["a", "a"]
    b = router.pick("n", 60, 1)
    assert b.id == "b"
    router.succeeded(b, 80, 1)
    with pytest.raises(ProxyError) as refused:
        router.pick("n", 60, 59)
    assert refused.value.status == 429
    assert router.pick("n", 60, 60).id == "a"


def test_the_cool_down_begins_after_allowed_fails_and_ends():
    a, b = deployment("a"), deployment("b")
    router = Router(Config((a, b), allowed_fails=2, cooldown_time=5))
    assert [router.failed(a, t) for t in (0, 1, 2)] == [False, False, True]
    assert {router.pick("n", 1, 3).id for _ in range(20)} == {"b"}
    assert [router.failed(b, 3) for _ in range(3)][-1]
    with pytest.raises(ProxyError, match=r"cooldown_list=\['a', 'b'\]"):
        router.pick("n", 1, 4)
    assert router.pick("n", 1, 7).id == "a"


def test_keys_come_from_the_environment(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "model_list:\n- model_name: n\n  litellm_params: {model: openai/x, "
        "api_base: 'http://x/v1', api_key: os.environ/K, rpm: '3'}\n"
        "general_settings: {master_key: os.environ/M}\n"
    )
    config = litellm_config.load(str(path), {"K": "k", "M": "m"})
    assert (config.deployments[0].api_key, config.deployments[0].rpm) == ("k", 3)
    assert config.master_key == "m"
    assert len(config.deployments[0].id) == 64
