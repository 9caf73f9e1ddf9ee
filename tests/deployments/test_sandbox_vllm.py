"""The stand-in vLLM server: as captured, and broken on demand."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from deployments.sandbox import vllm_args, vllm_memory
from deployments.sandbox.local import free_port
from deployments.sandbox.vllm_settings import PRESETS, Settings, Source, UnknownSetting, coerce

SERVER = Path(vllm_args.__file__).with_name("vllm_server.py")
CAPTURES = (
    Path(os.environ.get("RUNBOOKS_CAPTURES", Path(__file__).parents[3] / "shared/captures"))
    / "vllm"
)
captured = pytest.mark.skipif(not CAPTURES.is_dir(), reason="no captures beside this checkout")
CAPTURED_ARGS = "--model /models/wintermute-tiny --served-model-name wintermute --max-num-seqs 8 "
EAGER = CAPTURED_ARGS + "--enforce-eager "


class Running:
    """One server process and its log."""

    def __init__(self, directory: Path, args: str, **settings: object) -> None:
        self.port = free_port()
        self.faults = directory / "faults.json"
        self.log_path = directory / "log"
        settings = {"startup_s": 0.04, "tokens_per_s": 4000, **settings}
        variables = {k: str(v) for k, v in settings.items() if k.isupper()}
        env = {f"SANDBOX_{k.upper()}": str(v) for k, v in settings.items() if not k.isupper()}
        argv = [sys.executable, str(SERVER), "--port", str(self.port), "--host", "127.0.0.1"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *args.split()],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    "PATH": os.environ["PATH"],
                    "SANDBOX_FAULTS_FILE": str(self.faults),
                    **env,
                    **variables,
                },
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ready(self) -> "Running":
        for _ in range(400):
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/ping").status_code:
                    return self
            assert self.process.poll() is None, self.log
            time.sleep(0.01)
        raise AssertionError(self.log)

    def code(self, timeout: float = 10) -> int:
        return self.process.wait(timeout)

    def fault(self, **values: object) -> None:
        temporary = self.faults.with_suffix(".new")
        temporary.write_text(json.dumps(values))
        temporary.replace(self.faults)

    def complete(self, **body: object) -> httpx.Response:
        return self.client.post(
            "/v1/completions", json={"prompt": "is it decoding", "max_tokens": 4, **body}
        )

    def metric(self, name: str) -> float:
        page = self.client.get("/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            if re.match(rf"{re.escape(name)}(\{{|\s)", line)
        )

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def launch(tmp_path):
    started: list[Running] = []

    def start(args: str = EAGER + "--max-model-len 8192", **settings: object) -> Running:
        home = tmp_path / str(len(started))
        home.mkdir()
        started.append(Running(home, args, **settings))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    server = Running(tmp_path_factory.mktemp("healthy"), EAGER + "--max-model-len 8192")
    yield server.ready()
    server.close()


def normal(text: str) -> list[str]:
    text = re.sub(r"pid=\d+", "pid=N", text)
    return re.sub(r"\d\d-\d\d \d\d:\d\d:\d\d", "MM-DD hh:mm:ss", text).splitlines()


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


# --- the memory model -----------------------------------------------------------------------


def budget(preset: str, length: int | None, **more: object) -> vllm_memory.Budget:
    settings = Settings(**PRESETS[preset])
    wanted = vllm_memory.Wanted(max_model_len=length, **{"max_num_seqs": 8, **more})
    return vllm_memory.budget(settings, wanted)


def test_default_device_reproduces_the_captured_numbers():
    b = budget("wintermute", 16384)
    assert (round(b.needed, 2), round(b.available, 2), b.estimated) == (1.5, 0.99, 10752)
    assert b.failure == "kv_too_small"


@pytest.mark.parametrize(
    ("preset", "length", "more", "failure"),
    [
        ("wintermute", 12288, {}, "kv_too_small"),
        ("wintermute", 10753, {}, "kv_too_small"),
        ("wintermute", 10752, {}, ""),
        ("wintermute", 8192, {}, ""),
        ("wintermute", None, {}, ""),
        ("wintermute", 16384, {"kv_cache_dtype": "fp8"}, ""),
        ("wintermute", 16384, {"kv_cache_dtype": "float16"}, "kv_too_small"),
        ("wintermute", 16384, {"tensor_parallel_size": 2}, ""),
        ("wintermute", 512, {"gpu_memory_utilization": 0.8}, "kv_none"),
        ("wintermute", 8192, {"gpu_memory_utilization": 0.99}, "memory_held"),
        ("cudagraph_oom", 8192, {}, "cudagraph"),
        ("cudagraph_oom", 8192, {"gpu_memory_utilization": 0.85}, ""),
        ("cudagraph_oom", 8192, {"max_num_seqs": 4}, ""),
        ("cudagraph_oom", 8192, {"enforce_eager": True}, ""),
        ("profile_oom", 8192, {}, "profile"),
        ("profile_oom", 8192, {"max_num_seqs": 4}, ""),
        ("weights_oom", 8192, {}, "weights"),
        ("weights_oom", 8192, {"tensor_parallel_size": 2}, ""),
        ("memory_held", 8192, {}, "memory_held"),
        ("runtime_oom", 16384, {}, ""),
    ],
)
def test_the_first_thing_that_does_not_fit(preset, length, more, failure):
    assert budget(preset, length, **more).failure == failure


@pytest.mark.parametrize(
    ("more", "dies"),
    [({}, True), ({"gpu_memory_utilization": 0.85}, False), ({"max_num_seqs": 4}, False)],
)
def test_runtime_oom_stops_below_a_threshold(more, dies):
    b = budget("runtime_oom", 16384, **more)
    sequences = more.get("max_num_seqs", 8)
    assert vllm_memory.overflows(Settings(**PRESETS["runtime_oom"]), b, sequences) is dies


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length"),
    [("16k", 16000), ("16K", 16384), ("1.5k", 1500), ("auto", None), ("-1", None), ("8192", 8192)],
)
def test_context_lengths_are_read_as_vllm_reads_them(text, length):
    assert vllm_args.parse([f"--max-model-len={text}"], {}).max_model_len == length


def test_command_line_beats_file_beats_environment(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        '# a comment\nmax_model_len: 8192  # why\nmax-num-seqs: "4"\n'
        "enforce_eager: true\nquantization: null\n"
    )
    env = {"MAX_MODEL_LEN": "4096", "KV_CACHE_DTYPE": "fp8", "MODEL_NAME": "/m", "MAX_NUM_SEQS": ""}
    args = vllm_args.parse(["--config", str(config), "--max_num_seqs=2"], env)
    assert (args.max_model_len, args.max_num_seqs, args.kv_cache_dtype) == (8192, 2, "fp8")
    assert (args.model, args.enforce_eager, args.quantization) == ("/m", True, None)
    assert list(args.given) == [
        "model",
        "max_model_len",
        "enforce_eager",
        "kv_cache_dtype",
        "max_num_seqs",
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--foo", "1"], "error: unrecognized arguments: --foo"),
        (["--swap-space", "4"], "error: unrecognized arguments: --swap-space"),
        (["--max-model-len", "lots"], "error: argument --max-model-len: invalid"),
        (["--kv-cache-dtype", "int3"], "error: argument --kv-cache-dtype: invalid choice: 'int3'"),
        (["--gpu-memory-utilization", "1.2"], "error: argument --gpu-memory-utilization"),
        (["--config", "/no/such.yaml"], "No such file"),
        (["--max-num-seqs", "0"], "error: argument --max-num-seqs"),
    ],
)
def test_bad_arguments_exit_2(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        vllm_args.parse(argv, {})
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_api_key_never_reaches_the_log():
    assert vllm_args.parse(["--api-key", "s3cret"], {}).given == {"api_key": ["***"]}


# --- settings -------------------------------------------------------------------------------


def test_faults_file_is_noticed_and_a_broken_one_keeps_the_last(tmp_path, capsys):
    path = tmp_path / "f.json"
    source = Source({"SANDBOX_FAULTS_FILE": str(path), "SANDBOX_STARTUP_S": "2"})
    assert source.current().startup_s == 2
    path.write_text('{"frozen": true, "preset": "roomy"}')
    assert (source.current().frozen, source.current().vram_gib) == (True, 24)
    path.write_text('{"frozen"')
    assert source.current().frozen
    assert source.problem
    assert "faults file ignored" in capsys.readouterr().err
    path.unlink()
    assert not source.current().frozen
    assert source.post({"health_status": 500}).health_status == 500
    assert source.post({}).health_status == 200


@pytest.mark.parametrize("values", [{"nope": 1}, {"frozen": "perhaps"}, {"vram_gib": "big"}])
def test_unknown_settings_are_refused(values):
    with pytest.raises(UnknownSetting):
        coerce(values)


# --- start-up -------------------------------------------------------------------------------


@captured
def test_kv_failure_is_the_captured_log_to_the_letter(launch):
    server = launch(EAGER + "--max-model-len 16384")
    assert server.code() == 1
    ours, theirs = normal(server.log), normal(capture("startup-kv-cache-too-small-16384.log"))
    begin = "EngineCore failed to start."
    tails = [
        lines[next(i for i, x in enumerate(lines) if begin in x) :] for lines in (ours, theirs)
    ]
    assert tails[0] == tails[1]
    cause = max(i for i, line in enumerate(ours) if line.startswith("ValueError: To serve"))
    assert len(ours) - cause > 40


@captured
def test_missing_model_is_the_captured_log_to_the_letter(launch):
    server = launch("--model /models/does-not-exist --max-model-len 8192", model_missing=1)
    assert server.code() == 1
    ours, theirs = normal(server.log), normal(capture("startup-model-missing.log"))
    theirs = [line for line in theirs if not line.startswith("###")]
    start = "Traceback (most recent call last):"
    assert ours[ours.index(start) :] == theirs[theirs.index(start) :]


@captured
def test_healthy_start_says_what_the_captured_one_says(healthy):
    def told(text: str) -> list[str]:
        wanted = ("api_utils.py", "model.py", "launcher.py:1[89]", "entry.py", "vllm.py:17[02]")
        lines = [
            re.sub(r"'port': \d+, |:\d+$| \[\d+\]$|127.0.0.1|0\.0\.0\.0|EngineCore", "", line)
            for line in normal(text)
        ]
        return [
            x
            for x in dict.fromkeys(lines)
            if re.search(r"\[(" + "|".join(wanted) + ")", x)
            or x.startswith("INFO:     ")
            and "HTTP" not in x
            or "DeprecationWarning" in x
            and "api_server" in x
        ]

    ours, theirs = told(healthy.log), told(capture("startup-healthy-8192.log"))
    assert [x for x in theirs if x not in ours and "( pid" not in x] == []
    assert "GPU KV cache size: 10,752 tokens, Maximum concurrency for 8,192 tokens" in healthy.log


FAILURES = [
    (
        "memory_held",
        "--max-model-len 8192",
        {},
        "less than desired GPU memory utilization (0.92, 22.08 GiB)",
    ),
    ("weights_oom", "--max-model-len 8192", {}, "Failed to load model - not enough GPU memory"),
    ("profile_oom", "--max-model-len 8192", {}, "self.model_runner.profile_run()"),
    ("cudagraph_oom", "--max-model-len 8192", {}, "in _capture_cudagraphs"),
    ("roomy", "--max-model-len 8192", {"weights_gib": 22}, "No available memory for the cache"),
    (
        "roomy",
        "--max-model-len 8192 --kv-cache-dtype fp8",
        {"fp8_unsupported": 1},
        "FP8 KV cache is not supported",
    ),
]


@pytest.mark.parametrize(("preset", "args", "more", "said"), FAILURES)
def test_failed_start_names_its_cause_above_the_last_lines(launch, preset, args, more, said):
    server = launch(CAPTURED_ARGS + args, preset=preset, **more)
    assert server.code() == 1
    lines = server.log.splitlines()
    assert said in server.log
    assert "See root cause above" in lines[-1]
    assert said not in "\n".join(lines[-40:])


def test_longer_than_the_model_is_refused(launch):
    server = launch(EAGER + "--max-model-len 65536")
    assert server.code() == 1
    assert "max_model_len (65536) is greater than the derived max_model_len" in server.log


def test_port_in_use_ends_the_start(launch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = launch(f"{EAGER} --max-model-len 8192 --port {taken.getsockname()[1]}")
        assert server.code() == 1
    assert "error while attempting to bind on address" in server.log
    assert "address already in use" in server.log.splitlines()[-1]


def test_slow_start_keeps_talking_and_can_be_cleared(launch):
    server = launch(slow_start_s=0)
    server.ready()
    slow = launch(slow_start_s=6)
    seen: list[int] = []
    for _ in range(2):
        time.sleep(0.8)
        seen.append(slow.log.count("Loading safetensors checkpoint shards"))
    assert 0 < seen[0] < seen[1]
    with pytest.raises(httpx.ConnectError):
        slow.client.get("/health")
    slow.fault(slow_start_s=0)
    slow.ready()


def test_auto_length_is_the_longest_that_fits(launch):
    server = launch(EAGER + "--max-model-len auto").ready()
    assert server.client.get("/v1/models").json()["data"][0]["max_model_len"] == 10752


@pytest.mark.parametrize("early", [True, False])
def test_sigterm_ends_with_zero_at_once(launch, early):
    server = launch(startup_s=0.04, slow_start_s=20 if early else 0)
    if early:
        while "Loading safetensors" not in server.log:
            time.sleep(0.01)
    else:
        server.ready()
    begun = time.monotonic()
    server.process.terminate()
    assert server.code() == 0
    assert time.monotonic() - begun < 8
    assert early or "Application shutdown complete." in server.log


# --- endpoints ------------------------------------------------------------------------------


def parts(text: str) -> tuple[str, list[str], object]:
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.strip().split("\n")
    value = json.loads(body) if body.strip() else None
    return status, [h.split(":")[0] for h in headers], value


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def answered(response: httpx.Response) -> tuple[str, list[str], object]:
    head = f"HTTP/1.1 {response.status_code} {response.reason_phrase}"
    names = [k.decode().lower() for k, _ in response.headers.raw]
    return head, names, response.json() if response.content else None


@captured
def test_get_endpoints_answer_as_captured(healthy):
    for block in capture("endpoints.txt").split("== ")[1:]:
        request, _, rest = block.partition("\n")
        theirs = parts(rest)
        ours = answered(healthy.client.get(request.split()[1]))
        assert ours[:2] == theirs[:2], request
        assert shape(ours[2]) == shape(theirs[2]), request


@captured
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("unknown_model.txt", {"model": "nosuch"}),
        ("ctx_exceeded_maxtokens.txt", {"max_tokens": 9000}),
        ("ctx_exceeded_prompt.txt", {"prompt": "a " * 9000}),
    ],
)
def test_errors_are_the_captured_bytes(healthy, name, body):
    theirs = parts(capture(name))
    assert answered(healthy.complete(**body)) == theirs


@captured
def test_answers_have_the_captured_shape(healthy):
    completion = healthy.complete(max_tokens=16).json()
    assert shape(completion) == shape(json.loads(capture("completion.json")))
    chat = healthy.client.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 16},
    ).json()
    assert shape(chat) == shape(json.loads(capture("chat.json")))
    assert list(chat) == list(json.loads(capture("chat.json")))
    tokens = healthy.client.post("/tokenize", json={"prompt": "one two three"}).json()
    assert shape(tokens) == shape(json.loads(capture("tokenize.json")))
    assert tokens["count"] == 3


def metric_shape(text: str) -> tuple[set[str], dict[str, set[tuple[str, ...]]], dict[str, list]]:
    meta, labels, bounds = set(), {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            meta.add(line)
            continue
        name = line.split("{")[0].split(" ")[0]
        keys = re.findall(r'(\w+)="', line)
        labels.setdefault(name, set()).add(tuple(keys))
        if 'le="' in line:
            bound = re.search(r'le="([^"]+)"', line)[1]
            if bound not in bounds.setdefault(name, []):
                bounds[name].append(bound)
    return meta, labels, bounds


@captured
def test_metrics_have_the_captured_names_types_labels_and_buckets(healthy):
    assert healthy.complete().status_code == 200
    theirs = metric_shape(capture("metrics.txt"))
    ours = metric_shape(healthy.client.get("/metrics").text)
    assert theirs[0] - ours[0] == set()
    assert theirs[1] == ours[1]
    assert theirs[2] == ours[2]


def test_metrics_move_with_traffic(healthy):
    names = (
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_count",
        "http_requests_total",
    )
    before = [healthy.metric(n) for n in names]
    assert healthy.complete(max_tokens=10).json()["usage"]["completion_tokens"] == 10
    assert [healthy.metric(n) - b for n, b in zip(names, before, strict=True)] == [
        10,
        3,
        1,
        1,
        1,
        1,
    ]
    health = healthy.metric("http_requests_total")
    healthy.client.get("/health")
    assert healthy.metric("http_requests_total") == health


def test_streams_end_with_usage_and_done(healthy):
    with healthy.client.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ) as response:
        events = [line[6:] for line in response.iter_lines() if line]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events[-1] == "[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert len(said.split()) == 5


def test_both_lengths_together_may_exceed_the_context(healthy):
    error = healthy.complete(prompt=[1] * 8000, max_tokens=500).json()["error"]
    assert "you requested 500 output tokens" in error["message"]
    assert error["param"] == "input_tokens"
    assert healthy.complete(max_tokens=0).status_code == 400


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: -4\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"GET /x HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /no HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        (b"DELETE /health HTTP/1.1\r\nconnection: close\r\n\r\n", 405),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_what_is_not_proper_http(healthy, request_bytes, status):
    with socket.create_connection(("127.0.0.1", healthy.port), timeout=5) as s:
        s.sendall(request_bytes)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := s.recv(4096):
                data += part
    assert data.startswith(f"HTTP/1.1 {status} ".encode())


def test_connections_are_kept_and_chunked_bodies_read(healthy):
    body = b'{"prompt":"x","max_tokens":1}'
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = (
        b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", healthy.port), timeout=5) as s:
        s.sendall((head + chunked) * 2 + b"GET /ping HTTP/1.0\r\n\r\n")
        data = b""
        while part := s.recv(65536):
            data += part
    assert data.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 400), (b"[]", "application/json", 400), (b"{}", "text/plain", 415)],
)
def test_bad_bodies_are_refused(healthy, content, kind, status):
    answer = healthy.client.post("/v1/completions", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status


def test_api_key_guards_v1_only(launch):
    server = launch(EAGER + "--max-model-len 8192 --api-key s3cret").ready()
    assert server.client.get("/health").status_code == 200
    refused = server.client.get("/v1/models")
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    good = server.client.get("/v1/models", headers={"authorization": "Bearer s3cret"})
    assert good.status_code == 200
    assert "s3cret" not in server.log


# --- queueing -------------------------------------------------------------------------------


async def test_no_more_run_than_max_num_seqs_and_the_rest_wait(launch):
    server = launch(EAGER.replace("seqs 8", "seqs 2") + "--max-model-len 8192", tokens_per_s=40)
    server.ready()
    async with httpx.AsyncClient(base_url=str(server.client.base_url), timeout=20) as client:
        body = {"prompt": "a b c", "max_tokens": 20}
        tasks = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(5)]
        await asyncio.sleep(0.3)
        page = await asyncio.to_thread(server.metric, "vllm:num_requests_running")
        waiting = await asyncio.to_thread(server.metric, "vllm:num_requests_waiting")
        used = await asyncio.to_thread(server.metric, "vllm:kv_cache_usage_perc")
        assert (page, waiting) == (2, 3)
        assert 0 < used < 1
        assert (await client.get("/load")).json() == {"server_load": 5}
        server.fault(tokens_per_s=4000)
        assert {r.status_code for r in await asyncio.gather(*tasks)} == {200}
    assert server.metric("vllm:num_requests_waiting") == 0
    assert server.metric("vllm:request_queue_time_seconds_count") == 5
    assert server.metric("vllm:request_queue_time_seconds_sum") > 0.3


def test_a_client_that_hangs_up_aborts_its_request(launch):
    server = launch(tokens_per_s=1).ready()
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/completions", json={"prompt": "x"}, timeout=0.2)
    for _ in range(50):
        if server.metric("vllm:num_requests_running") == 0:
            break
        time.sleep(0.02)
    page = server.client.get("/metrics").text
    assert re.search(r'request_success_total\{.*"abort".*\} 1\.0', page)


# --- faults while it serves -----------------------------------------------------------------


@pytest.mark.parametrize("exit_zero", [0, 1])
def test_runtime_oom_answers_500_then_exits(launch, exit_zero):
    server = launch(
        CAPTURED_ARGS + "--max-model-len 16384", preset="runtime_oom", exit_zero=exit_zero
    ).ready()
    answers = [server.complete().status_code for _ in range(2)]
    dead = server.complete()
    assert [*answers, dead.status_code] == [200, 200, 500]
    assert dead.json()["error"]["message"].startswith("EngineCore encountered an issue")
    assert server.code() == (0 if exit_zero else 1)
    assert "torch.OutOfMemoryError: CUDA out of memory." in server.log
    assert "in execute_model" in server.log
    assert "vllm.v1.engine.exceptions.EngineDeadError" in server.log


def test_runtime_oom_is_cured_by_a_lower_share(launch):
    server = launch(
        CAPTURED_ARGS + "--max-model-len 16384 --gpu-memory-utilization 0.85", preset="runtime_oom"
    ).ready()
    assert [server.complete().status_code for _ in range(4)] == [200] * 4


def test_frozen_engine_looks_alive_but_never_decodes(launch):
    server = launch().ready()
    server.fault(frozen=True)
    assert server.client.get("/health").status_code == 200
    assert server.client.get("/v1/models").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/completions", json={"prompt": "x"}, timeout=0.3)
    assert server.client.get("/metrics", timeout=1).status_code == 200
    server.fault(frozen=True, frozen_metrics=True)
    with pytest.raises(httpx.ReadTimeout):
        server.client.get("/metrics", timeout=0.2)
    server.fault()
    assert server.complete().status_code == 200


def test_crash_at_the_first_request_exits_zero_with_no_cause(launch):
    server = launch(crash_after=1).ready()
    assert server.complete().status_code == 500
    assert server.code() == 0
    assert "EngineDeadError" in server.log
    assert "OutOfMemory" not in server.log


def test_fp8_becomes_unstable_and_sixteen_bit_does_not(launch):
    args = EAGER + "--max-model-len 8192 --kv-cache-dtype "
    bad = launch(args + "fp8", fp8_unstable_after=2).ready()
    assert [bad.complete().status_code for _ in range(2)] == [200, 500]
    assert bad.code() == 1
    assert "CUDA error: an illegal memory access was encountered" in bad.log
    good = launch(args + "auto", fp8_unstable_after=2).ready()
    assert [good.complete().status_code for _ in range(3)] == [200] * 3


def test_host_oom_is_a_sigkill_without_a_word(launch, tmp_path):
    marker = tmp_path / "oom"
    server = launch(host_oom_after=1, SANDBOX_OOM_MARKER=marker).ready()
    with pytest.raises(httpx.TransportError):
        server.complete()
    assert server.code() == -signal.SIGKILL
    assert marker.exists()
    assert "Error" not in server.log.split("Application startup complete.")[1]


def test_health_and_served_length_can_lie(launch):
    server = launch().ready()
    answer = server.client.post(
        "/sandbox/faults", json={"health_status": 500, "served_max_model_len": 4096}
    )
    assert answer.json()["health_status"] == 500
    assert server.client.get("/health").status_code == 500
    assert server.client.get("/v1/models").json()["data"][0]["max_model_len"] == 4096
    assert server.client.post("/sandbox/faults", json={"nope": 1}).status_code == 400
    assert server.client.post("/sandbox/faults", json={}).json()["health_status"] == 200
