"""The docker runtime against a real engine: what became of the containers, never what was called.

A service here is a shell script that prints its arguments and waits. Every container of a test
carries the label of that test; at its end no two of them may ever have run at once.
"""

import asyncio
import contextlib
import io
import shutil
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound

from blocks.docker_host import DockerHost, DockerHostSpec, Engine
from blocks.docker_inspect import CHANGE_LABEL, settings_diff
from blocks.docker_runtime import DockerRuntime
from blocks.errors import Permanent, RunbookError, Transient, Unsafe
from blocks.models import Receipt
from blocks.service import ArgumentsSource, DockerRuntimeSpec, YamlSource

pytestmark = pytest.mark.real

LABEL = "runbooks-test"
ARGS = ["--model", "m", "--max-model-len", "8192", "--gpu-memory-utilization=0.92"]
SMALLER = [*ARGS[:3], "4096", ARGS[4]]
WRITES = {"create", "connect", "disconnect", "update", "stop", "rename", "start", "remove"}
SERVER = b"""#!/bin/sh
[ -n "$STUBBORN" ] && trap '' TERM || trap 'exit 0' TERM
echo "start $*"
[ -n "$CRASH" ] && { sleep "$CRASH"; echo bye; exit 3; }
while :; do sleep 0.1; done
"""


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


@pytest.fixture(scope="session")
def image(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image with busybox and the script above, made without a registry."""
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("busybox-static is not installed")
    data, buffer = Path(busybox).read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("bin/busybox", data), ("bin/server", SERVER)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
        for applet in ("sh", "sleep", "echo", "cat", "date"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    name = f"runbooks-test-{uuid.uuid4().hex[:8]}"
    changes = ["ENV PATH=/bin", "VOLUME /anonymous", "EXPOSE 8000", 'ENTRYPOINT ["/bin/server"]']
    docker_client.api.import_image_from_data(
        buffer.getvalue(), repository=name, tag="1", changes=changes
    )
    yield f"{name}:1"
    for item in docker_client.images.list(name):
        docker_client.images.remove(item.id, force=True)


@pytest.fixture(scope="session")
def networks(docker_client: docker.DockerClient) -> Iterator[list[str]]:
    """Two user networks."""
    names = [f"net-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    for name in names:
        docker_client.api.create_network(name, driver="bridge")
    yield names
    for name in names:
        docker_client.api.remove_network(name)


class Stage:
    """One service on the engine: makes it, looks at it, removes all that belongs to it."""

    def __init__(self, client: docker.DockerClient, image: str, two: list[str]) -> None:
        self.client, self.api, self.image, self.two_networks = client, client.api, image, two
        self.mark = uuid.uuid4().hex[:8]
        self.name = f"vllm-{self.mark}"
        self.since = int(time.time()) - 1
        self.networks: list[str] = []
        self.volumes: list[str] = []

    def run(self, command=ARGS, start=True, networking=None, host=None, name=None, **config) -> str:
        """Create (and start) the service from raw API values; its id."""
        config.setdefault("Labels", {})
        config["Labels"] = {LABEL: self.mark, **config["Labels"]}
        body = {"Image": self.image, "Cmd": command, "HostConfig": host or {}, **config}
        body["NetworkingConfig"] = {"EndpointsConfig": networking or {}}
        made = self.api.create_container_from_config(body, name or self.name)
        if start:
            self.api.start(made["Id"])
        return made["Id"]

    def network(self, subnet: str | None = None) -> str:
        name = f"net-{uuid.uuid4().hex[:8]}"
        pools = [docker.types.IPAMPool(subnet=subnet)] if subnet else None
        ipam = docker.types.IPAMConfig(pool_configs=pools) if pools else None
        self.api.create_network(name, driver="bridge", ipam=ipam)
        self.networks.append(name)
        return name

    def runtime(self, source=None, **spec) -> DockerRuntime:
        spec = {"stop_timeout_s": 5, **spec}
        return DockerRuntime(
            "llm",
            DockerRuntimeSpec(kind="docker", container=self.name, **spec),
            source or ArgumentsSource(),
            DockerHostSpec(),
        )

    def doc(self, ref: str | None = None) -> dict:
        return self.api.inspect_container(ref or self.name)

    def all(self) -> dict[str, dict]:
        """name -> inspect of every container of this test."""
        items = self.api.containers(all=True, filters={"label": f"{LABEL}={self.mark}"})
        docs = [self.api.inspect_container(i["Id"]) for i in items]
        return {d["Name"].lstrip("/"): d for d in docs}

    def most_running(self) -> int:
        """How many containers of this test ran at once, at most, says the engine's event log."""
        events = self.api.events(
            since=self.since,
            until=f"{time.time():.6f}",
            filters={"label": f"{LABEL}={self.mark}", "event": ["start", "die"]},
            decode=True,
        )
        running: set[str] = set()
        most = 0
        for event in events:
            change = running.add if event["Action"] == "start" else running.discard
            change(event["id"])
            most = max(most, len(running))
        return most

    def sweep(self) -> None:
        for doc in self.all().values():
            self.volumes += [m["Name"] for m in doc["Mounts"] if m["Type"] == "volume"]
            with contextlib.suppress(APIError):
                self.api.remove_container(doc["Id"], force=True, v=True)
        for name in set(self.volumes):
            with contextlib.suppress(NotFound):
                self.api.remove_volume(name, force=True)
        for name in self.networks:
            self.api.remove_network(name)


@pytest.fixture
def stage(docker_client: docker.DockerClient, image: str, networks: list[str]) -> Iterator[Stage]:
    made = Stage(docker_client, image, networks)
    try:
        yield made
        assert made.most_running() <= 1, "two instances ran at once"
    finally:
        made.sweep()


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Ours dies just before its write `number` (from 0) reaches the engine; yields the writes."""
    seen: list[str] = []
    original = Engine.call

    def call(self, what, target, work, patience=1):
        if what in WRITES:
            if len(seen) == number:
                raise Killed
            seen.append(what)
        return original(self, what, target, work, patience)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "call", call)
        yield seen


async def smaller(runtime: DockerRuntime) -> Receipt:
    before = await runtime.read_config()
    return await runtime.prepare(before.changed(max_model_len=4096), "run-1")


def journalled(receipt: Receipt) -> Receipt:
    """As another process reads it."""
    return Receipt.model_validate_json(receipt.model_dump_json())


def rich(stage: Stage, policy: dict) -> tuple[str, dict]:
    """A container with about everything an operator can set."""
    first, second = stage.network("10.231.7.0/24"), stage.network()
    volume = f"vol-{stage.mark}"
    stage.volumes.append(volume)
    container = stage.run(
        networking={
            first: {"Aliases": ["llm", "chat"], "IPAMConfig": {"IPv4Address": "10.231.7.77"}}
        },
        Env=["HF_TOKEN=hf_secret", "PATH=/bin", "EMPTY="],
        Labels={"team": "ml", "traefik.enable": "true"},
        Healthcheck={"Test": ["CMD", "/bin/echo"], "Interval": 10**9, "Retries": 7},
        User="0:0",
        WorkingDir="/tmp",
        StopSignal="SIGINT",
        StopTimeout=7,
        Domainname="example.org",
        ExposedPorts={"8000/tcp": {}},
        Volumes={"/scratch": {}},
        MacAddress="02:42:00:11:22:33",
        host={
            "NetworkMode": first,
            "Binds": ["/etc/hostname:/host:ro", f"{volume}:/models"],
            "Mounts": [
                {"Type": "volume", "Target": "/unnamed"},
                {"Type": "tmpfs", "Target": "/fast", "TmpfsOptions": {"SizeBytes": 65536}},
            ],
            "Tmpfs": {"/run": "size=1m"},
            "Ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 8192}],
            "ShmSize": 128 * 1024 * 1024,
            "IpcMode": "shareable",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
            "RestartPolicy": policy,
            "ExtraHosts": ["gpu:10.0.0.9"],
            "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "38417"}]},
            "CapAdd": ["NET_ADMIN"],
            "CapDrop": ["MKNOD"],
            "SecurityOpt": ["no-new-privileges"],
            "Sysctls": {"net.ipv4.ip_forward": "0"},
            "Memory": 256 * 1024 * 1024,
            "MemorySwap": 256 * 1024 * 1024,
            "OomScoreAdj": 5,
            "CpusetCpus": "0",
            "NanoCpus": 500_000_000,
            "PidsLimit": 100,
            "GroupAdd": ["44"],
            "Dns": ["10.0.0.1"],
            "Init": True,
            "ReadonlyRootfs": True,
            "Devices": [
                {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}
            ],
        },
    )
    stage.api.connect_container_to_network(
        container, second, aliases=["inner"], driver_opt={"com.example.x": "1"}
    )
    return container, stage.doc()


@pytest.mark.parametrize(
    "policy",
    [
        {"Name": "always", "MaximumRetryCount": 0},
        {"Name": "on-failure", "MaximumRetryCount": 5},
    ],
    ids=["always", "on-failure"],
)
async def test_only_the_changed_argument_differs_and_undo_gives_the_same_container_back(
    stage, policy
):
    old, before = rich(stage, policy)
    runtime = stage.runtime()
    receipt = await smaller(runtime)
    assert "hf_secret" not in receipt.model_dump_json()
    await runtime.act(receipt)

    new = stage.doc()
    assert new["Id"] != old and new["State"]["Running"]
    assert settings_diff(before, new) == {"Config.Cmd": (ARGS, SMALLER)}
    assert new["HostConfig"]["RestartPolicy"] == policy
    assert {m["Destination"]: m.get("Name") for m in new["Mounts"]} == {
        m["Destination"]: m.get("Name") for m in before["Mounts"]
    }
    networks = new["NetworkSettings"]["Networks"]
    assert networks[stage.networks[0]]["IPAddress"] == "10.231.7.77"
    assert networks[stage.networks[0]]["MacAddress"] == "02:42:00:11:22:33"
    assert await runtime.applied(receipt)
    assert (await runtime.read_config()).max_model_len == 4096
    assert f"start {' '.join(SMALLER)}".encode() in await eventually_log(runtime)
    assert (await runtime.state()).instance == new["Id"]

    await stage.runtime().restore(journalled(receipt))
    assert list(stage.all()) == [stage.name]
    back = stage.doc()
    assert back["Id"] == old and back["State"]["Running"]
    assert settings_diff(before, back) == {}
    assert not await runtime.applied(receipt)


async def test_a_second_generation_differs_in_nothing_else_either(stage):
    _, before = rich(stage, {"Name": "unless-stopped", "MaximumRetryCount": 0})
    runtime = stage.runtime()
    for length in (4096, 2048):
        config = await runtime.read_config()
        receipt = await runtime.prepare(config.changed(max_model_len=length), f"run-{length}")
        await runtime.act(receipt)
        await runtime.commit(receipt)
    assert settings_diff(before, stage.doc()) == {
        "Config.Cmd": (ARGS, [*ARGS[:3], "2048", ARGS[4]])
    }
    assert list(stage.all()) == [stage.name]


async def eventually_log(runtime: DockerRuntime, needle: bytes = b"start") -> bytes:
    for _ in range(50):
        if needle in (log := await runtime.read_log()):
            return log
        await asyncio.sleep(0.1)
    raise AssertionError(f"{needle!r} never came: {log!r}")


ACT = ["create", "connect", "update", "stop", "rename", "rename", "update", "start"]


def service(stage: Stage, **config) -> tuple[str, dict]:
    """Two networks and policy always: every step of `act` is taken."""
    first, second = stage.two_networks
    policy = {"Name": "always", "MaximumRetryCount": 0}
    old = stage.run(host={"NetworkMode": first, "RestartPolicy": policy}, **config)
    stage.api.connect_container_to_network(old, second)
    return old, stage.doc()


def assert_as_before(stage: Stage, old: str, before: dict) -> None:
    found = stage.all()
    assert list(found) == [stage.name], "something was left over"
    assert found[stage.name]["Id"] == old
    assert found[stage.name]["State"]["Running"] == before["State"]["Running"]
    assert settings_diff(before, found[stage.name]) == {}


@pytest.mark.parametrize("step", range(len(ACT) + 1))
async def test_act_killed_before_any_call_is_undone(stage, step):
    old, before = service(stage)
    receipt = await smaller(stage.runtime())
    with killed_at(step) as calls, contextlib.suppress(Killed):
        await stage.runtime().act(receipt)
    assert calls == ACT[:step]
    await stage.runtime().restore(journalled(receipt))
    assert_as_before(stage, old, before)
    await stage.runtime().restore(journalled(receipt))
    assert_as_before(stage, old, before)


RESTORE = ["update", "stop", "stop", "remove", "rename", "update", "start"]


@pytest.mark.parametrize("step", range(len(RESTORE)))
async def test_an_undo_killed_before_any_call_is_undone_again(stage, step):
    old, before = service(stage)
    receipt = await smaller(stage.runtime())
    await stage.runtime().act(receipt)
    with killed_at(step) as calls, pytest.raises(Killed):
        await stage.runtime().restore(receipt)
    assert calls == RESTORE[:step]
    await stage.runtime().restore(journalled(receipt))
    assert_as_before(stage, old, before)


@pytest.mark.parametrize("policy", ["always", "no"])
@pytest.mark.parametrize("again", [None, 3], ids=["", "undo-killed-too"])
async def test_a_stop_that_outlives_its_caller_does_not_take_the_service_down_later(
    stage, policy, again
):
    # The engine goes on stopping the old container after our process is gone.
    old = stage.run(host={"RestartPolicy": {"Name": policy}}, Env=["STUBBORN=1"])
    await eventually_log(stage.runtime())
    receipt = await smaller(stage.runtime(stop_timeout_s=1))
    stopping = threading.Thread(target=stage.api.stop, args=(old,), kwargs={"timeout": 1})
    steps = 1 if policy == "no" else 2
    with killed_at(steps), pytest.raises(Killed):
        await stage.runtime().act(receipt)
    stopping.start()
    await asyncio.sleep(0.2)
    assert stage.doc()["State"]["Running"], "the test wants a stop under way"
    if again is not None:
        with killed_at(again - (policy == "no")), pytest.raises(Killed):
            await stage.runtime(stop_timeout_s=1).restore(receipt)
    await stage.runtime(stop_timeout_s=1).restore(receipt)
    stopping.join()
    await asyncio.sleep(0.5)
    assert stage.doc()["Id"] == old and stage.doc()["State"]["Running"]
    assert list(stage.all()) == [stage.name]


async def test_commit_survives_a_kill_and_repetition(stage):
    old, _ = service(stage)
    runtime = stage.runtime()
    receipt = await smaller(runtime)
    with pytest.raises(Permanent, match="is not the one this change made"):
        await runtime.commit(receipt)
    await runtime.act(receipt)
    assert await runtime.leftovers() == [f"{stage.name}.runbooks-old"]
    with killed_at(0), pytest.raises(Killed):
        await runtime.commit(receipt)
    assert len(stage.all()) == 2
    await runtime.commit(journalled(receipt))
    await runtime.commit(journalled(receipt))
    assert list(stage.all()) == [stage.name] and stage.doc()["Id"] != old
    with pytest.raises(Permanent, match="nothing to go back to"):
        await runtime.restore(receipt)
    assert stage.doc()["State"]["Running"]


async def test_of_two_acts_at_once_one_is_refused_and_nothing_is_lost(stage):
    old, before = service(stage)
    a, b = stage.runtime(), stage.runtime()
    receipts = [await smaller(a), await smaller(b)]
    outcomes = await asyncio.gather(a.act(receipts[0]), b.act(receipts[1]), return_exceptions=True)
    refused = [o for o in outcomes if o is not None]
    assert len(refused) == 1 and isinstance(refused[0], Unsafe) and refused[0].reason == "locked"
    loser = outcomes.index(refused[0])
    with pytest.raises(Unsafe, match="another change"):
        await b.restore(receipts[loser])
    assert await a.applied(receipts[1 - loser]) and not await a.applied(receipts[loser])
    await a.restore(receipts[1 - loser])
    assert_as_before(stage, old, before)
    await b.restore(receipts[loser])
    assert_as_before(stage, old, before)


async def test_a_cancelled_act_makes_no_further_call_and_is_undone(stage):
    old = stage.run(host={"RestartPolicy": {"Name": "always"}}, Env=["STUBBORN=1"])
    before, runtime = stage.doc(), stage.runtime(stop_timeout_s=1)
    await eventually_log(runtime)
    receipt = await smaller(runtime)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.act(receipt), 0.5)
    assert stage.doc(f"{stage.name}.runbooks-new")["State"]["Status"] == "created"
    await runtime.restore(receipt)
    assert_as_before(stage, old, before)


async def test_a_crash_looping_service_is_replaced_and_loops_again_after_undo(stage):
    old = stage.run(host={"RestartPolicy": {"Name": "always"}}, Env=["CRASH=0.05"])
    runtime = stage.runtime()
    for _ in range(100):
        state = await runtime.state()
        if state.phase == "restarting" and state.restarts >= 2:
            break
        await asyncio.sleep(0.05)
    assert (state.phase, state.exit_code) == ("restarting", 3)
    receipt = await smaller(runtime)
    assert receipt.was_running
    await runtime.act(receipt)
    assert stage.doc()["Id"] != old
    for _ in range(100):
        if (await runtime.state()).restarts:
            break
        await asyncio.sleep(0.05)
    assert (await runtime.state()).restarts, "the verifier must see the new one's restarts"
    await runtime.restore(receipt)
    await asyncio.sleep(0.5)
    assert stage.doc()["Id"] == old and stage.doc()["HostConfig"]["RestartPolicy"]["Name"] == (
        "always"
    )
    assert (await runtime.state()).restarts > 0


async def test_a_dead_service_is_started_with_the_change_and_dead_again_after_undo(stage):
    old = stage.run(Env=["CRASH=0"])
    runtime = stage.runtime()
    while (await runtime.state()).phase != "exited":
        await asyncio.sleep(0.05)
    before = stage.doc()
    receipt = await smaller(runtime)
    assert not receipt.was_running
    await runtime.act(receipt)
    assert stage.doc()["Id"] != old
    await runtime.restore(receipt)
    assert_as_before(stage, old, before)
    assert stage.doc()["State"]["StartedAt"] == before["State"]["StartedAt"]


async def test_the_new_container_removed_by_hand_is_no_obstacle(stage):
    old, before = service(stage)
    receipt = await smaller(stage.runtime())
    await stage.runtime().act(receipt)
    stage.api.remove_container(stage.name, force=True)
    assert (await stage.runtime().state()).detail == (
        f"unfinished change: {stage.name}.runbooks-old"
    )
    assert not await stage.runtime().applied(receipt)
    with pytest.raises(Permanent, match="is kept"):
        await stage.runtime().commit(receipt)
    await stage.runtime().restore(receipt)
    assert_as_before(stage, old, before)


async def test_the_last_container_is_never_removed(stage):
    old, _ = service(stage)
    receipt = await smaller(stage.runtime())
    await stage.runtime().act(receipt)
    stage.api.remove_container(old)
    with pytest.raises(Permanent, match=f"nothing to go back to; the new one stays: {stage.name}"):
        await stage.runtime().restore(receipt)
    assert stage.doc()["State"]["Running"]
    await stage.runtime().commit(receipt)


async def test_somebodys_container_under_the_name_is_not_touched(stage):
    service(stage)
    receipt = await smaller(stage.runtime())
    await stage.runtime().act(receipt)
    stage.api.remove_container(stage.name, force=True)
    theirs = stage.run()
    with pytest.raises(Permanent, match="made by somebody"):
        await stage.runtime().restore(receipt)
    assert stage.doc()["Id"] == theirs and stage.doc()["State"]["Running"]


@pytest.mark.parametrize(
    ("labels", "host", "words"),
    [
        ({"com.docker.compose.project": "llm"}, {}, "change the compose file"),
        ({"com.docker.swarm.task.id": "x"}, {}, "docker service update"),
        ({}, {"AutoRemove": True}, "without --rm"),
    ],
    ids=["compose", "swarm", "auto-remove"],
)
async def test_what_would_lose_the_way_back_is_refused(stage, labels, host, words):
    stage.run(Labels=labels, host=host)
    with pytest.raises(Unsafe, match=words) as refused:
        await smaller(stage.runtime())
    assert refused.value.reason == "blast-radius"
    assert len(stage.all()) == 1


async def test_a_network_shared_by_a_sidecar_is_refused(stage):
    old = stage.run()
    mark = stage.mark
    stage.mark += "-sidecar"
    stage.run(name=f"{stage.name}-side", host={"NetworkMode": f"container:{old}"})
    try:
        with pytest.raises(Unsafe, match=f"{stage.name}-side share"):
            await smaller(stage.runtime())
    finally:
        stage.sweep()
        stage.mark = mark


async def test_a_paused_service_and_leftovers_are_refused(stage):
    old = stage.run()
    stage.api.pause(old)
    assert (await stage.runtime().state()).phase == "unknown"
    with pytest.raises(Permanent, match="docker unpause"):
        await smaller(stage.runtime())
    stage.api.unpause(old)
    stage.run(name=f"{stage.name}.runbooks-new", start=False)
    with pytest.raises(Unsafe, match="docker inspect .*runbooks-new") as refused:
        await smaller(stage.runtime())
    assert refused.value.reason == "locked"


async def test_what_changed_since_the_plan_is_refused(stage):
    old = stage.run()
    runtime = stage.runtime()
    receipt = await smaller(runtime)
    stage.api.update_container(old, restart_policy={"Name": "always"})
    with pytest.raises(Unsafe, match="changed since the plan") as refused:
        await runtime.act(receipt)
    assert refused.value.reason == "drifted"
    assert stage.doc()["Id"] == old and len(stage.all()) == 1


async def test_a_tag_that_moved_is_pinned_to_the_containers_image(stage):
    tag = f"{stage.image.split(':')[0]}:moving"
    stage.api.tag(stage.image, *tag.split(":"))
    stage.image, image_id = tag, stage.client.images.get(tag).id
    stage.run()
    before = stage.doc()
    stage.api.import_image_from_data(b"\0" * 10240, repository=tag.split(":")[0], tag="moving")
    assert stage.client.images.get(tag).id != image_id
    runtime = stage.runtime()
    await runtime.act(await smaller(runtime))
    assert stage.doc()["Image"] == image_id
    assert settings_diff(before, stage.doc()).keys() == {"Config.Cmd", "Config.Image"}


@pytest.mark.parametrize("mode", ["host", "none", "default", "sidecar"])
async def test_every_network_mode_can_be_recreated(stage, mode):
    if mode == "sidecar":
        mark, stage.mark = stage.mark, f"{stage.mark}-base"
        base = stage.run(name=f"{stage.name}-base")
        stage.mark, mode = mark, f"container:{base}"
    try:
        stage.run(host={"NetworkMode": mode, "UTSMode": "host" if mode == "host" else ""})
        before, runtime = stage.doc(), stage.runtime()
        receipt = await smaller(runtime)
        await runtime.act(receipt)
        assert settings_diff(before, stage.doc()).keys() == {"Config.Cmd"}
        assert stage.doc()["State"]["Running"]
    finally:
        if mode.startswith("container:"):
            stage.api.remove_container(base, force=True, v=True)


async def test_a_network_left_by_hand_stays_left_and_links_are_kept(stage):
    other = stage.two_networks[0]
    mark, stage.mark = stage.mark, f"{stage.mark}-db"
    database = stage.run(name=f"db-{mark}")
    stage.mark = mark
    try:
        old = stage.run(host={"Links": [f"db-{mark}:database"]})
        before, runtime = stage.doc(), stage.runtime()
        receipt = await smaller(runtime)
        await runtime.act(receipt)
        assert settings_diff(before, stage.doc()).keys() == {"Config.Cmd"}
        assert stage.doc()["HostConfig"]["Links"] == before["HostConfig"]["Links"]
        await runtime.restore(receipt)
        assert settings_diff(before, stage.doc()) == {}
        stage.api.connect_container_to_network(old, other)
        stage.api.disconnect_container_from_network(old, "bridge")
        before = stage.doc()
        await runtime.act(await smaller(runtime))
        assert settings_diff(before, stage.doc()).keys() == {"Config.Cmd"}
        assert list(stage.doc()["NetworkSettings"]["Networks"]) == [other]
    finally:
        stage.api.remove_container(database, force=True, v=True)


@pytest.mark.parametrize(
    ("entrypoint", "command"),
    [
        ([""], ["/bin/server", *ARGS]),
        (["/bin/server", *ARGS], []),
        (["/bin/server", "--max-model-len", "8192"], ["--dtype", "auto"]),
    ],
    ids=["none", "flags-in-it", "flags-in-both"],
)
async def test_flags_are_changed_where_they_stand(stage, entrypoint, command):
    stage.run(command, Entrypoint=entrypoint)
    before, runtime = stage.doc(), stage.runtime()
    await runtime.act(await smaller(runtime))
    where = "Config.Cmd" if entrypoint == [""] else "Config.Entrypoint"
    assert settings_diff(before, stage.doc()).keys() == {where}
    assert (await runtime.read_config()).max_model_len == 4096


async def test_numbers_in_the_environment_are_changed_there(stage):
    stage.run([], Env=["A=1", "MAX_LEN=8192", "Z=2"])
    before, runtime = stage.doc(), stage.runtime(ArgumentsSource(env={"max_model_len": "MAX_LEN"}))
    await runtime.act(await smaller(runtime))
    assert settings_diff(before, stage.doc()) == {"Config.Env.MAX_LEN": ("8192", "4096")}


async def test_a_container_that_cannot_start_is_an_error_and_is_undone(stage):
    old = stage.run(start=False, host={"Binds": ["/nonexistent-runbooks/x:/x"]})
    runtime = stage.runtime()
    before = stage.doc()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "blocks.docker_recreate.edited",
            lambda *_: {"Entrypoint": ["/bin/absent"], "Cmd": []},
        )
        receipt = await smaller(runtime)
        with pytest.raises(RunbookError, match="start .*"):
            await runtime.act(receipt)
    assert "absent" in (await runtime.state()).detail
    await runtime.restore(receipt)
    assert_as_before(stage, old, before)
    shutil.rmtree("/nonexistent-runbooks", ignore_errors=True)


@pytest.mark.parametrize("tty", [False, True], ids=["framed", "tty"])
async def test_the_log_is_that_of_the_latest_start_and_bounded(stage, tty):
    old = stage.run(["--first"], Tty=tty)
    runtime = stage.runtime()
    await eventually_log(runtime)
    stage.api.stop(old)
    assert b"start --first" in await runtime.read_log()
    stage.api.start(old)
    log = await eventually_log(runtime)
    assert log.splitlines() == [b"start --first"]
    assert await runtime.read_log(max_bytes=5) == log[-5:]
    stage.api.remove_container(old, force=True, v=True)
    stage.run(start=False)
    assert await runtime.read_log() == b""


async def test_a_log_driver_that_cannot_be_read_is_named(stage):
    stage.run(host={"LogConfig": {"Type": "none"}})
    with pytest.raises(Permanent, match="log driver is 'none'"):
        await stage.runtime().read_log()


async def test_state_of_a_running_a_killed_and_a_missing_service(stage):
    runtime = stage.runtime()
    assert (await runtime.state()).phase == "missing"
    old = stage.run(Healthcheck={"Test": ["CMD", "/bin/absent"], "StartPeriod": 60 * 10**9})
    state = await runtime.state()
    assert (state.phase, state.detail, state.exit_code) == ("running", "health: starting", None)
    assert state.instance == old and state.started_at.tzinfo
    stage.api.kill(old)
    while (state := await runtime.state()).phase == "running":
        await asyncio.sleep(0.05)
    assert (state.phase, state.exit_code, state.oom_killed) == ("exited", 137, False)
    assert state.finished_at > state.started_at


async def test_similar_names_are_listed_for_a_missing_container(stage):
    stage.run(start=False)
    wrong = DockerRuntimeSpec(kind="docker", container=stage.name[:-1] + "_")
    runtime = DockerRuntime("llm", wrong, ArgumentsSource(), DockerHost())
    with pytest.raises(Permanent, match=f"similar: .*{stage.name}"):
        await runtime.read_config()


FILE_ACT = ["stop", "start"]


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("step", range(len(FILE_ACT) + 1))
async def test_a_file_is_edited_and_the_same_container_restarted_or_all_is_undone(
    stage, tmp_path, step, up
):
    path = tmp_path / "vllm.yaml"
    path.write_text("# ours\nmax-model-len: 8192  # tokens\nport: 8000\n")
    original = path.read_bytes()
    old = stage.run(
        start=up, Labels={"com.docker.compose.project": "llm"}, host={"Binds": [f"{path}:/c:ro"]}
    )
    runtime = stage.runtime(YamlSource(kind="yaml", path=str(path)))
    before = stage.doc()
    receipt = await smaller(runtime)
    assert not await runtime.applied(receipt)
    with killed_at(step), contextlib.suppress(Killed):
        await runtime.act(receipt)
    assert (await runtime.read_config()).max_model_len == 4096
    assert await runtime.applied(receipt) == (step == 2)
    if step == 2:
        assert stage.doc()["Id"] == old and stage.doc()["State"]["Running"]
        await runtime.commit(receipt)
    for at in (0, 1, 99):
        with killed_at(at), contextlib.suppress(Killed):
            await runtime.restore(journalled(receipt))
    assert path.read_bytes() == original
    assert_as_before(stage, old, before)


async def test_a_file_edited_by_somebody_since_is_not_overwritten(stage, tmp_path):
    path = tmp_path / "vllm.yaml"
    path.write_text("max-model-len: 8192\n")
    stage.run()
    runtime = stage.runtime(YamlSource(kind="yaml", path=str(path)))
    receipt = await smaller(runtime)
    await runtime.act(receipt)
    started = stage.doc()["State"]["StartedAt"]
    path.write_text("max-model-len: 1024\n")
    with pytest.raises(Unsafe, match="edited by somebody"):
        await runtime.restore(receipt)
    assert path.read_text() == "max-model-len: 1024\n"
    assert stage.doc()["State"]["StartedAt"] == started


async def test_our_containers_are_labelled_with_their_change(stage):
    stage.run()
    runtime = stage.runtime()
    receipt = await smaller(runtime)
    await runtime.act(receipt)
    assert stage.doc()["Config"]["Labels"][CHANGE_LABEL] == receipt.data["mark"]
    assert receipt.data["mark"].startswith("run-1.")


async def test_an_engine_that_does_not_answer_is_transient(tmp_path):
    host = DockerHostSpec(base_url="tcp://127.0.0.1:9", timeout_s=1)
    spec = DockerRuntimeSpec(kind="docker", container="x")
    with pytest.raises(Transient, match="tcp://127.0.0.1:9 does not answer"):
        await DockerRuntime("llm", spec, ArgumentsSource(), host).state()
