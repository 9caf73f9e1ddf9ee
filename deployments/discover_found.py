"""What `runbooks init` found: values only, none of them a secret. No I/O here."""

from collections.abc import Mapping
from typing import Any, Literal

from blocks.models import Frozen, ServingConfig

Kind = Literal[
    "vllm",
    "litellm",
    "qdrant",
    "open-webui",
    "prometheus",
    "alertmanager",
    "node-exporter",
    "dcgm-exporter",
    "other",
]
TITLES: dict[Kind, str] = {
    "vllm": "vLLM",
    "litellm": "LiteLLM",
    "qdrant": "Qdrant",
    "open-webui": "Open WebUI",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "node-exporter": "node_exporter",
    "dcgm-exporter": "dcgm-exporter",
    "other": "not recognised",
}
SERVICES: tuple[Kind, ...] = ("vllm", "litellm", "qdrant", "open-webui")
"""Kinds that become a service of the inventory; the others have a section or a comment."""
DEFAULT_PORT: dict[Kind, int] = {
    "vllm": 8000,
    "litellm": 4000,
    "qdrant": 6333,
    "open-webui": 8080,
    "prometheus": 9090,
    "alertmanager": 9093,
    "node-exporter": 9100,
    "dcgm-exporter": 9400,
}


class Address(Frozen):
    """One way to a port of a container, from where `runbooks` runs."""

    url: str
    inside: int
    """The port the server itself listens on."""
    note: str = ""
    """What an operator should know of this way; empty when there is nothing."""


class Reply(Frozen):
    """The whole answer to one GET; a GET that got none has no Reply."""

    status: int
    body: Any = None
    """JSON where it is JSON, else the text."""


class Probe(Frozen):
    """What one address answered: path -> reply. Without replies nothing there speaks HTTP."""

    address: Address
    replies: Mapping[str, Reply] = {}

    def ok(self, path: str) -> Any:
        """The body of a 200, else None."""
        reply = self.replies.get(path)
        return reply.body if reply and reply.status == 200 else None

    def status(self, path: str) -> int:
        """The status of a reply; 0 where there is none."""
        reply = self.replies.get(path)
        return reply.status if reply else 0


class Compose(Frozen):
    """Docker Compose's labels of a container."""

    project: str
    service: str
    directory: str = ""
    files: tuple[str, ...] = ()


class Found(Frozen):
    """One container, and what it is taken for. Holds no environment and no raw argument."""

    container: str
    image: str
    kind: Kind
    how: str
    """How it was recognised, in a few words."""
    certain: bool = True
    """False: by an answer only, which on the host's network may be another process's."""
    running: bool = True
    state: str = "running"
    address: Address | None = None
    answered: bool | None = None
    """None: it was not asked, since it is down or has no address."""
    ports: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """`host:port` under which other containers, and this machine, know its server."""
    wants_key: bool = False
    key_why: str = ""
    tls: bool = False
    config: ServingConfig = ServingConfig()
    config_note: str = ""
    length: int | None = None
    """max_model_len as it serves it, tokens."""
    served: str | None = None
    env: dict[str, str] = {}
    """Serving field -> name of the variable that sets it (never its value)."""
    file: str | None = None
    """The config file's path on the engine's host."""
    file_note: str = ""
    compose: Compose | None = None
    refusal: str = ""
    """Why procedures must not put a new container in its place; empty when they may."""
    labels: dict[str, str] = {}
    """Its labels in Prometheus, where a scrape target is it."""
    backends: dict[str, str] = {}
    """LiteLLM: model -> api_base."""

    @property
    def url(self) -> str:
        """Its base URL; empty when it has no address."""
        return self.address.url if self.address else ""

    @property
    def place(self) -> str:
        """`host:port` of its URL: http and https at one port are one server."""
        return self.url.partition("://")[2]


class Device(Frozen):
    """One GPU of this machine."""

    name: str
    vram_gib: float


class Inventory(Frozen):
    """Everything `runbooks init` found on one Docker Engine."""

    engine: str
    local: bool
    """Whether the engine is this machine's."""
    machine: str = ""
    """Host name of the engine's machine."""
    timezone: str = "UTC"
    gpus: tuple[Device, ...] = ()
    gpu_problem: str = ""
    """Why there are none; empty when there are."""
    found: tuple[Found, ...] = ()
    problem: str = ""
    """Why nothing could be looked at; empty when it could."""

    def of(self, *kinds: Kind) -> list[Found]:
        """What was taken for one of these kinds, in order of the container's name."""
        return [f for f in self.found if f.kind in kinds]

    @property
    def services(self) -> list[Found]:
        """What can be written as a service: it has an address, and is the only one there.

        Of several at one address the running one is taken: the others are old containers whose
        port it took over.
        """
        candidates = [f for f in self.of(*SERVICES) if f.address]
        chosen: dict[str, Found] = {}
        for f in sorted(candidates, key=lambda f: (not f.running, not f.certain, f.container)):
            chosen.setdefault(f.place, f)
        return [f for f in candidates if chosen[f.place] is f]
