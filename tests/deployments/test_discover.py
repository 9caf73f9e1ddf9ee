"""`runbooks init` without an engine: what a container is taken for, and what is written."""

import copy
import gc
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from blocks.docker_host import DockerHostSpec
from blocks.models import ServingConfig
from blocks.stack import parse_stack
from deployments import discover as module
from deployments import discover_static as static
from deployments.discover_classify import PATHS, classify, identify, targets
from deployments.discover_found import Address, Compose, Device, Found, Inventory, Probe, Reply
from deployments.discover_render import EXAMPLE, nothing_found, render
from deployments.discover_service import compose_runtime, rungs, shares
from deployments.discover_yaml import comment, scalar, slug_of

MODELS = {"data": [{"id": "llama", "owned_by": "vllm", "max_model_len": 16384}]}


def doc(
    name: str = "c",
    image: str = "house/thing:1",
    cmd: list[str] | None = None,
    *,
    entrypoint: list[str] | None = None,
    env: list[str] | None = None,
    labels: dict[str, str] | None = None,
    ports: dict[str, list[dict[str, str]]] | None = None,
    running: bool = True,
    network: str = "default",
    ip: str = "172.17.0.9",
    mounts: list[dict[str, Any]] | None = None,
    **host: Any,
) -> dict[str, Any]:
    """What the engine's inspect says of one container."""
    state: dict[str, Any] = {"Status": "running", "Running": True, "ExitCode": 0}
    if not running:
        state = {"Status": "exited", "Running": False, "ExitCode": 1}
    state |= {"StartedAt": "2026-11-20T23:29:16.8Z", "FinishedAt": "2026-11-20T23:31:05Z"}
    return {
        "Id": "0123456789abcdef" * 4,
        "Name": f"/{name}",
        "State": state,
        "Config": {
            "Image": image,
            "Entrypoint": entrypoint,
            "Cmd": cmd,
            "Env": env or [],
            "Labels": labels or {},
            "ExposedPorts": {},
            "WorkingDir": "/app",
            "Hostname": "0123456789ab",
        },
        "HostConfig": {"NetworkMode": network, "PortBindings": ports or {}, **host},
        "Mounts": mounts or [],
        "NetworkSettings": {
            "Ports": (ports or {}) if running else {},
            "Networks": {"bridge": {"IPAddress": ip if running else ""}},
        },
    }


def port(outside: int, host: str = "0.0.0.0") -> list[dict[str, str]]:
    return [{"HostIp": host, "HostPort": str(outside)}]


def probes(d: dict[str, Any], replies: dict[str, Any] | None = None) -> list[Probe]:
    """What its addresses answer: the same 200s at each."""
    made = {p: b if isinstance(b, Reply) else Reply(status=200, body=b) for p, b in replies.items()}
    kind, _ = static.guess(d)
    return [
        Probe(address=a, replies=made if d["State"]["Running"] else {})
        for a in static.addresses(d, kind, "gpu-1", True)
    ]


def found_of(d: dict[str, Any], replies: dict[str, Any] | None = None) -> Found:
    return classify(d, probes(d, replies or {}), "gpu-1")


def inventory(*found: Found, **more: Any) -> Inventory:
    known = {"engine": "unix:///var/run/docker.sock", "local": True, "machine": "gpu-1"}
    return Inventory(**{**known, "found": found, **more})


VLLM = ["--model", "m/a", "--max-model-len", "16384", "--served-model-name", "llama"]


# ---- recognised ---------------------------------------------------------------------------------

BY_DOC: dict[str, tuple[dict[str, Any], str, str]] = {
    "the usual image": (doc(image="vllm/vllm-openai:v0.12.0"), "vllm", "image vllm/vllm-openai"),
    "another registry": (doc(image="r.example.net:5000/x/vllm-openai@sha256:0"), "vllm", "image"),
    "its command": (doc(cmd=["vllm", "serve", "m/a"]), "vllm", "command vllm serve"),
    "a path to it": (doc(entrypoint=["/opt/bin/vllm", "serve"]), "vllm", "command vllm serve"),
    "in a shell": (doc(cmd=["sh", "-c", "cd /x && vllm serve m/a"]), "vllm", "command vllm serve"),
    "its module": (
        doc(cmd=["python3", "-m", "vllm.entrypoints.openai.api_server"]),
        "vllm",
        "command vllm.entrypoints.openai.api_server",
    ),
    "a label": (
        doc(
            labels={
                "org.opencontainers.image.source": "https://github.com/vllm-project/vllm",
            }
        ),
        "vllm",
        "label org.opencontainers.image.source",
    ),
    "litellm's image": (doc(image="ghcr.io/berriai/litellm:main"), "litellm", "image ghcr.io"),
    "litellm's command": (doc(cmd=["litellm", "--config=/c"]), "litellm", "command litellm"),
    "qdrant": (doc(image="qdrant/qdrant:v1.19.0"), "qdrant", "image qdrant/qdrant"),
    "open-webui": (doc(image="ghcr.io/open-webui/open-webui:0.6"), "open-webui", "image"),
    "prometheus": (doc(image="prom/prometheus:v3"), "prometheus", "image prom/prometheus"),
    "its program": (doc(entrypoint=["/bin/prometheus"]), "prometheus", "command prometheus"),
    "alertmanager": (doc(image="prom/alertmanager"), "alertmanager", "image"),
    "node": (doc(image="quay.io/prometheus/node-exporter:v1"), "node-exporter", "image"),
    "dcgm": (doc(image="nvcr.io/nvidia/k8s/dcgm-exporter:4"), "dcgm-exporter", "image"),
    "a database": (doc(image="postgres:16", cmd=["postgres"]), "other", ""),
    "a vllm tool": (doc(image="house/vllm-exporter:1"), "other", ""),
    "a folder named so": (doc(cmd=["cat", "/srv/vllm/serve"]), "other", ""),
}


@pytest.mark.parametrize("case", BY_DOC)
def test_a_container_is_known_by_command_image_or_label(case: str) -> None:
    d, kind, how = BY_DOC[case]
    got = static.guess(d)
    assert got[0] == kind and got[1].startswith(how)


BY_ANSWER: dict[str, tuple[dict[str, Any], str]] = {
    "vllm": ({"/version": {"version": "0.12"}, "/v1/models": MODELS}, "vllm"),
    "vllm with a key": ({"/metrics": "# x\nvllm:num_requests_running 0\n"}, "vllm"),
    "litellm": ({"/health/liveliness": "I'm alive!"}, "litellm"),
    "qdrant": ({"/": {"title": "qdrant - vector search engine"}}, "qdrant"),
    "open webui": ({"/api/config": {"status": True, "name": "Open WebUI"}}, "open-webui"),
    "prometheus": (
        {"/api/v1/status/buildinfo": {"status": "success", "data": {"version": "2.42"}}},
        "prometheus",
    ),
    "alertmanager": ({"/api/v2/status": {"versionInfo": {}, "cluster": {}}}, "alertmanager"),
    "node": ({"/metrics": "# HELP\nnode_cpu_seconds_total{} 1"}, "node-exporter"),
    "another OpenAI server": ({"/v1/models": {"data": [{"owned_by": "ollama"}]}}, "other"),
    "a page for every path": (
        dict.fromkeys(("/", "/health/liveliness", "/metrics"), "<html>alive" + "x" * 200),
        "other",
    ),
    "JSON of another shape": (dict.fromkeys(("/", "/v1/models", "/api/config"), [1, "x"]), "other"),
}


@pytest.mark.parametrize("case", BY_ANSWER)
def test_a_custom_image_is_known_by_what_it_answers(case: str) -> None:
    replies, kind = BY_ANSWER[case]
    d = doc(ports={"7000/tcp": port(7001)})
    got = found_of(d, replies)
    assert got.kind == kind and got.certain is False
    assert got.url == ("" if kind == "other" else "http://127.0.0.1:7001")


_LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
_KEYS = ("title", "name", "owned_by", "id", "version", "max_model_len", "labels", "scrapeUrl")
_FLAT = st.dictionaries(st.sampled_from(_KEYS), _LEAF | st.dictionaries(st.text(max_size=3), _LEAF))
_BODY = st.fixed_dictionaries(
    {},
    optional={
        "data": _LEAF | st.lists(_LEAF | _FLAT, max_size=3) | _FLAT
        | st.fixed_dictionaries({"activeTargets": _LEAF | st.lists(_LEAF | _FLAT, max_size=3)}),
        "title": _LEAF, "name": _LEAF, "version": _LEAF, "versionInfo": _LEAF, "cluster": _LEAF,
    },
)  # fmt: skip


@settings(max_examples=100, phases=[Phase.explicit, Phase.generate])
@example({"data": [{"owned_by": []}]})
@example({"data": {"activeTargets": 5}})
@given(_LEAF | _BODY)
def test_no_answer_breaks_it(body: Any) -> None:
    d = doc(image="vllm/vllm-openai", ports={"8000/tcp": port(8000)})
    for probe in probes(d, dict.fromkeys(PATHS["other"], body)):
        identify(probe)
        targets(probe)
    parse_stack(render(inventory(found_of(d, dict.fromkeys(PATHS["vllm"], body))), "t"))


# ---- its address --------------------------------------------------------------------------------


def urls(d: dict[str, Any], kind: Any = "vllm", engine: str = "gpu-1", local: bool = True) -> Any:
    return [a.url for a in static.addresses(d, kind, engine, local)]


def test_published_ports_lead_to_it_the_likeliest_first() -> None:
    both = {"9000/tcp": port(9000), "8000/tcp": [*port(18000), *port(18000, "::")]}
    assert urls(doc(ports=both)) == ["http://127.0.0.1:18000", "http://127.0.0.1:9000"]
    assert urls(doc(ports=both), engine="far", local=False)[0] == "http://far:18000"
    assert urls(doc(ports={"8000/tcp": port(1, "10.1.2.3")}), local=False) == ["http://10.1.2.3:1"]
    assert urls(doc(ports={"8000/tcp": port(1, "fd00::1")})) == ["http://[fd00::1]:1"]
    flag = doc(cmd=["--port=9000"], ports=both)
    assert urls(flag)[0] == "http://127.0.0.1:9000"
    tls = doc(cmd=["--ssl-certfile", "/c.pem"], ports={"8000/tcp": port(7654)})
    assert urls(tls) == ["https://127.0.0.1:7654"]


def test_the_loopback_of_another_machine_is_not_from_here() -> None:
    (only,) = static.addresses(doc(ports={"8000/tcp": port(8, "127.0.0.1")}), "vllm", "far", False)
    assert only.url == "http://far:8" and "not from here" in only.note


def test_without_a_published_port_its_own_network_is_used() -> None:
    assert urls(doc(network="host", cmd=["--port", "8123"])) == ["http://127.0.0.1:8123"]
    (own,) = static.addresses(doc(), "vllm", "gpu-1", True)
    assert own.url == "http://172.17.0.9:8000" and "gone when it is made anew" in own.note
    assert urls(doc(), local=False) == []  # another machine's inner addresses lead nowhere
    assert urls(doc(running=False)) == [] and urls(doc(network="container:abc")) == []
    assert urls(doc(ports={"8000/udp": port(8000)}, running=False)) == []


def test_a_crashed_one_is_written_with_the_port_it_declares() -> None:
    d = doc("vllm", "vllm/vllm-openai", VLLM, ports={"8000/tcp": port(4400)}, running=False)
    got = found_of(d)
    assert (got.url, got.state, got.answered) == ("http://127.0.0.1:4400", "exited 1", None)
    text = render(inventory(got), "t")
    assert "it is down just now (exited 1)" in text
    assert parse_stack(text).services["vllm"].ladder.max_model_len == (16384, 12288, 8192)


def test_of_two_at_one_address_the_running_one_is_written() -> None:
    ports = {"8000/tcp": port(8000)}
    old = found_of(doc("a-old", "vllm/vllm-openai", VLLM, ports=ports, running=False))
    new = found_of(doc("b-new", "vllm/vllm-openai", VLLM, ports=ports), {"/health": ""})
    text = render(inventory(old, new), "t")
    assert list(parse_stack(text).services) == ["b-new"]
    assert "# Not written: a-old" in text and "that of another service" in text


def test_http_and_https_at_one_port_are_one_server() -> None:
    ports = {"8000/tcp": port(8000)}
    plain = found_of(doc("a", "vllm/vllm-openai", VLLM, ports=ports))
    tls = [*VLLM, "--ssl-certfile", "/c.pem"]
    secure = found_of(doc("b", "vllm/vllm-openai", tls, ports=ports, running=False))
    assert secure.url == "https://127.0.0.1:8000"
    assert list(parse_stack(render(inventory(plain, secure), "t")).services) == ["a"]
    alone = parse_stack(render(inventory(secure), "t")).services["b"]
    assert alone.tls_verify is False


# ---- what is written ----------------------------------------------------------------------------


def test_a_vllm_becomes_a_service_with_a_ladder() -> None:
    d = doc("llm", "vllm/vllm-openai:v1", [*VLLM, "--gpu-memory-utilization", "0.9"],
            ports={"8000/tcp": port(8000)})  # fmt: skip
    spec = parse_stack(render(inventory(found_of(d, {"/v1/models": MODELS})), "t"))
    service = spec.services["llm"]
    assert service.engine == "vllm" and service.runtime.kind == "docker"
    assert service.serving.kind == "arguments" and service.served_model_name == "llama"
    assert service.model and service.model.name == "m/a" and service.gpu is None
    assert service.ladder.max_model_len == (16384, 12288, 8192)
    assert service.ladder.gpu_memory_utilization == (0.9, 0.85, 0.8)
    assert service.policy.autonomy == "approve" and service.host == "gpu-1"
    assert spec.hosts["gpu-1"].gpus is False


def test_gpus_of_one_kind_are_written_for_the_size_check() -> None:
    d = doc("llm", cmd=["vllm", "serve", "m/a", "-tp", "2"], ports={"8000/tcp": port(1)})
    two = (Device(name="NVIDIA H200", vram_gib=139.8),) * 2
    gpu = parse_stack(render(inventory(found_of(d), gpus=two), "t")).services["llm"].gpu
    assert gpu and (gpu.name, gpu.vram_gib, gpu.count) == ("NVIDIA H200", 139.8, 2)
    mixed = (*two, Device(name="L4", vram_gib=22.5))
    text = render(inventory(found_of(d), gpus=mixed), "t")
    assert parse_stack(text).services["llm"].gpu is None and "several kinds of GPU" in text


@pytest.mark.parametrize(
    ("length", "expected"),
    [(16384, [16384, 12288, 8192]), (32768, [32768, 24576, 16384]), (10000, [10000, 7168, 4096]),
     (2048, [2048, 1024]), (1024, [1024]), (1, [1]), (1500, [1500, 1024])],
)  # fmt: skip
def test_the_ladder_halves_in_whole_1024s(length: int, expected: list[int]) -> None:
    assert rungs(length) == expected


@given(st.integers(1, 10**9), st.floats(0.01, 1))
def test_every_ladder_goes_down(length: int, share: float) -> None:
    from blocks.ladder import Ladder

    Ladder(max_model_len=tuple(rungs(length)), gpu_memory_utilization=tuple(shares(share)))


COMPOSE = {
    "com.docker.compose.project": "llm: #x",
    "com.docker.compose.service": "vllm",
    "com.docker.compose.project.working_dir": "/srv/llm platform",
    "com.docker.compose.project.config_files": "/srv/a.yml,/srv/b.yml",
}


def test_a_container_of_compose_is_only_observed_and_the_other_way_is_shown() -> None:
    d = doc("llm", "vllm/vllm-openai", VLLM, labels=COMPOSE, ports={"8000/tcp": port(8000)})
    text = render(inventory(found_of(d)), "t")
    assert parse_stack(text).services["llm"].policy.autonomy == "observe"
    assert "Docker Compose made this container" in text
    # The example in the comment is an inventory too, once it replaces what is above it.
    lines = [x for x in text.splitlines() if not x.startswith(("    runtime:", "    serving:"))]
    begin = lines.index("    # runtime:")
    end = next(i for i in range(begin, len(lines)) if not lines[i].startswith("    #"))
    lines[begin:end] = ["    " + x[6:] for x in lines[begin:end]]
    service = parse_stack("\n".join(lines)).services["llm"]
    assert service.runtime.kind == "command" and service.runtime.cwd == "/srv/llm platform"
    assert service.runtime.restart[:9] == (
        "docker", "compose", "-p", "llm: #x", "-f", "/srv/a.yml", "-f", "/srv/b.yml", "up",
    )  # fmt: skip
    # The whole inspection: `.State` alone tells neither the image nor the restarts.
    assert service.runtime.status == ("docker", "inspect", "--format", "{{json .}}", "llm")
    assert service.serving.kind == "env-file"
    assert service.serving.path == "/srv/llm platform/.env"


def test_one_that_must_not_be_recreated_is_only_observed() -> None:
    d = doc("llm", "vllm/vllm-openai", VLLM, ports={"8000/tcp": port(8000)}, AutoRemove=True)
    text = render(inventory(found_of(d)), "t")
    assert parse_stack(text).services["llm"].policy.autonomy == "observe" and "--rm" in text


def test_numbers_in_a_mounted_file_are_read_there() -> None:
    mounts = [{"Type": "bind", "Source": "/srv/conf", "Destination": "/etc/vllm"}]
    cmd = ["vllm", "serve", "--config", "/etc/vllm/a.yaml"]
    d = doc("llm", cmd=cmd, mounts=mounts, ports={"8000/tcp": port(1)}, labels=COMPOSE)
    service = parse_stack(render(inventory(found_of(d)), "t")).services["llm"]
    assert service.serving.kind == "yaml" and service.serving.path == "/srv/conf/a.yaml"
    assert service.policy.autonomy == "approve"  # a restart of the same container is Compose's too
    text = render(inventory(found_of(doc("llm", cmd=cmd, ports={"8000/tcp": port(1)}))), "t")
    assert parse_stack(text).services["llm"].serving.kind == "arguments"
    assert "inside the container, not bind-mounted" in text


def test_a_file_of_two_services_is_written_once() -> None:
    mounts = [{"Type": "bind", "Source": "/srv/a.yaml", "Destination": "/a.yaml"}]
    for image, cmd, kinds in (
        ("vllm/vllm-openai", ["--config", "/a.yaml"], ("yaml", "arguments")),
        ("litellm/litellm", ["--config", "/a.yaml"], ("litellm", "none")),
    ):
        two = [
            found_of(doc(f"c{p}", image, cmd, mounts=mounts,
                         ports={f"{q}/tcp": port(p) for q in (8000, 4000)}))
            for p in (1, 2)
        ]  # fmt: skip
        spec = parse_stack(render(inventory(*two), "t"))
        assert tuple(s.serving.kind for s in spec.services.values()) == kinds


def test_a_shells_c_is_no_config_file() -> None:
    mounts = [{"Type": "bind", "Source": "/", "Destination": "/app"}]
    d = doc("llm", cmd=["sh", "-c", "HF_TOKEN=hf_geheim vllm serve m/a"], mounts=mounts)
    assert static.config_file(d) == (None, "")
    proxy = doc(cmd=["sh", "-c", "litellm -c conf.yaml"], mounts=mounts)
    assert static.config_file(proxy) == ("/conf.yaml", "")


def test_variables_are_named_where_a_script_or_a_flag_takes_them() -> None:
    env = ["MAX_MODEL_LEN=8192", "GPU_MEMORY_UTILIZATION=0.8"]
    ports = {"8000/tcp": port(1)}
    script = doc("llm", "vllm/vllm-openai", entrypoint=["/start.sh"], env=env, ports=ports)
    service = parse_stack(render(inventory(found_of(script)), "t")).services["llm"]
    assert service.serving.env == {  # type: ignore[union-attr]
        "max_model_len": "MAX_MODEL_LEN",
        "gpu_memory_utilization": "GPU_MEMORY_UTILIZATION",
    }
    assert service.ladder.max_model_len == (8192, 6144, 4096)
    shell = ["sh", "-c", "vllm serve m/a --max-model-len ${LENGTH:-4096}"]
    got = found_of(doc(cmd=shell, env=["LENGTH=8192", *env], ports=ports))
    assert got.env == {"max_model_len": "LENGTH"} and got.config.max_model_len == 8192
    # vLLM itself does not heed them, nor does a server that says another length.
    assert found_of(doc(cmd=["vllm", "serve", "m/a"], env=env, ports=ports)).env == {}
    assert "max_model_len" not in found_of(script, {"/v1/models": MODELS}).env


LITELLM_FILE = """\
model_list:
  - {model_name: chat, litellm_params: {model: hosted_vllm/a, api_base: "http://llm:8000/v1"}}
  - {model_name: near, litellm_params: {model: hosted_vllm/a, api_base: "http://127.0.0.1:18000"}}
  - {model_name: far, litellm_params: {model: hosted_vllm/a, api_base: "http://far:8000/v1"}}
general_settings: {master_key: sk-geheim}
"""


def test_a_proxy_gets_its_file_its_key_by_reference_and_its_routes(tmp_path: Path) -> None:
    (tmp_path / "litellm.yaml").write_text(LITELLM_FILE)
    mounts = [{"Type": "bind", "Source": str(tmp_path), "Destination": "/app"}]
    d = doc("proxy", "litellm/litellm", ["--config", "litellm.yaml"], mounts=mounts,
            ports={"4000/tcp": port(4000)})  # fmt: skip
    proxy = module._read_proxy(found_of(d))
    backend = found_of(doc("llm", "vllm/vllm-openai", VLLM, ports={"8000/tcp": port(18000)}))
    text = render(inventory(backend, proxy), "t")
    service = parse_stack(text).services["proxy"]
    assert service.engine == "litellm" and service.api_key == "${LITELLM_MASTER_KEY}"
    assert service.serving.kind == "litellm"
    assert service.serving.path == str(tmp_path / "litellm.yaml")
    assert service.routes == {"chat": "llm"} and "geheim" not in text
    assert service.runtime.kind == "command"
    assert service.runtime.restart == ("docker", "restart", "proxy")
    assert service.runtime.status == ("docker", "inspect", "--format", "{{json .}}", "proxy")


def test_a_proxy_without_a_mounted_file_has_nothing_to_change() -> None:
    d = doc("proxy", "litellm/litellm", ["--config", "/c.yaml"], ports={"4000/tcp": port(4000)})
    text = render(inventory(found_of(d, {"/v1/models": Reply(status=401)})), "t")
    service = parse_stack(text).services["proxy"]
    assert service.serving.kind == "none" and service.api_key == "${LITELLM_MASTER_KEY}"


def test_two_keys_have_two_variables() -> None:
    two = [
        found_of(doc(n, "vllm/vllm-openai", ["--api-key", "x"], ports={"8000/tcp": port(p)}))
        for n, p in (("a", 1), ("b.2", 2))
    ]
    services = parse_stack(render(inventory(*two), "t")).services
    assert services["a"].api_key == "${VLLM_API_KEY}"
    assert services["b-2"].api_key == "${VLLM_API_KEY_B_2}"


def test_the_others_have_their_health_path_or_their_section() -> None:
    found = [
        found_of(doc("q", "qdrant/qdrant", ports={"6333/tcp": port(6333), "6334/tcp": port(6334)})),
        found_of(doc("ui", "x/open-webui", ports={"8080/tcp": port(3000)})),
        found_of(doc("prom", "prom/prometheus", ports={"9090/tcp": port(9090)})),
        found_of(doc("prom2", "prom/prometheus", ports={"9090/tcp": port(9091)})),
        found_of(doc("am", "prom/alertmanager", ports={"9093/tcp": port(9093)})),
        found_of(doc("node", "prom/node-exporter", network="host")),
        found_of(doc("db", "postgres:16", ports={"5432/tcp": port(5432)})),
    ]
    text = render(inventory(*found), "t")
    spec = parse_stack(text)
    assert {n: (s.engine, s.health_path) for n, s in spec.services.items()} == {
        "q": ("http", "/readyz"),
        "ui": ("http", "/health"),
    }
    assert spec.services["q"].url == "http://127.0.0.1:6333"
    assert spec.prometheus and spec.prometheus.url == "http://127.0.0.1:9090"
    assert spec.alertmanager and spec.alertmanager.url == "http://127.0.0.1:9093"
    assert "There is another: prom2, http://127.0.0.1:9091" in text
    assert "db (postgres:16, ports 5432->5432)" in text and "node_exporter: node" in text


def test_labels_come_from_the_prometheus_that_scrapes_it() -> None:
    llm = found_of(doc("llm", "vllm/vllm-openai", ports={"8000/tcp": port(18000)}))
    prom = doc("prom", "prom/prometheus", ports={"9090/tcp": port(9090)})
    rows = [
        {"scrapeUrl": "http://other:8000/metrics", "labels": {"instance": "o", "job": "x"}},
        {"scrapeUrl": "http://llm:8000/metrics", "labels": {"instance": "llm:8000", "job": "v"}},
        "no target",
    ]
    body = {"data": {"activeTargets": rows}}
    asked = probes(prom, {"/api/v1/targets?state=active": body})
    got = module._labelled(llm, asked, [llm, classify(prom, asked)])
    assert got.labels == {"instance": "llm:8000", "job": "v"}
    assert parse_stack(render(inventory(got), "t")).services["llm"].metrics == got.labels


def test_another_machines_engine_is_named_and_its_files_are_left_alone() -> None:
    mounts = [{"Type": "bind", "Source": "/srv", "Destination": "/app"}]
    d = doc("p", "litellm/litellm", ["-c", "c.yaml"], mounts=mounts, ports={"4000/tcp": port(1)})
    far = inventory(found_of(d), engine="ssh://ops@far", local=False, machine="far")
    spec = parse_stack(render(far, "far"))
    assert spec.docker_hosts["engine"].base_url == "ssh://ops@far" and not spec.hosts
    assert spec.services["p"].serving.kind == "none"
    assert spec.services["p"].runtime.restart[:3] == ("docker", "-H", "ssh://ops@far")  # type: ignore[union-attr]


def test_a_container_of_an_unfinished_change_is_no_service() -> None:
    d = doc("llm.runbooks-old", "vllm/vllm-openai", VLLM, ports={"8000/tcp": port(1)})
    assert found_of(d).kind == "other"


# ---- hostile values -----------------------------------------------------------------------------

NASTY = st.text(max_size=60) | st.sampled_from(
    ["no", "null", "~", "1e5", "0x1f", "- a", "a: b", "a #b", "x\ny: z", "'", '"', "\\", "{{", "*a",
     "&a", "!t", "%y", "@", "`", "\u2028", "\ud800", "🦙", "a" * 300, "", "|", "[", "2026-01-01"]
)  # fmt: skip


@given(NASTY)
def test_a_scalar_is_read_back_as_it_was(value: str) -> None:
    from ruamel.yaml import YAML

    expected = "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in value)
    for text in (f"k: {scalar(value)}\n", f"k: {{a: [{scalar(value)}, 1]}}\n"):
        read = YAML(typ="safe", pure=True).load(text)["k"]
        assert (read if isinstance(read, str) else read["a"][0]) == expected


@given(NASTY)
def test_a_comment_is_one_line(value: str) -> None:
    made = comment(value, 2)
    assert made.startswith("  # ") and len(made.splitlines()) == 1 and made.isprintable()


@given(st.lists(NASTY, max_size=6))
def test_slugs_differ_and_are_names(values: list[str]) -> None:
    from blocks.stack_rules import is_slug

    names: list[str] = []
    for value in values:
        names.append(slug_of(value, "vllm", names))
    assert len(set(names)) == len(names) and all(map(is_slug, names))


@settings(max_examples=60)
@given(*[NASTY] * 8)
@example("NULL", *[""] * 7)
@example("007", "x", "m", "s", "/c", "1e5", "p", "s")
@example("a\nname: b", "x", "m", "s", "/c", "n", "p", "s")
def test_whatever_strangers_named_it_the_text_is_an_inventory(
    container: str, image: str, model: str, served: str, path: str, device: str, project: str,
    instance: str,
) -> None:  # fmt: skip
    address = Address(url="http://127.0.0.1:8000", inside=8000, note=path)
    compose = Compose(project=project, service=served, directory=path, files=(image,))
    common: dict[str, Any] = {"image": image, "how": image, "state": path, "names": ()}
    vllm = Found(
        container=container or "c", kind="vllm", address=address, compose=compose, **common,
        config=ServingConfig(model=model, quantization=served, max_model_len=4096), served=served,
        labels={"instance": instance},
    )  # fmt: skip
    proxy = Found(
        container=(container or "c") + "p", kind="litellm", file="/" + path, **common,
        address=Address(url="http://127.0.0.1:4000", inside=4000),
        backends={model: "http://[", image: "http://127.0.0.1:1"},
    )  # fmt: skip
    other = Found(container=container, kind="other", ports=(path,), **common)
    gpus = (Device(name=device, vram_gib=24),)
    spec = parse_stack(render(inventory(vllm, proxy, other, gpus=gpus, machine=device), "t"))
    service = next(s for s in spec.services.values() if s.engine == "vllm")
    clean = (container or "c").encode("utf-8", "replace").decode().replace("?", "")
    assert service.runtime.container.replace("\ufffd", "").replace("?", "") == clean  # type: ignore[union-attr]
    assert spec.services and len(spec.services) == 2


SECRET = st.from_regex(r"\Asec[a-z0-9]{16}\Z")
FLAGS = ("--api-key", "--hf-token", "--master_key", "--ssl-keyfile-password", "--x-secret")
IMAGES = ("vllm/vllm-openai:1", "litellm/litellm", "qdrant/qdrant", "prom/prometheus", "pg")


@settings(max_examples=80)
@given(
    SECRET,
    st.sampled_from(FLAGS),
    st.sampled_from(["NAME", "API_KEY", "VLLM_API_KEY", "LITELLM_MASTER_KEY", "MAX_MODEL_LEN"]),
    st.sampled_from(IMAGES),
    st.booleans(),
    st.booleans(),
)
def test_no_secret_of_arguments_or_environment_is_written(
    secret: str, flag: str, variable: str, image: str, shell: bool, running: bool
) -> None:
    words = ["vllm", "serve", "m/a", f"{flag}={secret}", flag, secret, "--max-model-len", "8192"]
    cmd = ["sh", "-c", f"TOKEN={secret} {' '.join(words)} && litellm -c x {secret}"]
    d = doc(
        "c", image, cmd if shell else words, env=[f"{variable}={secret}", secret],
        labels={"token": secret, "com.example.key": secret}, running=running,
        ports={f"{p}/tcp": port(p) for p in (8000, 4000, 6333, 9090)},
        mounts=[{"Type": "bind", "Source": "/", "Destination": "/"}],
    )  # fmt: skip
    refused = dict.fromkeys(("/v1/models", "/"), Reply(status=401, body={"error": secret}))
    found = found_of(d, refused)
    more = found_of(doc("v", "vllm/vllm-openai", ports={"8000/tcp": port(1)}))
    assert secret not in found.model_dump_json()
    assert secret not in render(inventory(found, more), "t")


# ---- the command --------------------------------------------------------------------------------


def test_an_existing_file_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text("mine")
    assert module.init_command(path, "unix:///nowhere.sock", False) == 2
    assert path.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert module.init_command(tmp_path / "a/b.yaml", "unix:///nowhere.sock", False) == 2
    assert module.init_command(tmp_path / "c.yaml", "http://h", False) == 2
    assert module.init_command(tmp_path / "c.yaml", "tcp://me:geheim@h:1", False) == 2
    assert "geheim" not in capsys.readouterr().err


def test_without_an_engine_it_says_so_and_shows_an_example(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "stack.yaml"
    with warnings.catch_warnings():
        # The SDK leaves the socket of a refused connection to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        assert module.init_command(path, f"unix://{tmp_path}/no.sock", False) == 3
        gc.collect()
    said = capsys.readouterr().err
    assert f"unix://{tmp_path}/no.sock does not answer" in said and "systemctl status" in said
    assert not path.exists()
    shown = said[said.index("  name: my-platform") : said.index("\nEvery key")]
    example = "\n".join(line[2:] for line in shown.splitlines())
    assert parse_stack(example) == parse_stack(EXAMPLE)


def test_an_inventory_that_apply_would_refuse_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def fake(_: DockerHostSpec) -> Inventory:
        return inventory(found_of(doc("l", "vllm/vllm-openai", ports={"8000/tcp": port(1)})))

    monkeypatch.setattr(module, "discover", fake)
    monkeypatch.setattr(module, "render", lambda *_: "name: t\nservices: {}\n")
    path = tmp_path / "stack.yaml"
    assert module.init_command(path, "unix:///x.sock", False) == 2 and not path.exists()
    assert "this is a bug" in capsys.readouterr().err


def test_containers_that_are_no_services_are_named() -> None:
    said = nothing_found(inventory(found_of(doc("db", "postgres:16"))))
    assert "1 container(s)" in said and "db (postgres:16)" in said
    with pytest.raises(ValueError, match="at least one service"):
        render(inventory(), "t")


def test_the_time_zone_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    link, text = tmp_path / "localtime", tmp_path / "timezone"
    assert module.zone(link, text) == "UTC"
    text.write_text("Europe/Berlin\n")
    assert module.zone(link, text) == "Europe/Berlin"
    link.symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert module.zone(link, text) == "Asia/Tokyo"
    monkeypatch.setenv("TZ", ":America/Los_Angeles")
    assert module.zone(link, text) == "America/Los_Angeles"
    monkeypatch.setenv("TZ", "UTC0")
    assert module.zone(link, text) == "Asia/Tokyo"


@given(NASTY, NASTY, NASTY)
@settings(max_examples=50)
def test_the_commented_compose_runtime_is_valid_whatever_its_labels(
    project: str, service: str, folder: str
) -> None:
    compose = Compose(project=project, service=service, directory=folder)
    body = "".join(f"    {line}\n" for line in compose_runtime("c", compose))
    parse_stack(f"name: t\nservices:\n  a:\n    url: http://h:1\n{body}")


def test_found_is_json_and_inventories_are_values() -> None:
    one = found_of(copy.deepcopy(BY_DOC["the usual image"][0]))
    assert json.loads(one.model_dump_json())["kind"] == "vllm"
