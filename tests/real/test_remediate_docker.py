"""A container that cannot hold its KV cache is stepped down once, and is otherwise the same."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from blocks.docker_inspect import settings_diff
from deployments.sandbox import docker_image
from tests.conftest import PrefectServer
from tests.flows.support import Slack, artifacts
from tests.real.support import SERVICE, Container, run

pytestmark = pytest.mark.real


@pytest.fixture
def container(
    docker_client: docker.DockerClient, tmp_path: Path, home: Path, prefect_server: PrefectServer
) -> Iterator[Container]:
    made = Container(docker_client, tmp_path)
    networks = [f"{made.name}-{which}" for which in ("front", "back")]
    for name in networks:
        docker_client.api.create_network(name, driver="bridge")
    try:
        yield made
        assert made.most_running() <= 1, "two instances ran at once"
    finally:
        made.sweep()
        for name in networks:
            docker_client.api.remove_network(name)


def start_richly(container: Container, folder: Path) -> None:
    """About everything an operator sets, on a model that fits 10752 tokens and asks for 16384."""
    client = container.client
    cache = folder / "cache"
    cache.mkdir()
    container.start(
        16384,
        policy="on-failure",
        env={"HF_TOKEN": "hf_secret", "VLLM_LOGGING_LEVEL": "INFO"},
        labels={"team": "ml", "com.example.port": "8000"},
        volumes={
            **docker_image.host_mounts(),
            str(Path(docker_image.__file__).parent): {"bind": docker_image.MOUNT, "mode": "ro"},
            str(container.state): {"bind": docker_image.STATE, "mode": "rw"},
            str(cache): {"bind": "/root/.cache", "mode": "rw"},
        },
        ulimits=[docker.types.Ulimit(name="nofile", soft=4096, hard=8192)],
        shm_size="128m",
        mem_limit="512m",
        cap_drop=["NET_RAW"],
        network=f"{container.name}-front",
        networking_config={
            f"{container.name}-front": client.api.create_endpoint_config(aliases=["llm", "vllm"])
        },
        healthcheck={"test": ["CMD", "true"], "interval": 30_000_000_000, "retries": 4},
        log_config=docker.types.LogConfig(
            type="json-file", config={"max-size": "10m", "max-file": "2"}
        ),
        stop_signal="SIGTERM",
        extra_hosts={"registry": "10.0.0.9"},
    )
    client.networks.get(f"{container.name}-back").connect(container.name, aliases=["llm-back"])


async def test_it_is_stepped_straight_to_what_fits_and_is_otherwise_the_same(
    container: Container, tmp_path: Path
) -> None:
    start_richly(container, tmp_path)
    before = container.doc()
    await container.register()
    report = await run("remediate-oom", container.stack)
    assert (report.verdict, len(report.attempts)) == ("passed", 1)
    assert report.diagnosis and report.diagnosis.label == "oom_kv_cache"
    assert report.diagnosis.facts["estimated_max_model_len"] == 10752
    assert report.plan and report.plan.changes == {"max_model_len": (16384, 8192)}
    assert container.model_len() == 8192
    now = container.doc()
    assert [now["Args"][i + 1] for i, a in enumerate(now["Args"]) if a == "--max-model-len"] == [
        "8192"
    ]
    assert now["RestartCount"] == 0
    wanted = {"Cmd", "Args"}
    others = {k: v for k, v in settings_diff(before, now).items() if k.split(".")[-1] not in wanted}
    assert others == {}
    assert list(container.all()) == [container.name]
    found = await artifacts(report.run_id)
    page = found["remediate-oom-record"]
    assert "16384" in page and "**8192**" in page and "10752" in page
    assert "hf_secret" not in str(found) and report.run_id[:8] in page
    chart = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert chart and base64.b64decode(chart[1]).startswith(b"\x89PNG")
    assert report.first_act_s is not None
    assert report.attempts[0].verification.first_token_s is not None


async def test_when_the_last_rung_fails_too_the_original_is_back_and_people_know(
    container: Container, slack: Slack
) -> None:
    container.start(16384)
    container.wait_exited()
    before = container.doc()
    service = {"escalate_to": "#on-call"}
    await container.register(service=service, slack=slack.spec())
    container.fault(weights_gib=9.9)  # the estimate in the log is of an hour ago
    report = await run("remediate-oom", container.stack)
    assert (report.verdict, report.blocked_by) == ("blocked", "attempts-exhausted")
    assert [a.kept for a in report.attempts] == [False]
    now = container.doc()
    assert now["Id"] == before["Id"]
    assert settings_diff(before, now) == {}
    assert list(container.all()) == [container.name]
    assert container.journal.entry() is None and container.journal.degraded() is None
    (message,) = [m for m in slack.messages if m.get("channel") == "#on-call"]
    assert SERVICE in str(message) and "exhausted" in str(message)
