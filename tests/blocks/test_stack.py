"""The inventory: every fault is named with its line and remedy; what is saved comes back."""

import time
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import Permanent
from blocks.stack import StackSpec, lock_name, parse_stack, read_stack_file
from blocks.stack_blocks import Stack, block_name, load_stack, save_stack
from blocks.stack_text import MAX_CHARACTERS, MAX_FAULTS
from blocks.vllm_server import VllmServer
from tests.conftest import PrefectServer

BASE = """\
name: p
services:
  a:
    url: http://h:8000
    runtime: {kind: docker, container: c}
"""
COMMAND = "{kind: command, restart: [r], stop: [s], status: [t], logs: [l], status_format: json}"


def refused(text: str) -> str:
    with pytest.raises(Permanent) as e:
        parse_stack(text, "s.yaml")
    return str(e.value)


# Extra lines at the service's level, the place that is named, and words of the remedy.
IN_SERVICE = {
    "unknown key": ("laddder: {}", "s.yaml:6: services.a.laddder: unknown key", "mean ladder?"),
    "a server's own number": (
        "gpu_memory_utilization: 92",
        "s.yaml:6: services.a.gpu_memory_utilization: unknown key",
        "under `ladder`",
    ),
    "GB": ("gpu: {name: x, vram_gib: 12GB}", "s.yaml:6: services.a.gpu.vram_gib:", "write 12 "),
    "minutes": (
        "policy: {start_timeout_s: 10m}",
        "s.yaml:6: services.a.policy.start_timeout_s:",
        "number of seconds, without a unit: write 600",
    ),
    "percent": ("slo: {error_rate: 5}", "s.yaml:6: services.a.slo.error_rate:", "5 % is 0.05"),
    "percent sign": ("slo: {error_rate: 5%}", "services.a.slo.error_rate:", "write 0.05"),
    "infinite": ("policy: {poll_s: .inf}", "services.a.policy.poll_s:", "at most 60"),
    "infinite start": (
        "policy: {start_timeout_s: .inf}",
        "services.a.policy.start_timeout_s:",
        "finite",
    ),
    "no attempts": ("policy: {attempts: 0}", "services.a.policy.attempts:", "at least 1 (found 0)"),
    "half an attempt": ("policy: {attempts: 1.5}", "services.a.policy.attempts:", "whole number"),
    "autonomy": (
        "policy: {autonomy: maybe}",
        "services.a.policy.autonomy:",
        "'observe', 'approve' or 'auto' (found 'maybe')",
    ),
    "share of 92": (
        "ladder: {gpu_memory_utilization: [92, 85]}",
        "s.yaml:6: services.a.ladder.gpu_memory_utilization:",
        "at most 1",
    ),
    "ladder up": (
        "ladder: {max_model_len: [8192, 16384]}",
        "s.yaml:6: services.a.ladder.max_model_len:",
        "does not go down at every rung",
    ),
    "ladder of k": ("ladder: {max_model_len: [16k]}", "ladder.max_model_len.0:", "write 16384"),
    "one rung": ("ladder: {max_model_len: 8192}", "services.a.ladder.max_model_len:", "a list"),
    "serving kind": (
        "serving: {kind: yml, path: x}",
        "s.yaml:6: services.a.serving: kind:",
        "'arguments', 'yaml', 'env-file'",
    ),
    "serving without kind": ("serving: {path: x}", "s.yaml:6: services.a.serving: kind:", "yaml"),
    "serving field": (
        "serving: {kind: yaml, path: x, key_map: {max_len: y}}",
        "services.a.serving.key_map:",
        "use one of",
    ),
    "key of a branch": (
        "serving: {kind: yaml, path: x, keys: {}}",
        "s.yaml:6: services.a.serving.keys: unknown key",
        "key_map",
    ),
    "twice": ("url: http://other:1", "s.yaml:6: services.a.url: written twice", "line 4"),
    "raw key": ("api_key: sk-verysecretvalue", "s.yaml:6: services.a.api_key:", "${ENV_NAME}"),
    "number as key": ("api_key: 12345678", "s.yaml:6: services.a.api_key:", "must be text"),
    "nothing": ("policy:", "s.yaml:6: services.a.policy:", "a section with keys: autonomy"),
}


@pytest.mark.parametrize("case", IN_SERVICE)
def test_a_fault_in_a_service_is_named_with_its_line_and_remedy(case: str) -> None:
    line, place, remedy = IN_SERVICE[case]
    message = refused(f"{BASE}    {line}\n")
    assert place in message and remedy in message, message
    assert "\n" not in message, "one fault, one line"


def b(
    url: str = "http://b:1", runtime: str = "{kind: docker, container: d}", more: str = ""
) -> str:
    return f"{BASE}  b:\n    url: {url}\n    runtime: {runtime}\n{more}"


IN_STACK = {
    "one container": (b(runtime="{kind: docker, container: c}"), "8: services.b.runtime.container"),
    "one server": (b("http://H:8000/"), "s.yaml:7: services.b.url: the same server as services.a"),
    "one server by port": (
        BASE.replace(":8000", "") + b("http://h:80")[len(BASE) :],
        "s.yaml:7: services.b.url: the same server",
    ),
    "one file": (
        b(
            more="    serving: {kind: yaml, path: /etc//v.yaml}\n  x:\n    url: http://x\n"
            f"    runtime: {COMMAND}\n    serving: {{kind: yaml, path: /etc/v.yaml}}\n"
        ),
        "s.yaml:13: services.x.serving.path: the same file as services.b",
    ),
    "one engine by two names": (
        BASE.replace("container: c", "container: c, host: one")
        + "  b:\n    url: http://b:1\n    runtime: {kind: docker, container: c, host: two}\n"
        "docker_hosts: {one: {base_url: tcp://e:1}, two: {base_url: tcp://e:1/}}\n",
        "services.b.runtime.container: the same container as services.a",
    ),
    "unknown host": (
        b(runtime="{kind: docker, container: d, host: nope}"),
        "s.yaml:8: services.b.runtime.host: 'nope' is not under docker_hosts (known: local)",
    ),
    "a string for a command": (
        b(runtime=COMMAND.replace("[r]", "systemctl restart vllm")),
        "services.b.runtime.restart: must be a list of words, not one string: no shell is used",
    ),
    "command and arguments": (b(runtime=COMMAND), "s.yaml:6: services.b: serving.kind 'arguments'"),
    "bad service name": (
        BASE.replace("  a:", "  A_x:"),
        "s.yaml:3: services.A_x: 'A_x' is no name",
    ),
    "two dashes": (BASE.replace("  a:", "  a--x:"), "s.yaml:3: services.a--x: 'a--x' is no name"),
    "bad host name": (
        BASE + "docker_hosts: {X_Y: {}}\n",
        "s.yaml:6: docker_hosts.X_Y: 'X_Y' is no",
    ),
    "bad stack name": (BASE.replace("p\n", "My Platform\n", 1), "s.yaml:1: name: 'My Platform'"),
    "number as name": (BASE.replace("p\n", "5\n", 1), "s.yaml:1: name: must be text"),
    "zone": (BASE + "timezone: PST\n", "s.yaml:6: timezone: 'PST' is no IANA time zone"),
    "zone as path": (BASE + "timezone: ../x\n", "s.yaml:6: timezone: '../x' is no IANA time zone"),
    "window zone": (
        BASE + 'freeze: [{start: "01:00", end: "02:00", timezone: CEST/x}]\n',
        "s.yaml:6: freeze.0.timezone: timezone 'CEST/x' is not an IANA name",
    ),
    "date without time": (
        BASE + "freeze: [{from: 2026-12-24, until: 2026-12-27}]\n",
        "s.yaml:6: freeze.0.from: needs date, time and offset",
    ),
    "window alone": (
        BASE + "maintenance: {weekdays: [sat]}\n",
        "s.yaml:6: maintenance: must be a l",
    ),
    "no url": (b("http://"), "services.b.url: 'http://' is no http(s) URL"),
    "port": (b("http://h:99999"), "s.yaml:7: services.b.url: is no http(s) URL"),
    "v1": (b("http://q:8000/v1/"), "s.yaml:7: services.b.url: ends in /v1: leave that away"),
    "docker over http": (
        BASE + "docker_hosts: {x: {base_url: 'http://a'}}\n",
        "s.yaml:6: docker_hosts.x.base_url: 'http://a' is no Docker address",
    ),
    "no service": ("name: p\nservices: {}\n", "s.yaml:2: services: at least one service is needed"),
    "services without value": ("name: p\nservices:\n", "s.yaml:2: services: must be a section"),
    "no services": ("name: p\n", "s.yaml:1: services: is missing; add it"),
    "service is a number": (
        "name: p\nservices: {a: 5}\n",
        "s.yaml:2: services.a: must be a section",
    ),
    "list on top": (
        "- a\n",
        "s.yaml:1: expected keys such as name: and services: at the top, found a l",
    ),
    "text on top": ("hello", "s.yaml:1: expected keys such as name: and services: at the top"),
    "empty": ("", "s.yaml:1: expected keys such as name: and services: at the top, found nothing"),
    "comment only": ("# x\n", "s.yaml:1: expected keys such as name:"),
    "tab": ("name: p\n\tservices: {}\n", "s.yaml:2: no valid YAML: a tab; indent with spaces"),
    "colon": ("name: a: b\n", "s.yaml:1: no valid YAML: a second `:`"),
    "hash": (
        BASE + "slack: {channel: #a}\n",
        "no valid YAML: a value is missing; a text that begins",
    ),
    "two documents": ("name: p\n---\nname: q\n", "s.yaml:2: no valid YAML: a second document"),
    "tag": ("name: !!python/name:os.system x\n", "s.yaml:1: no valid YAML: a !tag; write plain"),
    "alias": ("name: *x\n", "s.yaml:1: no valid YAML: an alias (*name) whose anchor"),
    "control character": ("name: p\nx: \x00\n", "s.yaml:2: a character that YAML does not allow"),
    "list as key": ("? [a, b]\n: 1\n", "s.yaml:1: a key must be a word"),
    "itself": ("a: &a [*a]\n", "expands to more than"),
}


@pytest.mark.parametrize("case", IN_STACK)
def test_a_fault_of_the_stack_is_named_with_its_line(case: str) -> None:
    text, words = IN_STACK[case]
    assert words in refused(text)


SECRET = "hunter2verysecret"


@pytest.mark.parametrize(
    "text",
    [
        f"{BASE}    api_key: {SECRET}\n",
        f"{BASE}    api_key: [{SECRET}]\n",
        f"{BASE}    api_key: {{value: {SECRET}}}\n",
        f"{BASE}    api_key: ${{A}}\n    api_key: {SECRET}\n",
        f"{BASE}slack: {{token: {SECRET}, channel: x}}\n",
        f"{BASE}slack: {{token: [{SECRET}], channel: x}}\n",
        f"{BASE}slack: sk-{SECRET}\n",
        f"{BASE}docker_hosts: {{x: {{base_url: 'tcp://u:{SECRET}@h:1'}}}}\n",
        f"{BASE}docker_hosts: {{x: {{base_url: 'http://u:{SECRET}@h:1'}}}}\n",
        b(f"http://u:{SECRET}@h"),
        b(f"ftp://u:{SECRET}@h"),
        b(f"http://h/?key={SECRET}"),
        b(f"http://u:{SECRET}@h:99999"),
        b(runtime=COMMAND.replace("[r]", f"curl -H {SECRET}")),
        f"name: [{SECRET}\n",
        f"- {SECRET}\n",
        f"{BASE}    policy: 'password {SECRET}'\n",
    ],
)
def test_what_may_be_a_secret_is_never_repeated(text: str) -> None:
    assert SECRET not in refused(text)


def test_a_service_may_be_named_like_a_kind() -> None:
    text = BASE.replace("  a:", "  docker:") + "    polcy: {}\n"
    assert "s.yaml:6: services.docker.polcy: unknown key" in refused(text)


def test_two_hosts_may_use_the_same_path_and_the_same_socket() -> None:
    one = f"    runtime: {COMMAND}\n    serving: {{kind: env-file, path: /etc/vllm.env}}\n"
    text = (
        f"name: p\nservices:\n  a:\n    url: http://a:1\n    work_queue: one\n{one}"
        f"  b:\n    url: http://b:1\n    work_queue: two\n{one}"
        "  c: {url: 'http://localhost', work_queue: one, runtime: {kind: docker, container: v}}\n"
        "  d: {url: 'http://localhost', work_queue: two, runtime: {kind: docker, container: v}}\n"
    )
    assert set(parse_stack(text).services) == {"a", "b", "c", "d"}


def test_anchors_and_merges_work_and_keep_their_lines() -> None:
    text = (
        "name: p\nservices:\n"
        "  a: &a\n    url: http://a:1\n    runtime: {kind: docker, container: x}\n"
        "    policy: {attempts: 99}\n"
        "  b: {<<: *a, url: http://b:1, runtime: {kind: docker, container: y}}\n"
    )
    message = refused(text)
    assert "s.yaml:6: services.a.policy.attempts" in message
    assert "s.yaml:6: services.b.policy.attempts" in message
    assert len(parse_stack(text.replace("99", "9")).services) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 20_000,
        "a: " + "{a: " * 5_000,
        "a: " + "[" * 3_000 + "]" * 3_000,
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
        "name: " + "x" * 5_000_000,
        "- " * 100_000,
    ],
    ids=["nested lists", "nested sections", "closed", "bomb", "5 MB", "nested items"],
)
def test_hostile_text_is_refused_in_bounded_time(text: str) -> None:
    began = time.process_time()
    assert len(refused(text)) < 1000
    assert time.process_time() - began < 20, "5 s on an idle machine"


def test_of_very_many_faults_the_first_are_shown() -> None:
    lines = refused(BASE + "".join(f"k{i}: 1\n" for i in range(200))).splitlines()
    assert len(lines) == MAX_FAULTS + 1 and "175 more" in lines[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: p\nx: \xff\xfe\n", "s.yaml:2: is not UTF-8"),
        (b"\xff\xfen\x00a\x00", "s.yaml:1: is not UTF-8"),
        (b"\xef\xbb\xbfname: p\n", "services: is missing"),
        (b"x" * (5 << 20), f"at most {MAX_CHARACTERS:,}"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(Permanent, match=".") as e:
        read_stack_file(path)
    assert words in str(e.value)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="cannot be read: Is a directory"):
        read_stack_file(tmp_path)
    with pytest.raises(Permanent, match="no.yaml: cannot be read: No such file"):
        read_stack_file(tmp_path / "no.yaml")


def test_autonomy_of_a_procedure_is_found_however_it_is_spelled() -> None:
    policy = (
        parse_stack(
            BASE + "    policy: {autonomy_for: {remediate_oom: auto, apply-serving: observe}}\n"
        )
        .services["a"]
        .policy
    )
    assert policy.autonomy_of("remediate-oom") == "auto"
    assert policy.autonomy_of("apply-serving") == "observe"
    assert policy.autonomy_of("rollback-serving") == "approve"


def test_names_of_different_stacks_never_meet() -> None:
    assert block_name("a", "b-c") != block_name("a-b", "c")
    assert lock_name("a", "b-c") != lock_name("a-b", "c")


# ---- against a real Prefect server --------------------------------------------------------------

FULL = f"""\
name: round-trip
description: "everything: once"
timezone: Europe/Berlin
schedules: true
docker_hosts:
  gpu: {{base_url: "tcp://gpu:2376", tls_ca: /ca.pem, timeout_s: 7.5, version: "1.41"}}
services:
  one:
    url: https://one:8443
    api_key: ${{ONE_KEY}}
    tls_verify: false
    runtime: {{kind: docker, host: gpu, container: vllm, stop_timeout_s: 12.5}}
    serving: {{kind: arguments, env: {{max_model_len: MAX_LEN}}}}
    served_model_name: m
    model: {{name: org/m, quantisation: awq, config_json: /m/config.json}}
    gpu: {{name: L4, vram_gib: 23.5, count: 2}}
    slo: {{p90_latency_s: 30, error_rate: 0.05}}
    ladder: {{max_model_len: [16384, 8192], max_num_seqs: [4, 1], fit: exact}}
    policy: {{autonomy: auto, autonomy_for: {{remediate-oom: observe}}, stabilisation_s: 0}}
    work_queue: gpu
    escalate_to: "#one"
  two:
    url: http://two:8000
    runtime: {COMMAND}
    serving:
      kind: yaml
      path: /x
      key_map: {{dtype: a.b}}
      value_map: {{kv_cache_dtype: {{auto: fp16}}}}
slack: {{token: secret:slack, channel: "#x", timeout_s: 3}}
freeze:
  - {{from: 2026-12-24T00:00:00+01:00, until: 2026-12-27T00:00:00+01:00, reason: holidays}}
maintenance:
  - {{weekdays: [sat], nth: 1, start: "02:00", end: "06:00", timezone: America/Los_Angeles}}
  - {{start: "23:00", end: "01:00"}}
"""


async def test_what_is_saved_comes_back(prefect_server: PrefectServer) -> None:
    spec = parse_stack(FULL)
    await save_stack(spec)
    assert await load_stack("round-trip") == spec
    smaller = spec.model_copy(
        update={"services": {"one": spec.services["one"]}, "slack": None, "freeze": ()}
    )
    await save_stack(smaller)
    assert await load_stack("round-trip") == StackSpec.model_validate(smaller.model_dump())


async def test_two_stacks_keep_to_themselves(prefect_server: PrefectServer) -> None:
    one = parse_stack(BASE.replace("name: p", "name: x").replace("  a:", "  y-z:"))
    two = parse_stack(
        BASE.replace("name: p", "name: x-y").replace("  a:", "  z:").replace("h:", "k:")
    )
    await save_stack(one)
    await save_stack(two)
    assert await load_stack("x") == one
    assert await load_stack("x-y") == two


async def edit(kind: Any, name: str, **values: Any) -> None:
    """As the UI does it: a PATCH of the document, checked against nothing of ours."""
    from prefect import get_client
    from prefect.client.schemas.actions import BlockDocumentUpdate

    async with get_client() as client:
        document = await client.read_block_document_by_name(name, kind.get_block_type_slug())
        update = BlockDocumentUpdate(data=values, merge_existing_data=True)
        await client.update_block_document(document.id, update)


async def test_a_block_edited_into_nonsense_is_named(prefect_server: PrefectServer) -> None:
    await save_stack(parse_stack(BASE.replace("name: p", "name: edited")))
    await edit(VllmServer, "edited--a", url="nonsense", policy={"attempts": "many"})
    with pytest.raises(Permanent) as e:
        await load_stack("edited")
    assert "block vllm-server/edited--a: services.a.url: 'nonsense' is no http(s) URL" in str(
        e.value
    )
    assert "services.a.policy.attempts: must be a whole number" in str(e.value)
    await edit(VllmServer, "edited--a", url="http://new:1", policy={"attempts": 2})
    assert (await load_stack("edited")).services["a"].url == "http://new:1"
    await edit(Stack, "edited", timezone="Mars/X", services={"a": "vllm", "gone": "vllm"})
    with pytest.raises(Permanent, match="block vllm-server/edited--gone does not exist"):
        await load_stack("edited")
    await edit(Stack, "edited", services={"a": "vllm"})
    with pytest.raises(Permanent, match="block stack/edited: timezone: 'Mars/X'"):
        await load_stack("edited")


async def test_an_unknown_stack_says_how_to_register(prefect_server: PrefectServer) -> None:
    for name in ("nowhere", "My Stack", "../x"):
        with pytest.raises(Permanent, match="is not registered; run: runbooks apply"):
            await load_stack(name)
