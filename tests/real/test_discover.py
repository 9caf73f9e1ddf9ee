"""`runbooks init` against a real engine: containers of mixed kinds, and an engine without any."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
import ruamel.yaml

from blocks.docker_host import DockerHostSpec
from blocks.stack import read_stack_file
from blocks.stack_blocks import load_stack
from deployments import discover as module
from deployments.bootstrap import register
from deployments.cli import app
from deployments.discover_found import Inventory
from deployments.discover_render import EXAMPLE, render
from deployments.doctor import examine
from deployments.sandbox import docker_image
from deployments.sandbox.local import free_port
from tests.conftest import PrefectServer
from tests.real.conftest import missing

pytestmark = pytest.mark.real

PY = str(docker_image.interpreter())
SECRET = "sk-0123456789-geheim"
MODEL = ["--max-num-seqs", "8", "--gpu-memory-utilization", "0.92"]
QDRANT = """\
import http.server, json
BODY = {"/": {"title": "qdrant - vector search engine", "version": "1.19.0"}, "/readyz": "ok"}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(BODY.get(self.path)).encode()
        self.send_response(200 if self.path in BODY else 404)
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 6333), Handler).serve_forever()
"""


class Site:
    """The containers of one machine, as people have them."""

    def __init__(self, client: docker.DockerClient, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.mark = f"init-{uuid.uuid4().hex[:6]}"
        self.base = docker_image.ensure_image(client)
        self.network = client.networks.create(self.mark)
        self.tags: list[str] = []
        self.ports: dict[str, int] = {}
        for name, text in (
            ("vllm", f'#!/bin/sh\nexec {PY} -S /sandbox/vllm_server.py "$@"\n'),
            ("litellm", f'#!/bin/sh\nexec {PY} -S /sandbox/litellm_server.py "$@"\n'),
            ("store.py", QDRANT),
        ):
            path = folder / name
            path.write_text(text)
            path.chmod(0o755)

    def name(self, short: str) -> str:
        return f"{self.mark}-{short}"

    def url(self, short: str) -> str:
        return f"http://127.0.0.1:{self.ports[short]}"

    def run(self, short: str, repository: str, inside: int, cmd: list[str], **more: Any) -> None:
        tag = f"{repository}:{self.mark}"
        self.client.images.get(self.base).tag(repository, tag=self.mark)
        self.tags.append(tag)
        self.ports[short] = free_port()
        site = Path(ruamel.yaml.__file__).parents[2]
        volumes = docker_image.host_mounts() | {
            str(Path(docker_image.__file__).parent): {"bind": "/sandbox", "mode": "ro"},
            str(site / "ruamel"): {"bind": "/site/ruamel", "mode": "ro"},
            str(self.folder): {"bind": "/opt/house", "mode": "ro"},
        }
        container = self.client.containers.create(
            tag,
            cmd,
            name=self.name(short),
            network=self.mark,
            ports={f"{inside}/tcp": ("127.0.0.1", self.ports[short])},
            volumes=volumes,
            environment={"SANDBOX_STARTUP_S": "0.05", "PYTHONPATH": "/site", "HF_TOKEN": SECRET},
            **more,
        )
        container.start()

    def sweep(self) -> None:
        for container in self.client.containers.list(all=True, filters={"name": self.mark}):
            container.remove(force=True)
        self.network.remove()
        for tag in self.tags:
            self.client.images.remove(tag)


def wait_for(url: str, text: str = "") -> None:
    for _ in range(300):
        try:
            answer = httpx.get(url, timeout=2, trust_env=False)
            if answer.status_code == 200 and text in answer.text:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="module")
def site(
    docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    if not shutil.which("prometheus"):
        missing("prometheus", "apt-get install prometheus")
    made = Site(docker_client, tmp_path_factory.mktemp("house"))
    try:
        furnish(made)
        yield made
    finally:
        made.sweep()


def furnish(made: Site) -> None:
    """A vLLM by its image, one of the house's own, a proxy, a store, a Prometheus, two more."""
    made.run(
        "chat",
        "vllm/vllm-openai",
        8000,
        ["--model", "/models/wintermute-tiny", "--served-model-name", "wintermute",
         "--max-model-len", "8192", *MODEL],
    )  # fmt: skip
    serve = ["serve", "/models/wintermute-tiny", "--max-model-len=4096", *MODEL]
    house = {"entrypoint": ["/opt/house/vllm"]}
    made.run("house", "house/llm", 8000, [*serve, "--api-key", SECRET], **house)
    made.run("crashed", "house/llm-old", 8000, [*serve, "--no-such-flag"], **house)
    (made.folder / "litellm.yaml").write_text(
        "model_list:\n  - model_name: local/chat\n    litellm_params:\n"
        "      model: hosted_vllm/wintermute\n"
        f"      api_base: http://{made.name('chat')}:8000/v1\n"
        f"general_settings:\n  master_key: {SECRET}\n"
    )
    made.run(
        "proxy",
        "house/router",
        4000,
        ["--config", "litellm.yaml"],
        entrypoint=["/opt/house/litellm"],
        working_dir="/opt/house",
    )
    made.run("store", "house/store", 6333, [], entrypoint=[PY, "-S", "/opt/house/store.py"])
    (made.folder / "prometheus.yml").write_text(
        "scrape_configs:\n  - job_name: vllm\n    scrape_interval: 1s\n"
        f"    static_configs: [{{targets: ['{made.name('chat')}:8000']}}]\n"
    )
    made.run(
        "metrics",
        "house/metrics",
        9090,
        ["--config.file=/opt/house/prometheus.yml", "--storage.tsdb.path=/tmp/tsdb"],
        entrypoint=["/usr/bin/prometheus"],
    )
    made.run("idle", "house/idle", 5432, ["9999"], entrypoint=["/bin/sleep"])
    wait_for(made.url("chat") + "/health")
    wait_for(made.url("house") + "/health")
    wait_for(made.url("proxy") + "/health/liveliness")
    wait_for(made.url("store") + "/readyz")
    wait_for(made.url("metrics") + "/-/ready")
    wait_for(made.url("metrics") + "/api/v1/targets", "scrapeUrl")


async def ours(site: Site) -> Inventory:
    """What is found, without the containers that other tests run on this engine."""
    found = await module.discover(DockerHostSpec())
    assert not found.problem
    kept = tuple(f for f in found.found if f.container.startswith(site.mark))
    return found.model_copy(update={"found": kept, "gpus": (), "gpu_problem": "not asked"})


async def test_five_kinds_are_recognised_and_written(
    site: Site,
    tmp_path: Path,
    home: Path,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await ours(site)
    kinds = {f.container.removeprefix(site.mark + "-"): (f.kind, f.how) for f in found.found}
    assert kinds == {
        "chat": ("vllm", "image vllm/vllm-openai"),
        "house": ("vllm", "command vllm serve"),
        "crashed": ("vllm", "command vllm serve"),
        "proxy": ("litellm", "command litellm --config"),
        "store": ("qdrant", "answers / as Qdrant"),
        "metrics": ("prometheus", "command prometheus"),
        "idle": ("other", ""),
    }
    assert all(f.answered for f in found.found if f.running and f.kind != "other")

    name = f"t-{site.mark}"
    path = tmp_path / "stack.yaml"
    path.write_text(render(found, name))
    text = path.read_text()
    assert SECRET not in text and f"{site.name('idle')} (house/idle:{site.mark}" in text
    spec = read_stack_file(path)
    chat = spec.services[site.name("chat")]
    assert chat.url == site.url("chat") and chat.served_model_name == "wintermute"
    assert chat.ladder.max_model_len == (8192, 6144, 4096)
    assert chat.ladder.gpu_memory_utilization == (0.92, 0.85, 0.8)
    assert chat.metrics == {"instance": f"{site.name('chat')}:8000", "job": "vllm"}
    house = spec.services[site.name("house")]
    assert house.api_key == "${VLLM_API_KEY}" and house.ladder.max_model_len == (4096, 3072, 2048)
    assert "it is down just now (exited 2)" in text
    proxy = spec.services[site.name("proxy")]
    assert proxy.api_key == "${LITELLM_MASTER_KEY}" and proxy.serving.kind == "litellm"
    assert proxy.serving.path == str(site.folder / "litellm.yaml")
    assert proxy.routes == {"local/chat": site.name("chat")}
    assert spec.services[site.name("store")].health_path == "/readyz"
    assert spec.prometheus and spec.prometheus.url == site.url("metrics")

    await register(spec)  # what `runbooks apply` does after it has read the file
    assert await load_stack(name) == spec

    monkeypatch.setenv("VLLM_API_KEY", SECRET)
    monkeypatch.setenv("LITELLM_MASTER_KEY", SECRET)
    lines = await examine(str(path))
    bad = {x.subject for x in lines if x.status == "fail" and x.area not in ("prefect", "machine")}
    assert bad == {site.name("crashed")}, [x for x in lines if x.status == "fail"]


def test_the_command_writes_what_apply_takes(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    env = os.environ | {"COLUMNS": "250", "NO_COLOR": "1", "RUNBOOKS_HOME": str(tmp_path / "home")}

    def runbooks(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "deployments.cli", *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    assert "init" in {c.callback.__name__ for c in app.registered_commands if c.callback}
    done = runbooks("init", "-o", str(path))
    assert done.returncode == 0, done.stderr
    row = next(x for x in done.stdout.splitlines() if site.name("chat") in x)
    assert "vLLM" in row and "image vllm/vllm-openai" in row and site.url("chat") in row
    assert f"next: runbooks apply {path}; runbooks doctor --stack " in done.stdout
    assert SECRET not in path.read_text() + done.stdout
    checked = runbooks("apply", str(path), "--check")
    assert checked.returncode == 0 and site.name("store") in checked.stdout
    written = path.read_text()
    assert runbooks("init", "-o", str(path)).returncode == 2 and path.read_text() == written


@pytest.fixture
def empty_engine(tmp_path: Path, docker_client: docker.DockerClient) -> Iterator[str]:
    """An engine of this test's own, with nothing on it."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        missing("docker", "a second engine needs root and dockerd")
    folder = Path(f"/run/{uuid.uuid4().hex[:8]}")  # a socket's path has at most 107 characters
    url = f"unix://{folder}/s.sock"
    # In a network of its own: with --bridge=none it would take docker0 from the other engine.
    argv = [
        "unshare",
        "--net",
        "dockerd",
        "--host",
        url,
        "--data-root",
        str(tmp_path / "data"),
        "--exec-root",
    ]
    argv += [str(folder / "exec"), "--pidfile", str(folder / "pid"), "--bridge=none"]
    argv += ["--iptables=false", "--ip6tables=false"]
    folder.mkdir()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            if (folder / "s.sock").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        if process.poll() is not None:
            missing("docker", "a second engine does not start here: " + str(tmp_path / "log"))
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_engine_without_containers_is_told_so(
    empty_engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stack.yaml"
    assert module.init_command(path, empty_engine, False) == 3 and not path.exists()
    said = capsys.readouterr().err
    assert f"no containers on {empty_engine}, not even stopped ones" in said
    assert all(line.strip() in said for line in EXAMPLE.splitlines())


def test_a_container_that_goes_while_it_is_looked_at_is_left_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks.docker_host import Engine
    from blocks.docker_list import _read

    real = Engine.containers

    def with_a_ghost(self: Engine, change: str | None = None) -> list[dict[str, Any]]:
        return [*real(self, change), {"Id": "0" * 64}]

    monkeypatch.setattr(Engine, "containers", with_a_ghost)
    names = {d["Name"] for d in _read(DockerHostSpec())}
    assert f"/{site.name('chat')}" in names
