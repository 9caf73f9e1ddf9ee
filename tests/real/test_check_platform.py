"""Acceptance of the daily check: every trouble at once, on real Prometheus and Alertmanager.

One dead host, one frozen engine, one vanished metric, one histogram that is NaN, one expired
certificate, one `latest` image, one misaligned limit: the report is right line by line.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import docker
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blocks.command_runtime import CommandRuntime
from blocks.errors import Permanent
from blocks.service import CommandRuntimeSpec, NoSource
from deployments.sandbox import docker_image
from deployments.sandbox.local import Sandbox
from flows.check_platform import check_platform
from flows.platform_report import PlatformReport
from flows.report import Options
from tests.conftest import PrefectServer
from tests.flows.support import QUICK, Slack, artifacts
from tests.real.monitoring import start_alertmanager, start_prometheus
from tests.real.support import ARGS, MARK, Container

pytestmark = pytest.mark.real

# The cache's gauge has vanished, and no request has ended: the quantile is NaN.
PAGE = b"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="m"} 0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{model_name="m"} 0
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{le="1.0",model_name="m"} 7
vllm:e2e_request_latency_seconds_bucket{le="+Inf",model_name="m"} 9
vllm:e2e_request_latency_seconds_sum{model_name="m"} 9.5
vllm:e2e_request_latency_seconds_count{model_name="m"} 9
"""


# Without a rule, nothing could fire, and the check would say so.
RULES = """\
groups:
  - name: lab
    rules:
      - alert: Never
        expr: vector(0) > 1
"""


class Metrics(BaseHTTPRequestHandler):
    """A page without the cache's gauge, and with a histogram in which nothing moves."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def static_page() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s} s")


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        yield s.getsockname()[1]


@pytest.fixture
def boxed(docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[Container]:
    """A container whose image is named `latest`, on the host's network."""
    container = Container(docker_client, tmp_path)
    image = f"runbooks-test-{container.mark}:latest"
    docker_client.api.tag(docker_image.ensure_image(docker_client), *image.split(":"))
    folder = str(Path(docker_image.__file__).resolve().parent)
    where = ["--host", "127.0.0.1", "--port", str(container.port)]
    try:
        docker_client.containers.run(
            image,
            [*ARGS, "--max-model-len", "8192", *where],
            name=container.name,
            detach=True,
            environment={"SANDBOX_STARTUP_S": "0.05"},
            labels={MARK: container.mark},
            network_mode="host",
            volumes={
                **docker_image.host_mounts(),
                folder: {"bind": docker_image.MOUNT, "mode": "ro"},
            },
        )
        container.wait_serving(8192)
        yield container
    finally:
        container.sweep()
        docker_client.images.remove(image)


async def test_a_container_that_commands_run_is_known_by_its_inspection(
    boxed: Container, home: Path
) -> None:
    """As every shipped stack has it: the image, the restarts, and which process it is."""
    name = boxed.name
    spec = CommandRuntimeSpec(
        kind="command",
        restart=("docker", "restart", "-t", "0", name),
        stop=("docker", "stop", "-t", "0", name),
        status=("docker", "inspect", "--format", "{{json .}}", name),
        status_format="docker-state",
        logs=("docker", "logs", "--tail", "20000", name),
    )
    runtime = CommandRuntime("lab/boxed", spec, NoSource(kind="none"))
    (home / "services" / "lab" / "boxed").mkdir(parents=True)  # the journal's, which a run makes
    seen = await runtime.state()
    assert (seen.phase, seen.restarts, seen.restarts_known) == ("running", 0, True)
    assert await runtime.image() == f"runbooks-test-{boxed.mark}:latest"
    receipt = await runtime.prepare(await runtime.read_config(), "run-1", "restart")
    assert not await runtime.applied(receipt)
    await runtime.act(receipt)
    again = await runtime.state()
    assert again.instance == seen.instance and await runtime.applied(receipt)
    part = spec.model_copy(update={"status": (*spec.status[:3], "{{json .State}}", name)})
    blind = CommandRuntime("lab/boxed", part, NoSource(kind="none"))
    assert not (await blind.state()).restarts_known
    with pytest.raises(Permanent, match="write status"):
        await blind.image()


def expired(path: Path) -> Path:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "motoko.tailnet.local")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now - timedelta(days=2, hours=1))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


def document(box: Sandbox, boxed: Container, silent: int, **more: Any) -> dict[str, Any]:
    services = box.stack("lab")["services"]
    for service in services.values():
        service["policy"] = QUICK
    hang = ["sleep", "600"]
    services["gone"] = {
        "engine": "http",
        "url": f"http://127.0.0.2:{silent}",
        "runtime": {
            "kind": "command",
            "restart": ["true"],
            "stop": ["true"],
            "status": hang,
            "status_format": "json",
            "logs": hang,
        },
    }
    services["boxed"] = {
        "url": boxed.url,
        "runtime": {"kind": "docker", "container": boxed.name},
        "slo": {"p95_latency_s": 30},
        "policy": QUICK,
    }
    hosts = {"motoko": box.host_fragment("motoko")}
    return {
        "name": "lab",
        "services": services,
        "hosts": hosts,
        "checks": {"deadline_s": 6},
        **more,
    }


def scraped(url: str) -> bool:
    """Every target has answered often enough for a rate."""
    query = {"query": "count(count_over_time(up[30s]) >= 4)"}
    found = httpx.get(f"{url}/api/v1/query", params=query, trust_env=False).json()["data"]["result"]
    return bool(found) and found[0]["value"][1] == "3"


async def test_all_at_once(
    boxed: Container,
    silent: int,
    static_page: int,
    slack: Slack,
    tmp_path: Path,
    home: Path,
    prefect_server: PrefectServer,
) -> None:
    with Sandbox(tmp_path / "box") as box:
        for name in ("wintermute", "frozen"):
            box.add_vllm(name, params={"startup_s": 0.05})
            box.start(name, ready_s=10)
        box.add_litellm("proxy", {"chat": {"backend": "wintermute", "max_input_tokens": 8192}})
        box.start("proxy", ready_s=10)
        box.fault("frozen", frozen=True)
        box.host("motoko")
        names = ("wintermute", "frozen")
        targets = [f"127.0.0.1:{box.services[name].port}" for name in names]
        jobs = {"vllm": [*targets, f"127.0.0.1:{static_page}"]}
        with (
            start_prometheus(tmp_path, jobs, RULES, interval_s=0.25) as prometheus,
            start_alertmanager(tmp_path) as alertmanager,
        ):
            labels = {"alertname": "BackupMissing", "severity": "warning"}
            fired = [{"labels": labels, "annotations": {"summary": "no backup for two days"}}]
            address = f"{alertmanager.url}/api/v2/alerts"
            httpx.post(address, json=fired, trust_env=False).raise_for_status()
            until(lambda: scraped(prometheus.url))
            pem = expired(tmp_path / "motoko.pem")
            stack = document(
                box,
                boxed,
                silent,
                prometheus={"url": prometheus.url, "window": "30s"},
                alertmanager={"url": alertmanager.url},
                certificates=[str(pem)],
                slack=slack.spec(),
            )
            stack["services"]["boxed"]["metrics"] = {"instance": f"127.0.0.1:{static_page}"}
            path = tmp_path / "lab.yaml"
            path.write_text(json.dumps(stack))
            first, report = [await checked(str(path)) for _ in range(2)]
    assert (first.verdict, report.verdict) == ("failed", "failed") and report.duration_s < 60
    assert report.message == "2 failed, 5 unknown, 3 to look at, 32 ok; of 5 services"
    page = (await artifacts(report.run_id))["check-platform-record"]
    lines = page.splitlines()
    assert len(lines) < 40 and lines[0] == "# ✗ Failed: lab"
    rows = [tuple(c.strip() for c in li.split("|")[1:6]) for li in lines if li.startswith("| ")]
    run = "`runbooks run {} --stack lab {}`".format
    image = f"runbooks-test-{boxed.mark}:latest (wanted: a version or a digest)"
    assert [(*row[:3], row[4]) for row in rows[1:]] == [
        (
            "✗",
            "decoding · **frozen**",
            "broken (wanted: one token)",
            run("remediate-outage", "--service frozen"),
        ),
        ("✗", f"certificate · **{pem}**", "expired 2 days ago (wanted: > 7 days left)", "renew it"),
        ("?", "answering, restarts, error lines · **gone**", "not measured", ""),
        ("?", "p95 latency · **boxed**", "not measured", ""),
        ("?", "cache · **boxed**", "not measured", ""),
        (
            "⚠",
            "alert BackupMissing · **alertmanager**",
            "1 firing, warning (wanted: none firing)",
            "",
        ),
        (
            "⚠",
            "token limits · **proxy**",
            "chat: 8192 of 8192 (wanted: 85-90 %)",
            run("align-token-limits", "-p proxy=proxy"),
        ),
        ("⚠", "image · **boxed**", image, "start it from a version tag or a digest"),
    ]
    known = [row[3] for row in rows[1:]]
    for words, cell in zip(KNOWN, known, strict=True):
        assert words in cell, (words, cell)
    fine = {(f.check, f.subject) for f in report.findings if f.status == "ok"}
    assert not [what for what in fine if what[1] == "gone"]
    assert not fine & {("decoding", "frozen"), ("cache", "boxed"), ("p95 latency", "boxed")}
    assert {("decoding", n) for n in ("wintermute", "proxy", "boxed")} <= fine
    assert ("cpu", "host motoko") in fine and ("drift", "wintermute") in fine
    within_limits(slack.messages[-1]["blocks"])


KNOWN = (
    "no token within 1 s",
    "motoko.tailnet.local",
    "not read within 6 s",
    "no traffic",
    "no such series",
    "no backup for two days",
    "100.0 % of the server's max_model_len",
    "tag latest",
)
"""How each line is known."""


def within_limits(blocks: list[dict[str, Any]]) -> None:
    """Slack's Block Kit: 50 blocks, 150 characters of a header, 3,000 of a section."""
    assert len(blocks) <= 50 and len(blocks[0]["text"]["text"]) <= 150
    texts = [block["text"]["text"] for block in blocks[1:]]
    assert all(len(text) <= 3000 for text in texts)
    heads = [text.splitlines()[0] for text in texts[1:4]]
    assert [h.rsplit("*", 2)[1] for h in heads] == ["Failed", "Unknown", "To look at"]


async def checked(stack: str) -> PlatformReport:
    state = await check_platform(stack, Options(actor="ada", source="cli"), return_state=True)
    report = await state.result(raise_on_failure=False)
    assert isinstance(report, PlatformReport), state.message
    return report
