"""A Docker Engine: where it listens, and the few calls this product makes to it.

The calls block. Whoever uses `Engine` runs it through `asyncio.to_thread`; nothing connects
before `with Engine(host)`, and every call has a time-out.
"""

import difflib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import requests
from docker import APIClient
from docker.errors import DockerException
from docker.tls import TLSConfig
from prefect.blocks.core import Block
from pydantic import Field, field_validator

from blocks.docker_errors import Conflict, Missing, mapped
from blocks.docker_inspect import CHANGE_LABEL, name_of
from blocks.errors import Permanent, Unsafe
from blocks.models import Frozen

T = TypeVar("T")
_SLOW = 6
"""Create, start and remove may pull up devices and copy volumes: so many times the time-out."""


class DockerHostSpec(Frozen):
    """Where a Docker Engine listens."""

    base_url: str = Field(
        default="unix:///var/run/docker.sock",
        description="unix:///PATH, tcp://HOST:PORT, or ssh://USER@HOST (the worker's own ssh "
        "client and keys; put ConnectTimeout and ServerAliveInterval in its ssh config)",
    )
    tls_ca: str | None = Field(default=None, description="path of the CA certificate (PEM)")
    tls_cert: str | None = Field(default=None, description="path of the client certificate")
    tls_key: str | None = Field(default=None, description="path of the client key")
    timeout_s: float = Field(default=20, gt=0, le=600, description="of one call")
    version: str = Field(
        default="auto", pattern=r"^(auto|\d+\.\d+)$", description="API version, e.g. 1.41"
    )

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith(("unix://", "ssh://", "tcp://")):
            raise ValueError(
                f"{value!r} is no Docker address; write unix:///var/run/docker.sock, "
                "ssh://USER@HOST or tcp://HOST:2376"
            )
        return value


class DockerHost(DockerHostSpec, Block):
    """A Docker Engine, as a Prefect block that can be edited in the UI."""

    _block_type_name = "Docker host"
    _block_type_slug = "docker-host"
    _description = "A Docker Engine on which services run: its address, TLS files and time-out."


class Aborted(Exception):
    """The caller was cancelled: no further call is made to the engine."""


class Engine:
    """One connection to a Docker Engine; blocking; for one thread.

    Errors of every method: `Transient` (no connection, time-out, 5xx), `Permanent` (4xx,
    permission on the socket, TLS files), `Aborted` (after `abort`).
    """

    def __init__(self, host: DockerHostSpec) -> None:
        self.host = host
        self._client: APIClient | None = None
        self._abort = threading.Event()

    def __enter__(self) -> Self:
        """Connect and settle the API version."""
        try:
            self._client = APIClient(
                base_url=self.host.base_url,
                version=self.host.version,
                timeout=math.ceil(self.host.timeout_s),
                tls=self._tls(),
                use_ssh_client=True,
            )
        except (DockerException, requests.RequestException, OSError) as e:
            raise mapped(self.host.base_url, e, "connect", "") from e
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()
        self._client = None

    def abort(self) -> None:
        """Make every later call raise `Aborted`; safe from another thread."""
        self._abort.set()

    @property
    def api_version(self) -> tuple[int, int]:
        """The API version in use, e.g. (1, 41)."""
        major, minor = str(self._open().api_version).split(".")[:2]
        return int(major), int(minor)

    def find(self, ref: str) -> dict[str, Any] | None:
        """The inspect document of a container by name or id; None when there is none."""
        try:
            return dict(self.call("inspect", ref, lambda c: c.inspect_container(ref)))
        except Missing:
            return None

    def inspect(self, ref: str) -> dict[str, Any]:
        """As `find`. Raises Permanent with similar names when there is no such container."""
        if found := self.find(ref):
            return found
        names = [name for item in self.containers() for name in _names(item)]
        similar = difflib.get_close_matches(ref, names, n=5, cutoff=0.4)
        raise Permanent(
            f"Docker at {self.host.base_url} has no container {ref!r}; "
            + (f"similar: {', '.join(similar)}" if similar else "look: docker ps -a")
        )

    def containers(self, change: str | None = None) -> list[dict[str, Any]]:
        """All containers, stopped ones too; with `change`, those that carry this change's mark."""
        filters = {"label": f"{CHANGE_LABEL}={change}"} if change else None
        return list(
            self.call("list", "containers", lambda c: c.containers(all=True, filters=filters))
        )

    def image_id(self, ref: str) -> str | None:
        """The id a tag or id of an image stands for now; None when there is none."""
        try:
            return str(self.call("inspect", ref, lambda c: cast(Any, c).inspect_image(ref))["Id"])
        except Missing:
            return None

    def create(self, name: str, body: dict[str, Any]) -> str:
        """Create (not start) a container from a raw API body; its id.

        Raises:
            Unsafe: `locked`, the name is taken.
        """
        try:
            made = self.call(
                "create",
                name,
                lambda c: cast(Any, c).create_container_from_config(body, name),
                _SLOW,
            )
        except Conflict as e:
            raise Unsafe(
                "locked",
                f"container {name} exists already: another change is under way or was cut short; "
                f"look: docker inspect {name}",
            ) from e
        return str(made["Id"])

    def connect(self, container: str, network: str, endpoint: dict[str, Any]) -> None:
        """Attach a container to a network with a raw endpoint body."""
        self._post(
            "connect", f"networks/{network}/connect", container, {"EndpointConfig": endpoint}
        )

    def disconnect(self, container: str, network: str) -> None:
        """Detach a container from a network."""
        self._post("disconnect", f"networks/{network}/disconnect", container, {})

    def set_policy(self, container: str, policy: dict[str, Any]) -> None:
        """Set the restart policy ({"Name", "MaximumRetryCount"}).

        Only for containers that are about to stop or are down: `update` rewrites the device
        rules of a running one, which can take its GPUs away.
        """
        self.call(
            "update",
            container,
            lambda c: c.update_container(container, restart_policy=cast(Any, policy)),
        )

    def stop(self, container: str, timeout_s: float) -> None:
        """Stop: SIGTERM (or its stop signal), after `timeout_s` SIGKILL; no error if it is down."""
        wait = math.ceil(timeout_s)
        self.call("stop", container, lambda c: c.stop(container, timeout=wait))

    def start(self, container: str) -> None:
        """Start; no error if it is up."""
        self.call("start", container, lambda c: c.start(container), _SLOW)

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        self.call("rename", container, lambda c: c.rename(container, name))

    def remove(self, container: str) -> None:
        """Remove a container that is down, never its volumes; no error if it is gone."""
        for attempt in range(10):
            try:
                self.call("remove", container, lambda c: c.remove_container(container), _SLOW)
            except Missing:
                return
            except Conflict as e:
                if "in progress" not in str(e) or attempt == 9:
                    raise
                time.sleep(0.5)
            else:
                return

    def logs(self, container: str, since: str, tail: int) -> Iterator[bytes]:
        """The raw log stream as it comes (multiplexed unless the container has a terminal).

        Args:
            container: name or id.
            since: seconds since 1970 with nine decimals, or "0".
            tail: at most so many last lines.
        """
        params: dict[str, str | int] = {"stdout": 1, "stderr": 1, "follow": 0}
        params |= {"since": since, "tail": tail}
        response = self.call(
            "logs",
            container,
            lambda c: _checked(
                c.get(
                    self._url(f"containers/{container}/logs"),
                    params=params,
                    stream=True,
                    timeout=c.timeout,
                )
            ),
        )
        deadline = time.monotonic() + _SLOW * self.host.timeout_s
        try:
            for chunk in response.iter_content(64 * 1024):
                if self._abort.is_set():
                    raise Aborted
                if time.monotonic() > deadline:
                    raise requests.Timeout("the log did not end in time")
                yield chunk
        except requests.RequestException as e:
            raise mapped(self.host.base_url, e, "logs", container) from e
        finally:
            response.close()

    def call(self, what: str, target: str, work: Callable[[APIClient], T], patience: int = 1) -> T:
        """Every request but the connection itself goes through here."""
        if self._abort.is_set():
            raise Aborted
        client = self._open()
        client.timeout = math.ceil(self.host.timeout_s * patience)
        try:
            return work(client)
        except (DockerException, requests.RequestException, OSError) as e:
            raise mapped(self.host.base_url, e, what, target) from e

    def _post(self, what: str, path: str, container: str, body: dict[str, Any]) -> None:
        body = {"Container": container, **body}
        self.call(
            what,
            container,
            lambda c: _checked(c.post(self._url(path), json=body, timeout=c.timeout)),
        )

    def _url(self, path: str) -> str:
        client = self._open()
        return f"{client.base_url}/v{client.api_version}/{path}"

    def _open(self) -> APIClient:
        if self._client is None:
            raise RuntimeError("use `with Engine(host) as engine`")
        return self._client

    def _tls(self) -> TLSConfig | bool:
        host = self.host
        if not (host.tls_ca or host.tls_cert or host.tls_key):
            return False
        for path in filter(None, (host.tls_ca, host.tls_cert, host.tls_key)):
            if not Path(path).is_file():
                raise Permanent(f"TLS file {path} for Docker at {host.base_url} is not there")
        pair = (host.tls_cert, host.tls_key) if host.tls_cert and host.tls_key else None
        return TLSConfig(client_cert=pair, ca_cert=host.tls_ca, verify=True)


def _names(item: dict[str, Any]) -> list[str]:
    return [name_of({"Name": n}) for n in item.get("Names") or [] if n.count("/") == 1]


def _checked(response: requests.Response) -> requests.Response:
    response.raise_for_status()
    return response
