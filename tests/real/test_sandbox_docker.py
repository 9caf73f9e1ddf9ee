"""The stand-in as a container: what the Docker Engine says of it is what operators see."""

import contextlib
import json
import os
import time
import uuid

import httpx
import pytest

from deployments.sandbox import docker_image
from deployments.sandbox.local import free_port

pytestmark = pytest.mark.real
ARGS = [
    "--model",
    "/models/wintermute-tiny",
    "--served-model-name",
    "wintermute",
    "--max-num-seqs",
    "8",
]
FAST = {"SANDBOX_STARTUP_S": "0.05"}


@pytest.fixture
def run(docker_client):
    prefix = f"sbx-{os.getpid()}-{uuid.uuid4().hex[:6]}"

    def start(args, *, env=None, **extra):
        port = free_port()
        container = docker_image.run_container(
            docker_client,
            f"{prefix}-{port}",
            [*ARGS, *args],
            port=port,
            env={**FAST, **(env or {})},
            **extra,
        )
        return container, f"http://127.0.0.1:{port}"

    yield start
    docker_image.remove_all(docker_client, prefix)


def ready(url):
    for _ in range(500):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError("not serving")


def ended(container):
    container.wait(timeout=20)
    container.reload()
    return container.attrs["State"]


def test_image_is_built_once_and_splits_entrypoint_from_flags(docker_client, run):
    tag = docker_image.ensure_image(docker_client)
    assert docker_image.ensure_image(docker_client) == tag
    container, url = run(["--max-model-len", "8192"])
    ready(url)
    config = container.attrs["Config"]
    assert config["Entrypoint"][-1] == "/sandbox/vllm_server.py"
    assert config["Cmd"] == [*ARGS, "--max-model-len", "8192"]
    assert container.attrs["Path"] == config["Entrypoint"][0]
    model = httpx.get(f"{url}/v1/models").json()["data"][0]
    assert (model["id"], model["max_model_len"]) == ("wintermute", 8192)
    begun = time.monotonic()
    container.stop(timeout=60)
    assert time.monotonic() - begun < 30
    assert ended(container)["ExitCode"] == 0


def test_kv_failure_exits_1_with_the_cause_in_the_log(run):
    container, _ = run(["--max-model-len", "16384", "--enforce-eager"])
    state = ended(container)
    assert (state["ExitCode"], state["OOMKilled"]) == (1, False)
    log = container.logs().decode()
    assert "(1.5 GiB KV cache is needed" in log
    assert "the estimated maximum model length is 10752" in log
    assert "RuntimeError: Engine core initialization failed. See root cause above." in log


def test_the_memory_limit_kills_it_for_real(run):
    container, _ = run(
        [], env={"SANDBOX_HOST_OOM_AT_START": "1"}, mem_limit="96m", memswap_limit="96m"
    )
    state = ended(container)
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)


def test_faults_file_of_the_host_reaches_the_container(run, tmp_path):
    container, url = run(["--max-model-len", "8192"], state=tmp_path)
    ready(url)
    assert httpx.get(f"{url}/sandbox/faults").status_code == 404  # not from loopback in there
    (tmp_path / "faults.json").write_text(json.dumps({"crash_after": 1}))
    body = {"prompt": "x", "max_tokens": 1}
    assert httpx.post(f"{url}/v1/completions", json=body).status_code == 500
    assert ended(container)["ExitCode"] == 0


def test_restart_policy_restarts_a_failing_one(run):
    container, _ = run(
        ["--max-model-len", "16384"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 1}
    )
    for _ in range(200):
        container.reload()
        if container.attrs["State"]["Status"] == "exited" and container.attrs["RestartCount"]:
            break
        time.sleep(0.05)
    assert container.attrs["RestartCount"] == 1
    assert container.attrs["State"]["ExitCode"] == 1


def test_environment_of_a_handbook_sets_the_numbers(run):
    _, url = run([], env={"MAX_MODEL_LEN": "4096", "GPU_MEMORY_UTILIZATION": "0.9"})
    ready(url)
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["max_model_len"] == 4096
