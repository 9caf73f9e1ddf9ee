"""Every way the stand-in vLLM breaks is diagnosed as what it is."""

import asyncio
import contextlib
import re
import time

import httpx
import pytest

from deployments.sandbox.local import Sandbox
from deployments.sandbox.vllm_settings import coerce
from flows.decisions.diagnosis import diagnose

QUICK = {"startup_s": 0.02, "tokens_per_s": 4000}


@pytest.fixture
def box(tmp_path):
    with Sandbox.create(tmp_path / "box") as box:
        yield box


def eventually(check, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def complete(service, **body):
    return httpx.post(
        f"{service.url}/v1/completions",
        json={"prompt": "a b", "max_tokens": 4, **body},
        timeout=10,
    )


def logs(box, name="v") -> str:
    """What the inventory's `logs` command prints."""
    argv = box.services[name].fragment()["runtime"]["logs"]
    return box.run(name, "logs", *argv[argv.index(name) + 1 :]).stdout


def verdict(box, name="v"):
    status = box.status(name)
    return diagnose(logs(box, name), status["exit_code"], status["oom_killed"])


FAILED_STARTS = [
    ({"preset": "cudagraph_oom"}, {}, "oom_cudagraph", 1),
    ({"preset": "memory_held"}, {}, "gpu_memory_held", 1),
    ({"params": {"port_held": True}}, {}, "port_in_use", 1),
    ({"params": {"host_oom_at_start": True}}, {}, "host_oom_killed", 137),
    ({"params": {"fp8_unsupported": True}}, {"kv_cache_dtype": "fp8"}, "fp8_kv_unsupported", 1),
    ({"params": {"model_missing": True}}, {}, "model_not_found", 1),
    ({}, {"max_paddings": 128}, "bad_cli_argument", 2),
    ({"style": "env-file"}, {"max_paddings": 128}, "bad_cli_argument", 2),
    ({"style": "env-file"}, {"kv_cache_dtype": "int3"}, "bad_cli_argument", 2),
]


@pytest.mark.parametrize(("more", "serving", "label", "code"), FAILED_STARTS)
def test_failed_starts(box, more, serving, label, code):
    params = {**QUICK, **more.get("params", {})}
    box.add_vllm("v", **{**more, "params": params}, serving=serving)
    box.start("v")
    status = box.wait_exited("v")
    assert (status["exit_code"], status["oom_killed"]) == (code, label == "host_oom_killed")
    assert verdict(box).label == label, logs(box)


def test_cudagraph_oom_goes_with_a_lower_share(box):
    box.add_vllm(
        "v", preset="cudagraph_oom", params=QUICK, serving={"gpu_memory_utilization": 0.85}
    )
    box.start("v", ready_s=5)


CRASHES = [
    ({"crash_after": 1, "crash_exit_code": 0}, "engine_dead", 0),
    ({"crash_after": 1, "crash_exit_code": 1}, "engine_dead", 1),
    ({"host_oom_after": 1}, "host_oom_killed", 137),
]


@pytest.mark.parametrize(("faults", "label", "code"), CRASHES)
def test_crashes_while_serving(box, faults, label, code):
    service = box.add_vllm("v", params={**QUICK, **faults})
    box.start("v", ready_s=5)
    with contextlib.suppress(httpx.TransportError):
        assert complete(service).status_code == 500
    assert box.wait_exited("v")["exit_code"] == code
    assert verdict(box).label == label


def test_unstable_fp8_dies_again_and_again_and_the_log_shows_each_time(box):
    service = box.add_vllm(
        "v",
        params={**QUICK, "fp8_unstable_after": 2},
        serving={"kv_cache_dtype": "fp8"},
        restart="on-failure:2",
    )
    box.start("v")
    for restarts in range(3):
        box.wait_serving("v", 10)
        assert box.status("v")["restarts"] == restarts
        assert complete(service).status_code == 200
        assert complete(service).status_code == 500
        eventually(
            lambda seen=restarts: (
                box.status("v")["restarts"] > seen or box.status("v")["phase"] == "exited"
            )
        )
    box.wait_exited("v")
    deaths = r"EngineCore encountered a fatal error"
    assert len(re.findall(deaths, logs(box))) == 3
    assert len(re.findall(deaths, box.logs("v"))) == 1
    assert verdict(box).label == "cuda_illegal_access"
    text = service.config.read_text()
    service.config.write_text(text.replace("fp8", "auto"))
    box.restart("v", ready_s=5)
    assert [complete(service).status_code for _ in range(4)] == [200] * 4
    assert diagnose(logs(box)).label == "healthy_noise"


def test_a_tokenizer_that_stalls_hangs_the_start_until_it_is_cleared(box):
    service = box.add_vllm("v", params={**QUICK, "tokenizer_stall": True})
    box.start("v")
    eventually(lambda: "Initializing tokenizer pool" in logs(box))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/health")
    assert box.status("v")["running"]
    assert diagnose(logs(box)).label == "tokenizer_error"
    box.fault("v", tokenizer_stall=False)
    box.wait_serving("v", 5)
    assert diagnose(logs(box)).label == "healthy_noise"


def test_a_model_link_that_breaks_while_it_serves_and_before_it_starts(box, tmp_path):
    weights, link = tmp_path / "weights", tmp_path / "current"
    weights.mkdir()
    link.symlink_to(weights)
    service = box.add_vllm("v", params=QUICK, serving={"model": str(link)})
    box.start("v", ready_s=5)
    assert httpx.get(f"{service.url}/v1/models").status_code == 200
    weights.rename(tmp_path / "elsewhere")
    broken = httpx.get(f"{service.url}/v1/models")
    assert (broken.status_code, broken.text) == (500, "Internal Server Error")
    assert httpx.get(f"{service.url}/health").status_code == 200
    assert diagnose(logs(box)).label == "model_not_found"
    box.restart("v")
    assert box.wait_exited("v")["exit_code"] == 1
    assert verdict(box).label == "model_not_found"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    box.restart("v", ready_s=5)
    assert httpx.get(f"{service.url}/v1/models").status_code == 200


def test_a_frozen_engine_answers_200_on_health_and_nothing_else(box):
    service = box.add_vllm("v", params=QUICK)
    box.start("v", ready_s=5)
    box.fault("v", frozen=True)
    assert httpx.get(f"{service.url}/health").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/v1/completions", json={"prompt": "x"}, timeout=0.3)


def page(service) -> str:
    return httpx.get(f"{service.url}/metrics").text


def value(text: str, name: str) -> float:
    return sum(float(x) for x in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M))


@pytest.mark.parametrize("together", [8, 2])
def test_a_crowded_batch_is_slow_and_a_smaller_one_is_not(box, together):
    service = box.add_vllm(
        "v",
        params={**QUICK, "tokens_per_s": 400, "latency_free_seqs": 2, "latency_slowdown": 1.5},
        serving={"max_num_seqs": together},
    )
    box.start("v", ready_s=5)

    async def all_at_once():
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            body = {"prompt": "a", "max_tokens": 120, "ignore_eos": True}
            work = [client.post("/v1/completions", json=body) for _ in range(8)]
            return await asyncio.gather(*work)

    assert {r.status_code for r in asyncio.run(all_at_once())} == {200}
    text = page(service)
    mean = value(text, "vllm:e2e_request_latency_seconds_sum") / 8
    # 8 at once: 0.3 s x (1 + 6 x 1.5) = 3 s each; 2 at a time: 0.3 to 1.2 s, the queue included.
    assert (mean > 1.8) is (together == 8), mean


def test_metrics_can_be_old_vanish_or_be_without_traffic(box):
    service = box.add_vllm("v", params=QUICK)
    box.start("v", ready_s=5)
    assert complete(service, max_tokens=8).status_code == 200
    now = page(service)
    assert value(now, "vllm:e2e_request_latency_seconds_count") == 1
    box.fault("v", old_metric_names=True)
    old = page(service)
    for name, before in (
        ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    ):
        assert f"vllm:{name}" in now
        assert f"vllm:{before}" not in now
        assert f"vllm:{name}" not in old
        assert f"# TYPE vllm:{before} " in old
    count = "vllm:time_per_output_token_seconds_count"
    assert value(old, count) == value(now, "vllm:inter_token_latency_seconds_count") > 0
    box.fault(
        "v", clear=True, metrics_without=["e2e_request_latency_seconds", "vllm:request_success"]
    )
    less = page(service)
    assert "e2e_request_latency" not in less
    assert "vllm:request_success" not in less
    assert "vllm:num_requests_running" in less
    box.fault("v", clear=True, histograms_empty=True)
    empty = page(service)
    assert value(empty, "vllm:e2e_request_latency_seconds_bucket") == 0
    assert empty.count("vllm:e2e_request_latency_seconds_bucket{") == 22
    assert value(empty, "vllm:generation_tokens_total") == 8
    box.fault("v", clear=True)
    assert value(page(service), "vllm:e2e_request_latency_seconds_count") == 1


def test_a_list_is_a_comma_list():
    assert coerce({"metrics_without": ["a", "b"]}) == {"metrics_without": "a,b"}
