"""`runbooks doctor` against real servers: what is wrong is named with its fix, nothing delays."""

import asyncio
import io
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from docker.errors import DockerException
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.docker_errors import mapped
from blocks.docker_host import DockerHostSpec
from blocks.journal import Degraded, Entry
from blocks.models import Receipt, ServingConfig
from deployments import bootstrap
from deployments.doctor import doctor_command, examine, exit_code, render
from deployments.doctor_line import Line, run_checks, worst_first
from deployments.doctor_services import docker_problem
from deployments.sandbox.local import Sandbox
from tests.conftest import PrefectServer, free_port, missing
from tests.flows.support import Scene, Slack

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def http() -> Iterator[Callable[[Answers], str]]:
    """Small servers: path -> status and JSON."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path.split("?")[0], (404, {}))
                if callable(body):
                    status, body = body(self.headers.get("Authorization", ""))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


def keyed(key: str, body: Any) -> Any:
    return lambda given: (200, body) if given == f"Bearer {key}" else (401, {})


def command(**status: Any) -> dict[str, Any]:
    say = ["printf", "%s", json.dumps(status or {"phase": "running"})]
    return {
        "kind": "command",
        "restart": ["true"],
        "stop": ["true"],
        "status": say,
        "status_format": "json",
        "logs": ["true"],
    }


def written(folder: Path, **stack: Any) -> str:
    path = folder / "stack.yaml"
    path.write_text(json.dumps({"name": "plat", **stack}))
    return str(path)


def of(lines: tuple[Line, ...], area: str, subject: str = "") -> list[Line]:
    return [x for x in lines if x.area == area and subject in ("", x.subject)]


def one(lines: tuple[Line, ...], area: str, subject: str, status: str) -> Line:
    (found,) = [x for x in of(lines, area, subject) if x.status == status]
    return found


# ---- without a server ---------------------------------------------------------------------------


@pytest.fixture
def serverless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server, also where an earlier test of the session left its own in the settings."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.mark.usefixtures("serverless")
async def test_without_a_server_the_connections_are_tested_all_the_same(
    tmp_path: Path, home: Path, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD_KEY", "sk-good")
    monkeypatch.setenv("BAD_KEY", "sk-bad-and-never-shown")
    monkeypatch.delenv("NO_KEY", raising=False)
    (tmp_path / "s.env").write_text("MAX_MODEL_LEN=8192\n")
    models = {"data": [{"id": "qwen"}]}
    vllm, second = (
        http({"/health": (200, {}), "/v1/models": (0, keyed("sk-good", models))}) for _ in "12"
    )
    proxy = http(
        {"/health/liveliness": (200, {}), "/model/info": (0, keyed("sk-good", {"data": [{}]}))}
    )
    dead = f"http://127.0.0.1:{free_port()}"
    env = {"kind": "env-file", "path": str(tmp_path / "s.env")}
    gone = {"kind": "env-file", "path": str(tmp_path / "gone.env")}
    base: dict[str, Any] = {"runtime": command(), "serving": env}
    ref = written(
        tmp_path,
        services={
            "good": {**base, "url": vllm, "api_key": "${GOOD_KEY}", "served_model_name": "qwen"},
            "other": {
                **base,
                "serving": {"kind": "env-file", "path": str(tmp_path / "o.env")},
                "url": second,
                "api_key": "${GOOD_KEY}",
                "served_model_name": "llama",
            },
            "refused": {
                "engine": "litellm",
                "url": proxy,
                "api_key": "${BAD_KEY}",
                "runtime": command(phase="exited", exit_code=1),
                "serving": {"kind": "none"},
            },
            "down": {
                "url": dead,
                "runtime": {**command(), "restart": ["no-such-command"]},
                "serving": gone,
                "api_key": "${NO_KEY}",
            },
        },
        certificates=[f"127.0.0.1:{free_port()}", str(tmp_path / "s.env")],
        prometheus={"url": dead},
        alertmanager={"url": vllm},
        hosts={"here": {"kind": "command", "argv": ["no-such-reader"]}},
    )
    (tmp_path / "o.env").write_text("MAX_MODEL_LEN=8192\n")
    lines = await examine(ref)

    said = one(lines, "prefect", "server", "fail")
    assert "no Prefect server answers" in said.message and said.fix.startswith("runbooks up")
    assert [x.status for x in of(lines, "service", "good")] == ["ok"] * 3, lines
    assert "serves qwen, not llama" in one(lines, "service", "other", "fail").message
    refused = [x for x in of(lines, "service", "refused") if x.status == "fail"]
    assert {x.fix.split(" ")[0] for x in refused} == {"correct", "runbooks"}
    assert any("${BAD_KEY} is not accepted" in x.message for x in refused)
    down = " ".join(x.message for x in of(lines, "service", "down"))
    assert "no-such-command" in down and "connection refused" in down and "gone.env" in down
    assert "NO_KEY is not set" in one(lines, "secret", "${NO_KEY}", "fail").message
    assert one(lines, "metrics", "prometheus", "fail").fix.startswith("is it up")
    assert "answered 404" in one(lines, "metrics", "alertmanager", "fail").message
    assert {x.status for x in of(lines, "certificate")} == {"fail"}
    assert "no-such-reader" in one(lines, "host", "here", "fail").message
    assert one(lines, "machine", "home", "ok")
    assert all(x.fix for x in lines if x.status != "ok")
    assert "sk-" not in render(lines, verbose=True)
    order = [x.status for x in lines]
    assert order == sorted(order, key=["fail", "unknown", "warn", "ok"].index)


@pytest.mark.usefixtures("serverless")
async def test_faults_of_the_inventory_are_a_line_each(tmp_path: Path, home: Path) -> None:
    lines = await examine(written(tmp_path, services={"a": {"url": "x"}}, timezone="Mars"))
    faults = [x for x in of(lines, "inventory") if x.status == "fail"]
    assert len(faults) >= 2 and all("\n" not in x.message for x in faults)
    assert all("--check" in x.fix for x in faults)
    lines = await examine("registered-name")
    assert of(lines, "inventory")[0].status == "unknown" and exit_code(lines) == 1


@pytest.mark.usefixtures("serverless")
def test_the_command_prints_one_line_each_and_its_code(
    tmp_path: Path, home: Path, http: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    url = http({"/up": (200, {})})
    service = {"engine": "http", "url": url, "health_path": "/up", "serving": {"kind": "none"}}
    ref = written(tmp_path, services={"ui": {**service, "runtime": command()}})
    assert doctor_command(ref, as_json=False) == 1  # no server
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("FAIL    prefect server: no Prefect server answers -> runbooks up")
    assert len(out) == 2 and out[1].startswith("ok ") and "--verbose" in out[1]
    assert doctor_command(ref, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"area", "subject", "status", "message", "fix"} == set(found[0])


def test_exit_codes() -> None:
    def lines(*statuses: Any) -> list[Line]:
        return [Line(area="a", subject="b", status=s, message="m") for s in statuses]

    assert exit_code(lines("ok", "warn")) == 0
    assert exit_code(lines("ok", "unknown")) == 3
    assert exit_code(lines("unknown", "fail")) == 1
    assert [x.status for x in worst_first(lines("ok", "warn", "unknown", "fail"))] == [
        *("fail", "unknown", "warn", "ok")
    ]


# ---- nothing delays, nothing breaks -------------------------------------------------------------


async def test_a_dead_server_delays_no_other_line(tmp_path: Path, home: Path, silent: str) -> None:
    service = {"engine": "http", "url": silent, "runtime": command(), "serving": {"kind": "none"}}
    ref = written(
        tmp_path,
        services={"mute": service},
        docker_hosts={},
        hosts={"slow": {"kind": "command", "argv": ["sleep", "60"]}},
    )
    began = time.monotonic()
    lines = await examine(ref, deadline_s=1)
    assert time.monotonic() - began < 30
    for area, subject in (("service", "mute"), ("host", "slow")):
        found = one(lines, area, subject, "unknown")
        assert "no answer within 1 s" in found.message and found.fix


async def test_a_check_that_blows_up_is_unknown_and_tells_no_secret() -> None:
    async def bad() -> list[Line]:
        raise KeyError("sk-secret")

    async def good() -> list[Line]:
        return [Line(area="a", subject="b", status="ok", message="m")]

    lines = await run_checks([("x", "y", bad), ("a", "b", good)])
    assert [x.status for x in lines] == ["unknown", "ok"] and "sk-secret" not in str(lines)


# ---- real servers -------------------------------------------------------------------------------


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("prometheus") or missing("prometheus", "not installed")
    port = free_port()
    scrape = {"job_name": "self", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = tmp_path / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    argv = [str(binary), f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/tsdb"]
    process = subprocess.Popen(
        [*argv, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("prometheus-alertmanager") or missing("alertmanager", "not installed")
    config = tmp_path / "alertmanager.yml"
    config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    port = free_port()
    argv = [str(binary), f"--config.file={config}", f"--storage.path={tmp_path}/am"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


async def test_prometheus_alertmanager_and_slack_are_asked(
    prometheus: str, alertmanager: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks.alertmanager_server import AlertmanagerSpec
    from blocks.prometheus_server import PrometheusSpec
    from blocks.slack_workspace import SlackSpec
    from deployments.doctor_servers import alertmanager_lines, prometheus_lines, slack_lines

    async def until_ok(check: Callable[[], Any]) -> list[Line]:
        for _ in range(100):
            lines: list[Line] = await check()
            if lines[0].status != "fail":  # warn: it has not scraped yet
                break
            await asyncio.sleep(0.1)
        return lines

    first = await until_ok(lambda: prometheus_lines(PrometheusSpec(url=prometheus)))
    second = await until_ok(lambda: alertmanager_lines(AlertmanagerSpec(url=alertmanager)))
    assert first[0].status in ("ok", "warn") and second[0].status == "ok", first + second
    (crossed,) = await alertmanager_lines(AlertmanagerSpec(url=prometheus))
    assert crossed.status == "fail"
    monkeypatch.setenv("TEST_SLACK_TOKEN", "xoxb-not-to-be-seen")
    slack = Slack()
    try:
        spec = SlackSpec.model_validate(slack.spec())
        assert (await slack_lines(spec))[0].status == "ok"
        slack.answer = {"ok": False, "error": "invalid_auth"}
        (refused,) = await slack_lines(spec)
        assert refused.status == "fail" and "invalid_auth" in refused.message
        assert "xoxb" not in str(refused)
    finally:
        slack.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox.create(tmp_path / "box")
    yield made
    made.stop_all()


async def test_prefect_itself_is_examined(
    box: Sandbox, home: Path, prefect_server: PrefectServer
) -> None:
    scene = await Scene.build(box, until="serving")
    async with get_client() as client:
        await client.increment_concurrency_slots([scene.lock], 1, "concurrency")
    config = ServingConfig(max_model_len=16384)
    scene.journal.mark_degraded(
        Degraded(original=config, since=datetime.now(UTC), procedure="remediate-oom", run_id="r")
    )
    receipt = Receipt(runtime="command", service="s", before=config, after=config, was_running=True)
    scene.journal.begin(
        Entry(
            run_id="r",
            procedure="remediate-oom",
            actor="ada",
            at=datetime.now(UTC),
            phase="applied",
            receipt=receipt,
        )
    )
    lines = await examine(scene.spec.name)
    service = next(iter(scene.spec.services))

    assert [x.status for x in of(lines, "service")] == ["ok"] * 3, of(lines, "service")
    assert one(lines, "prefect", "server", "ok") and one(lines, "prefect", "clock", "ok")
    assert one(lines, "prefect", "leases", "ok").message == "kept in filesystem"
    leaked = one(lines, "prefect", f"lock of {service}", "fail")
    assert "no lease" in leaked.message and "sweep-runs" in leaked.fix
    assert "no worker polls" in one(lines, "prefect", "worker", "fail").message
    assert one(lines, "prefect", "queue default", "fail")
    assert "remediate-oom" in one(lines, "machine", service, "fail").fix
    assert "restore-context" in one(lines, "machine", service, "warn").fix
    assert one(lines, "inventory", scene.spec.name, "ok")

    # The automation and a lock of its own come and go.
    await bootstrap._heartbeat()
    async with get_client() as client:
        await client.delete_global_concurrency_limit_by_name(scene.lock)
        (made,) = await client.read_automations_by_name(bootstrap.HEARTBEAT)
    lines = await examine(scene.spec.name)
    assert one(lines, "prefect", "heartbeat automation", "ok")
    assert "does not exist" in one(lines, "prefect", f"lock of {service}", "fail").message
    async with get_client() as client:
        await client.pause_automation(made.id)
    lines = await examine(scene.spec.name)
    assert "prefect automation resume" in one(lines, "prefect", "heartbeat automation", "fail").fix


# ---- Docker -------------------------------------------------------------------------------------


@pytest.fixture
def container() -> Iterator[str]:
    """A container that Docker Compose says it manages; created, never started."""
    try:
        client = docker.APIClient(timeout=20)
        client.ping()
    except DockerException as e:
        missing("docker", type(e).__name__)
    name = f"doctor-{uuid4().hex[:8]}"
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    client.import_image_from_data(empty.getvalue(), repository=name)
    labels = {"com.docker.compose.project": "llm"}
    client.create_container(name, ["serve", "--max-model-len", "8192"], name=name, labels=labels)
    yield name
    client.remove_container(name)
    client.remove_image(name)
    client.close()


async def test_what_docker_says_is_explained(
    tmp_path: Path, home: Path, container: str, http: Any
) -> None:
    def service(host: str, name: str) -> dict[str, Any]:
        runtime = {"kind": "docker", "host": host, "container": name}
        return {"url": http({"/health": (503, {})}), "runtime": runtime}

    ref = written(
        tmp_path,
        docker_hosts={"off": {"base_url": f"unix://{tmp_path}/no.sock"}},
        services={
            "composed": service("local", container),
            "typo": service("local", container[:-1] + "x"),
            "off": service("off", "vllm"),
        },
    )
    lines = await examine(ref)
    managed = one(lines, "service", "composed", "warn")
    assert "Docker Compose" in managed.message + managed.fix and "no procedure" in managed.message
    assert any("is exited" in x.message for x in of(lines, "service", "composed"))
    assert any("answered 503" in x.message for x in of(lines, "service", "composed"))
    assert any("8192" in x.message and x.status == "ok" for x in of(lines, "service", "composed"))
    typo = [x for x in of(lines, "service", "typo") if "runtime" in x.fix]
    assert typo and container in typo[0].fix, typo
    off = [x for x in of(lines, "service", "off") if "runtime" in x.fix]
    assert off and "does not answer" in off[0].message and "docker_hosts" in off[0].fix


def test_a_socket_without_permission_names_the_group() -> None:
    denied = mapped("unix:///s", PermissionError(13, "Permission denied"), "connect", "")
    message, fix = docker_problem(DockerHostSpec(), str(denied), "services.a.runtime")
    assert "permission denied for" in message and fix.startswith("sudo usermod -aG docker ")


async def test_a_certificate_that_the_daily_check_reads_is_no_fault(
    tmp_path: Path, home: Path, http: Any
) -> None:
    pem, der, key = tmp_path / "c.pem", tmp_path / "c.der", tmp_path / "c.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9"]
    subprocess.run(
        [*make, "-subj", "/CN=motoko", "-keyout", str(key), "-out", str(pem)],
        check=True,
        capture_output=True,
    )
    der.write_bytes(ssl.PEM_cert_to_DER_cert(pem.read_text()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    port, gone = server.sockets[0].getsockname()[1], free_port()
    ref = written(
        tmp_path,
        services={"ui": {"engine": "http", "url": http({}), "runtime": command()}},
        prometheus={"url": f"https://127.0.0.1:{port}"},
        certificates=[f"https://127.0.0.1:{port}/x", str(pem), str(der), str(key), f"[::1]:{gone}"],
    )
    async with server:
        lines = await examine(ref)
    well = {x.subject for x in of(lines, "certificate") if x.status == "ok"}
    assert well == {f"127.0.0.1:{port}", str(der), str(pem)}
    assert "holds no certificate" in one(lines, "certificate", str(key), "fail").message
    assert one(lines, "certificate", f"[::1]:{gone}", "fail").fix.startswith("correct certificates")
    refused = one(lines, "metrics", "prometheus", "fail")
    assert "certificate is not accepted" in refused.message
    assert refused.fix.endswith("prometheus.tls_verify: false")


async def test_a_token_that_is_not_accepted_is_named(http: Any) -> None:
    from blocks.alertmanager_server import AlertmanagerSpec
    from blocks.prometheus_server import PrometheusSpec
    from deployments.doctor_servers import alertmanager_lines, prometheus_lines

    url = http({"/api/v1/query": (401, {}), "/api/v2/alerts": (403, {})})
    (one,) = await prometheus_lines(PrometheusSpec(url=url))
    (two,) = await alertmanager_lines(AlertmanagerSpec(url=url))
    assert (one.status, one.fix) == ("fail", "set or correct prometheus.token")
    assert (two.status, two.fix) == ("fail", "set or correct alertmanager.token")
