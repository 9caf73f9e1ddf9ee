"""The stand-in vLLM server as a Docker image, made without a registry.

The image is a tar of directories and a static busybox, imported into the engine. Python comes
from the host at run time, bind-mounted read-only at its own path, and so do the stand-in's
files, under /sandbox. So the engine must be on this machine, and this machine a Linux one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

REPOSITORY = "runbooks-sandbox-vllm"
LABEL = "llm-runbooks.sandbox"
MOUNT = "/sandbox"
STATE = "/sandbox-state"
PORT = 8000
_APPLETS = ("sh", "cat", "env", "kill", "ls", "ps", "sleep", "true", "wget")
_DIRECTORIES = ("bin", "etc", "lib", "lib64", "proc", "sandbox", "sandbox-state", "sys", "usr")


class CannotBuild(RuntimeError):
    """This machine lacks what the image is made of."""


def interpreter() -> Path:
    """The real file behind this Python, no virtual environment and no link."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return Path(base).resolve()


def host_mounts() -> dict[str, dict[str, str]]:
    """Read-only mounts, each at its own path, without which the interpreter does not start."""
    wanted = [Path("/usr"), Path("/lib"), Path("/lib64"), Path("/etc/ld.so.cache")]
    prefix = Path(sys.base_prefix).resolve()
    wanted += [p for p in (prefix, interpreter().parent) if not p.is_relative_to("/usr")]
    mounts: dict[str, dict[str, str]] = {}
    for path in wanted:
        inside = any(path.is_relative_to(m) for m in mounts)
        if path.exists() and not inside:
            mounts[str(path)] = {"bind": str(path), "mode": "ro"}
    return mounts


def _busybox() -> bytes:
    found = shutil.which("busybox")
    data = Path(found).read_bytes() if found else b""
    if not data or b"/ld-linux" in data[:4096] or b"/ld-musl" in data[:4096]:
        raise CannotBuild("no static busybox on this machine: apt-get install busybox-static")
    return data


def _root(busybox: bytes) -> bytes:
    """The root file system as a tar, the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
            tar.addfile(info, io.BytesIO(data))

        for name in _DIRECTORIES:
            add(name, tarfile.DIRTYPE, 0o755)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/:/bin/sh\n")
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox)
        for applet in _APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
    return buffer.getvalue()


def ensure_image(client: docker.DockerClient) -> str:
    """The image's tag, built on first use. Entrypoint: Python and the script; Cmd: the flags."""
    if sys.platform != "linux":
        raise CannotBuild("the container form needs a Linux host: Python is mounted from it")
    python = str(interpreter())
    busybox = _busybox()
    key = hashlib.sha256(busybox + python.encode() + b"1").hexdigest()[:12]
    tag = f"{REPOSITORY}:{key}"
    if not client.images.list(name=tag):
        client.api.import_image_from_data(
            _root(busybox),
            repository=REPOSITORY,
            tag=key,
            changes=[
                f'ENTRYPOINT ["{python}", "-S", "{MOUNT}/vllm_server.py"]',
                "ENV PATH=/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1",
                "WORKDIR /tmp",
                f"EXPOSE {PORT}/tcp",
                f"LABEL {LABEL}=image",
            ],
        )
    return tag


def run_container(
    client: docker.DockerClient,
    name: str,
    args: Sequence[str],
    *,
    port: int,
    env: Mapping[str, str] | None = None,
    restart_policy: Mapping[str, Any] | None = None,
    state: Path | None = None,
    start: bool = True,
    **extra: Any,
) -> Container:
    """Create and start a stand-in; it listens on 127.0.0.1:`port`, on 8000 inside.

    Args:
        client: a client of an engine on this machine.
        name: container name.
        args: vLLM's flags, the container's Cmd.
        port: port on the loopback of the host.
        env: `SANDBOX_*` variables, or the handbook's (`MAX_MODEL_LEN`...).
        restart_policy: Docker's, e.g. {"Name": "on-failure", "MaximumRetryCount": 3}.
        state: a directory; its `faults.json` is re-read by the running server.
        start: False leaves it created.
        extra: anything else `containers.create` takes; `volumes` are added to ours.
    """
    volumes: dict[str, dict[str, str]] = {
        **host_mounts(),
        str(Path(__file__).resolve().parent): {"bind": MOUNT, "mode": "ro"},
    }
    settings = dict(env or {})
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        volumes[str(state.resolve())] = {"bind": STATE, "mode": "rw"}
        settings.setdefault("SANDBOX_FAULTS_FILE", f"{STATE}/faults.json")
    volumes |= extra.pop("volumes", {})
    container = client.containers.create(
        ensure_image(client),
        list(args),
        name=name,
        environment=settings,
        ports={f"{PORT}/tcp": ("127.0.0.1", port)},
        restart_policy=cast(Any, dict(restart_policy or {"Name": "no"})),
        volumes=volumes,
        labels={LABEL: "container", **extra.pop("labels", {})},
        **extra,
    )
    if start:
        container.start()
    return container


def remove_all(client: docker.DockerClient, prefix: str = "") -> None:
    """Remove this module's containers whose names begin with `prefix`, running or not."""
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}=container"}):
        if str(container.name).startswith(prefix):
            container.remove(force=True)


def engine_on_this_machine(client: docker.DockerClient) -> bool:
    """False for a remote engine: bind mounts would name another machine's files."""
    return bool(client.info().get("Name") == os.uname().nodename)
