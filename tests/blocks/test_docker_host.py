"""The pure parts of the docker runtime, with inspect documents made from a capture."""

import copy
import gc
import itertools
import json
import os
import struct
import warnings
from datetime import UTC, datetime

import pytest
import requests
from docker.errors import APIError, DockerException
from pydantic import ValidationError

from blocks import docker_log
from blocks.docker_errors import Conflict, Missing, mapped
from blocks.docker_host import DockerHost, DockerHostSpec, Engine
from blocks.docker_inspect import (
    CHANGE_LABEL,
    links_of,
    masked_words,
    policy_of,
    refusal,
    settings_diff,
    sharing_network,
    state_of,
    time_of,
)
from blocks.docker_successor import edited, new_body
from blocks.errors import Permanent, Transient, Unsafe
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource

ID = "821053ff1ea1d64a66b3e812489e9ca542912026b52bc65c7d712380b5342240"
CONTAINER = {
    # From `docker inspect` (Engine 20.10) of a vLLM 0.32 container that the kernel had killed.
    "Id": ID,
    "Name": "/vllm",
    "Image": "sha256:b1296671288d670cc402b1299d7e7b8d68a7fbd23550b1faa1ebb1b1c9a6edfb",
    "RestartCount": 0,
    "State": {
        "Status": "exited",
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": True,
        "Dead": False,
        "Pid": 0,
        "ExitCode": 137,
        "Error": "",
        "StartedAt": "2026-11-20T23:42:49.966513033Z",
        "FinishedAt": "2026-11-20T23:43:36.69229337Z",
    },
    "HostConfig": {
        "Binds": ["/models:/models:ro"],
        "NetworkMode": "default",
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "Links": None,
        "DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}],
        "ShmSize": 1073741824,
        "Runtime": "nvidia",
        "LogConfig": {"Type": "json-file", "Config": {}},
    },
    "Mounts": [
        {
            "Type": "bind",
            "Source": "/models",
            "Destination": "/models",
            "Mode": "ro",
            "RW": False,
            "Propagation": "rprivate",
        },
        {
            "Type": "volume",
            "Name": "4e8b48c79c0c",
            "Source": "/var/lib/docker/volumes/4e8b48c79c0c/_data",
            "Destination": "/root/.cache",
            "Driver": "local",
            "Mode": "",
            "RW": True,
            "Propagation": "",
        },
    ],
    "Config": {
        "Hostname": "821053ff1ea1",
        "Domainname": "",
        "User": "",
        "ExposedPorts": {"8000/tcp": {}},
        "Tty": False,
        "Env": ["HF_HUB_OFFLINE=1", "HF_TOKEN=hf_abc", "PATH=/usr/bin", "MAX_LEN=8192"],
        "Cmd": ["--model", "/models/tiny", "--max-model-len", "8192", "--api-key", "sk-1", "sk-2"],
        "Image": "vllm-lab:0.32.0",
        "Volumes": {"/root/.cache": {}},
        "WorkingDir": "/tmp",
        "Entrypoint": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "Labels": {},
        "FieldOfTomorrow": {"x": 1},
    },
    "NetworkSettings": {
        "Networks": {
            "bridge": {
                "IPAMConfig": None,
                "Links": None,
                "Aliases": None,
                "NetworkID": "df045314ab12",
                "IPAddress": "172.17.0.2",
                "MacAddress": "02:42:ac:11:00:02",
                "DriverOpts": None,
            }
        }
    },
}
SMALLER = (ServingConfig(max_model_len=8192), ServingConfig(max_model_len=4096))
OLD_API, NEW_API = (1, 41), (1, 44)


def container(**parts) -> dict:
    """The capture with parts of it replaced: Config={...} merges, Name="..." replaces."""
    doc = copy.deepcopy(CONTAINER)
    for key, value in parts.items():
        doc[key] = {**doc[key], **value} if isinstance(value, dict) else value
    return doc


def body(doc: dict, api=OLD_API, change=None, image="vllm-lab:0.32.0") -> dict:
    return new_body(doc, change or edited(doc, ArgumentsSource(), *SMALLER), "run.1", image, api)


class TestState:
    def test_a_container_killed_by_the_kernel(self):
        state = state_of(CONTAINER)
        assert (state.phase, state.exit_code, state.oom_killed) == ("exited", 137, True)
        assert state.started_at == datetime(2026, 11, 20, 23, 42, 49, 966513, UTC)
        assert state.instance == ID and state.detail == ""

    @pytest.mark.parametrize(
        ("state", "phase", "exit_code", "detail"),
        [
            ({"Status": "running", "Running": True, "OOMKilled": False}, "running", None, ""),
            ({"Status": "restarting", "Running": True, "Restarting": True}, "restarting", 137, ""),
            ({"Status": "paused", "Running": True, "Paused": True}, "unknown", 137, "paused"),
            ({"Status": "dead", "Dead": True}, "exited", 137, "dead"),
            ({"Status": "removing"}, "unknown", 137, "removing"),
            (
                {"Status": "running", "Health": {"Status": "starting"}},
                "running",
                None,
                "health: starting",
            ),
            (
                {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 0},
                "exited",
                None,
                "created, never started",
            ),
            (
                {
                    "Status": "created",
                    "StartedAt": "0001-01-01T00:00:00Z",
                    "ExitCode": 127,
                    "Error": "no such device",
                },
                "exited",
                127,
                "no such device; created, never started",
            ),
        ],
    )
    def test_phases(self, state, phase, exit_code, detail):
        found = state_of(container(State=state))
        assert (found.phase, found.exit_code, found.detail) == (phase, exit_code, detail)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0001-01-01T00:00:00Z", None),
            ("", None),
            (None, None),
            ("2026-11-20T23:43:36Z", datetime(2026, 11, 20, 23, 43, 36, tzinfo=UTC)),
            ("2026-11-21T00:43:36.5+01:00", datetime(2026, 11, 20, 23, 43, 36, 500000, UTC)),
        ],
    )
    def test_times(self, text, expected):
        assert time_of(text) == expected


class TestSuccessor:
    def test_all_but_the_arguments_is_copied_even_what_is_unknown_here(self):
        doc = container()
        made = body(doc)
        assert (
            made["Cmd"]
            == ["--model", "/models/tiny", "--max-model-len", "4096"] + (doc["Config"]["Cmd"][4:])
        )
        assert made["Entrypoint"] == doc["Config"]["Entrypoint"]
        assert made["FieldOfTomorrow"] == {"x": 1}
        for key in ("DeviceRequests", "ShmSize", "Runtime"):
            assert made["HostConfig"][key] == doc["HostConfig"][key]

    def test_the_hostname_is_copied_only_if_somebody_chose_it(self):
        assert "Hostname" not in body(container())
        assert body(container(Config={"Hostname": "gpu1"}))["Hostname"] == "gpu1"

    def test_it_never_starts_by_itself_and_carries_its_mark(self):
        doc = container(HostConfig={"RestartPolicy": {"Name": "always"}})
        doc["Config"]["Labels"] = {"a": "b", CHANGE_LABEL: "earlier"}
        made = body(doc)
        assert made["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert made["Labels"] == {"a": "b", CHANGE_LABEL: "run.1"}

    def test_anonymous_volumes_are_carried_over_by_name(self):
        doc = container()
        doc["HostConfig"]["Binds"].append("/lone")
        doc["HostConfig"]["Mounts"] = [{"Type": "volume", "Target": "/cache/"}]
        doc["Mounts"] += [
            {"Type": "volume", "Name": "lone", "Destination": "/lone", "RW": False},
            {"Type": "volume", "Name": "cache", "Destination": "/cache", "RW": True},
        ]
        made = body(doc)["HostConfig"]
        assert made["Binds"] == [
            "/models:/models:ro",
            "4e8b48c79c0c:/root/.cache:nocopy",
            "lone:/lone:ro,nocopy",
        ]
        assert made["Mounts"] == [{"Type": "volume", "Target": "/cache/", "Source": "cache"}]

    def test_a_cleared_entrypoint_is_not_filled_from_the_image(self):
        assert body(container(Config={"Entrypoint": None}))["Entrypoint"] == [""]

    @pytest.mark.parametrize(
        ("entrypoint", "command", "expected"),
        [
            (
                ["vllm", "serve", "--max-model-len", "8192"],
                ["--dtype", "auto"],
                (["vllm", "serve", "--max-model-len", "4096"], ["--dtype", "auto"]),
            ),
            (
                ["vllm", "serve"],
                ["m", "--max-model-len=8192"],
                (["vllm", "serve"], ["m", "--max-model-len=4096"]),
            ),
            (
                ["sh", "-c", "exec vllm serve m --max-model-len 8192"],
                None,
                (["sh", "-c", "exec vllm serve m --max-model-len 4096"], []),
            ),
        ],
        ids=["entrypoint", "command", "shell"],
    )
    def test_flags_are_edited_where_they_stand(self, entrypoint, command, expected):
        doc = container(Config={"Entrypoint": entrypoint, "Cmd": command})
        change = edited(doc, ArgumentsSource(), *SMALLER)
        assert (change["Entrypoint"], change["Cmd"]) == expected

    def test_a_flag_that_goes_leaves_command_and_entrypoint_apart(self):
        doc = container(
            Config={"Entrypoint": ["vllm", "serve", "--enforce-eager"], "Cmd": ["--port", "1"]}
        )
        change = edited(doc, ArgumentsSource(), ServingConfig(enforce_eager=True), ServingConfig())
        assert (change["Entrypoint"], change["Cmd"]) == (["vllm", "serve"], ["--port", "1"])

    def test_only_the_variable_of_the_field_is_touched(self):
        env = ["A=1", "MAX_LEN=8192", "ODD", "A=2"]
        doc = container(Config={"Cmd": [], "Env": env})
        source = ArgumentsSource(env={"max_model_len": "MAX_LEN"})
        assert edited(doc, source, *SMALLER)["Env"] == ["A=1", "MAX_LEN=4096", "ODD", "A=2"]
        doc["Config"]["Env"] = ["A=1"]
        change = edited(doc, source, ServingConfig(), ServingConfig(max_model_len=4096))
        assert change["Env"] == ["A=1", "MAX_LEN=4096"]

    def test_a_shared_network_forbids_what_belongs_to_it(self):
        doc = container(
            HostConfig={"NetworkMode": "container:abc"},
            Config={"Hostname": "other", "MacAddress": "02:00:00:00:00:01"},
        )
        made = body(doc)
        assert not {"Hostname", "Domainname", "ExposedPorts", "MacAddress"} & made.keys()
        assert made["NetworkingConfig"]["EndpointsConfig"] == {}

    def test_networks_by_api_version(self):
        doc = container(HostConfig={"NetworkMode": "net-b-id"})
        doc["NetworkSettings"]["Networks"] = {
            "a": {"Aliases": [ID[:12], "llm"], "NetworkID": "net-a-id"},
            "b": {
                "IPAMConfig": {"IPv4Address": "10.0.0.2"},
                "NetworkID": "net-b-id0",
                "IPAddress": "10.0.0.2",
                "MacAddress": "02:42:0a:00:00:02",
                "DriverOpts": {"x": "y"},
            },
            "c": {"MacAddress": "02:42:11:22:33:44", "IPAddress": "10.1.0.2"},
        }
        b = {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "DriverOpts": {"x": "y"}}
        assert body(doc)["NetworkingConfig"]["EndpointsConfig"] == {"b": b}
        assert body(doc, NEW_API)["NetworkingConfig"]["EndpointsConfig"] == {
            "a": {"Aliases": ["llm"]},
            "b": b,
            "c": {"MacAddress": "02:42:11:22:33:44"},
        }

    def test_links_are_given_back_as_they_were_declared(self):
        doc = container(HostConfig={"Links": ["/db:/vllm/database"]})
        assert body(doc)["HostConfig"]["Links"] == ["db:database"]
        assert links_of(container(HostConfig={"Links": ["/db:/vllm.runbooks-old/database"]})) == [
            "db:database"
        ]


class TestSettingsDiff:
    def test_ids_times_state_and_addresses_do_not_count(self):
        other = container(
            Id="f" * 64,
            Name="/vllm.runbooks-old",
            RestartCount=7,
            State={"Status": "running"},
            Config={"Hostname": "f" * 12, "Labels": {CHANGE_LABEL: "run.1"}, "Volumes": {}},
            HostConfig={"Binds": ["/models:/models:ro", "4e8b48c79c0c:/root/.cache:nocopy"]},
        )
        other["Config"]["Volumes"] = CONTAINER["Config"]["Volumes"]
        other["Mounts"][1]["Mode"] = "nocopy"
        other["NetworkSettings"]["Networks"]["bridge"] |= {
            "IPAddress": "172.17.0.9",
            "Aliases": ["f" * 12],
            "MacAddress": "02:42:ac:11:00:09",
        }
        assert settings_diff(container(), other) == {}

    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"Image": "sha256:0"}, "Image"),
            ({"Config": {"User": "app"}}, "Config.User"),
            ({"Config": {"Hostname": "gpu1"}}, "Config.Hostname"),
            ({"Config": {"Labels": {"a": "b"}}}, "Config.Labels.a"),
            ({"HostConfig": {"DeviceRequests": None}}, "HostConfig.DeviceRequests"),
            ({"HostConfig": {"RestartPolicy": {"Name": "always"}}}, "HostConfig.RestartPolicy"),
            ({"HostConfig": {"Links": ["/db:/vllm/db"]}}, "HostConfig.Links"),
        ],
    )
    def test_what_an_operator_set_counts(self, change, key):
        assert list(settings_diff(container(), container(**change))) == [key]

    def test_another_volume_at_the_same_place_counts(self):
        other = container()
        other["Mounts"][1]["Name"] = "5555"
        assert list(settings_diff(container(), other)) == ["Mounts./root/.cache"]

    def test_another_network_or_alias_counts(self):
        other = container()
        other["NetworkSettings"]["Networks"]["bridge"]["Aliases"] = ["llm"]
        other["NetworkSettings"]["Networks"]["mesh"] = {}
        assert settings_diff(container(), other) == {
            "Networks.bridge": ({"connected": True}, {"connected": True, "Aliases": ["llm"]}),
            "Networks.mesh": (None, {"connected": True}),
        }

    def test_secrets_are_masked(self):
        cmd = ["--max-model-len", "4096", "--api-key", "sk-3", "sk-4", "--max-num-seqs", "4"]
        other = container(Config={"Env": ["HF_TOKEN=hf_new", "MAX_LEN=4096"], "Cmd": cmd})
        found = settings_diff(container(), other)
        assert "sk-" not in repr(found) and "hf_" not in repr(found)
        assert found["Config.Env.HF_TOKEN"] == ("***", "***")
        assert found["Config.Env.MAX_LEN"] == ("8192", "4096")
        assert found["Config.Cmd"][1] == [
            *cmd[:3],
            "***",
            "***",
            *cmd[5:],
        ]

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (["--api-key=sk", "--port", "1"], ["--api-key=***", "--port", "1"]),
            (["--max-num-batched-tokens", "8192"], ["--max-num-batched-tokens", "8192"]),
            (["--tokenizer", "m"], ["--tokenizer", "m"]),
            (
                ["sh", "-c", "vllm serve m --api-key  sk --port 1"],
                ["sh", "-c", "vllm serve m --api-key  *** --port 1"],
            ),
        ],
    )
    def test_masked_words(self, words, shown):
        assert masked_words(words) == shown


class TestRefusal:
    @pytest.mark.parametrize(
        ("parts", "recreate", "kind", "words"),
        [
            (
                {"Config": {"Labels": {"com.docker.compose.project": "llm"}}},
                True,
                Unsafe,
                "compose",
            ),
            ({"Config": {"Labels": {"com.docker.compose.project": "llm"}}}, False, None, ""),
            ({"Config": {"Labels": {"com.docker.swarm.task.id": "1"}}}, False, Unsafe, "Swarm"),
            ({"Config": {"Labels": {"io.kubernetes.pod.name": "p"}}}, True, Unsafe, "Kubernetes"),
            ({"HostConfig": {"AutoRemove": True}}, False, Unsafe, "--rm"),
            ({"State": {"Paused": True, "Status": "paused"}}, True, Permanent, "docker unpause"),
            ({"State": {"Dead": True, "Status": "dead"}}, True, Permanent, "docker rm"),
            ({}, True, None, ""),
        ],
    )
    def test_refusals(self, parts, recreate, kind, words):
        error = refusal(container(**parts), recreate)
        assert type(error) is (kind or type(None)) and words in str(error or "")

    def test_containers_in_its_network_namespace_are_found(self):
        others = [
            {"Names": ["/tail"], "HostConfig": {"NetworkMode": f"container:{ID}"}},
            {"Names": ["/else"], "HostConfig": {"NetworkMode": "container:" + "0" * 64}},
            {"Names": ["/plain"], "HostConfig": {}},
        ]
        assert sharing_network(container(), others) == ["tail"]

    def test_dockers_empty_policy_means_no(self):
        doc = container(HostConfig={"RestartPolicy": {"Name": "", "MaximumRetryCount": 0}})
        assert policy_of(doc) == {"Name": "no", "MaximumRetryCount": 0}


class TestLog:
    def test_frames_are_read_however_they_are_cut(self):
        payloads = [b"one\n", b"", b"x" * 300, b"two\n"]
        stream = b"".join(
            struct.pack(">BxxxL", 1 + i % 2, len(p)) + p for i, p in enumerate(payloads)
        )
        for size in (1, 3, 7, 8, 9, 64, 10_000):
            chunks = (stream[i : i + size] for i in range(0, len(stream), size))
            assert b"".join(docker_log.plain(container(), chunks)) == b"".join(payloads)

    def test_a_terminals_stream_is_taken_as_it_is(self):
        doc = container(Config={"Tty": True})
        assert b"".join(docker_log.plain(doc, [b"a", b"b"])) == b"ab"

    @pytest.mark.parametrize("limit", [0, 1, 5, 100])
    def test_only_the_end_is_kept(self, limit):
        chunks = [b"%03d" % i for i in range(30)]
        assert docker_log.tail(chunks, limit) == b"".join(chunks)[90 - min(limit, 90) :]

    def test_an_endless_log_does_not_fill_the_memory(self):
        chunks = itertools.repeat(b"x" * 65536, 20_000)
        assert len(docker_log.tail(chunks, 1000)) == 1000

    def test_since_is_just_before_the_latest_start_but_after_the_end_of_the_former(self):
        running = {"StartedAt": "2026-11-20T23:42:49.966513033Z"}
        for finished, expected in (
            ("0001-01-01T00:00:00Z", "1795218169.916513000"),
            ("2026-11-20T23:42:49.950000000Z", "1795218169.950000000"),
            ("2026-11-20T23:43:00Z", "1795218169.916513000"),
        ):
            doc = container(State={**running, "FinishedAt": finished})
            assert docker_log.since(doc) == expected
        assert docker_log.since(container(State={"StartedAt": "0001-01-01T00:00:00Z"})) is None


def answer(status: int, message: str = "m") -> APIError:
    response = requests.Response()
    response.status_code, response._content = status, json.dumps({"message": message}).encode()
    return APIError("x", response=response, explanation=message)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            (answer(500), Transient, "journalctl"),
            (answer(404), Missing, "404"),
            (answer(409), Conflict, "409"),
            (answer(400, "bad parameter"), Permanent, "bad parameter"),
            (answer(501, "does not support reading"), Permanent, "support reading"),
            (requests.ConnectionError("refused"), Transient, "systemctl status docker"),
            (requests.ReadTimeout("x"), Transient, "no answer in time"),
            (DockerException("Error while fetching server API version: x"), Transient, "running"),
            (PermissionError(13, "Permission denied"), Permanent, "group docker"),
            (DockerException("odd"), Permanent, "odd"),
        ],
    )
    def test_classes_and_words(self, error, kind, words):
        found = mapped("unix:///s", error, "inspect", "vllm")
        assert type(found) is kind and words in str(found) and "unix:///s" in str(found)

    def test_long_answers_are_cut(self):
        assert len(str(mapped("u", answer(500, "y" * 10_000), "start", "vllm"))) < 500

    def test_an_absent_socket_is_transient_and_named(self, tmp_path):
        host = DockerHostSpec(base_url=f"unix://{tmp_path}/docker.sock")
        with warnings.catch_warnings():
            # The SDK leaves the socket of a refused connection to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            with pytest.raises(Transient, match="docker.sock does not answer"), Engine(host):
                pass
            gc.collect()

    def test_an_absent_tls_file_is_named(self):
        host = DockerHostSpec(base_url="tcp://127.0.0.1:9", tls_ca="/nonexistent/ca.pem")
        with pytest.raises(Permanent, match="/nonexistent/ca.pem"), Engine(host):
            pass


class TestHost:
    def test_the_block_is_the_spec_with_a_prefect_identity(self):
        block = DockerHost(base_url="tcp://gpu1:2376")
        assert isinstance(block, DockerHostSpec) and block.timeout_s == 20
        assert DockerHost.get_block_type_slug() == "docker-host"
        with pytest.raises(ValidationError):
            block.timeout_s = 1

    @pytest.mark.parametrize("url", ["/var/run/docker.sock", "http://x:1", "npipe://x"])
    def test_an_address_of_another_kind_is_refused(self, url):
        with pytest.raises(ValidationError, match="write unix:///var/run/docker.sock"):
            DockerHostSpec(base_url=url)

    def test_nothing_connects_before_it_is_opened(self):
        with pytest.raises(RuntimeError, match="with Engine"):
            Engine(DockerHostSpec(base_url=f"unix:///nonexistent/{os.getpid()}")).find("x")
