"""The inventory of one platform: `Stack`, its YAML file and its Prefect blocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect import get_client
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from blocks.docker_host import DockerHost, DockerHostSpec
from blocks.errors import Permanent
from blocks.models import Frozen
from blocks.service import Service
from blocks.slack_workspace import SlackSpec, SlackWorkspace
from blocks.stack_rules import contradictions, is_slug, slug
from blocks.stack_text import MAX_CHARACTERS, faults, read
from blocks.vllm_server import VllmServer
from blocks.windows import Window


def lock_name(stack: str, service: str) -> str:
    """The global concurrency limit that a change of this service holds (Prefect forbids `/`)."""
    return f"service:{stack}:{service}"


def block_name(stack: str, part: str) -> str:
    """The name of a service's or Docker host's block.

    Two dashes, which no name contains: `a` + `b-c` and `a-b` + `c` are two blocks.
    """
    return f"{stack}--{part}"


class StackSpec(Frozen):
    """One platform. See docs/stack.md for every key."""

    name: str = Field(description="lower-case letters, digits, single dashes")
    description: str = Field(default="", description="for people")
    timezone: str = Field(default="UTC", description="IANA name; schedules and windows use it")
    schedules: bool = Field(default=False, description="run the scheduled procedures")
    docker_hosts: dict[str, DockerHostSpec] = Field(
        default={}, description="Docker Engines by name; `local` needs no entry"
    )
    services: dict[str, Service] = Field(description="what is served, by name")
    slack: SlackSpec | None = Field(default=None, description="where people are told")
    freeze: tuple[Window, ...] = Field(default=(), description="no change in these windows")
    maintenance: tuple[Window, ...] = Field(
        default=(), description="the only windows in which services may be stepped back up"
    )
    _name_slug = field_validator("name")(slug)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as e:
            raise ValueError(
                f"{value[:60]!r} is no IANA time zone; write one such as Europe/Berlin or UTC"
            ) from e
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "StackSpec":
        if found := contradictions(self.services, self.docker_hosts):
            # pydantic knows no path for these: stack_text.faults takes it from the context.
            raise PydanticCustomError(
                "inventory", "the inventory contradicts itself", {"faults": found}
            )
        return self

    def service(self, name: str) -> Service:
        """One service by name.

        Raises:
            Permanent: no such service; the message lists the known ones.
        """
        if name not in self.services:
            raise Permanent(
                f"service {name!r} is not in stack {self.name!r}; known: {', '.join(self.services)}"
            )
        return self.services[name]

    def docker_host(self, name: str) -> DockerHostSpec:
        """One Docker host; `local` is the engine's default socket unless the stack names it."""
        return self.docker_hosts.get(name) or DockerHostSpec()


def parse_stack(text: str, where: str = "stack.yaml") -> StackSpec:
    """Read an inventory.

    Raises:
        Permanent: one line per fault: file and line, the key's path, what is wrong, the remedy.
    """
    document = read(text, where)
    try:
        return StackSpec.model_validate(document.values)
    except ValidationError as e:
        raise Permanent("\n".join(faults(e.errors(), StackSpec, document.at))) from None


class Stack(Block):
    """One platform's inventory. Services, Docker hosts and Slack are blocks of their own,
    named `<stack>--<name>`, so that an operator can edit each in the UI.
    """

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Stack"
    _block_type_slug = "stack"
    _description = "The inventory of one LLM platform, written by `runbooks apply STACK.yaml`."

    description: str = ""
    timezone: str = "UTC"
    schedules: bool = False
    services: list[str] = Field(description="names of the vLLM server blocks, without the prefix")
    docker_hosts: list[str] = []
    slack: bool = Field(default=False, description="whether a Slack workspace block exists")
    freeze: list[dict[str, Any]] = []
    maintenance: list[dict[str, Any]] = []


async def save_stack(spec: StackSpec) -> None:
    """Register the inventory as Prefect blocks; running it twice changes nothing."""

    async def save(block: type[Block], name: str, values: dict[str, Any]) -> None:
        await block(**values).save(name, overwrite=True)

    for name, host in spec.docker_hosts.items():
        await save(DockerHost, block_name(spec.name, name), host.model_dump(mode="json"))
    for name, service in spec.services.items():
        await save(VllmServer, block_name(spec.name, name), service.model_dump(mode="json"))
    if spec.slack:
        await save(SlackWorkspace, spec.name, spec.slack.model_dump(mode="json"))
    # Last, so that a stack that can be loaded is complete.
    await save(
        Stack,
        spec.name,
        {
            "description": spec.description,
            "timezone": spec.timezone,
            "schedules": spec.schedules,
            "services": list(spec.services),
            "docker_hosts": list(spec.docker_hosts),
            "slack": spec.slack is not None,
            "freeze": [w.model_dump(mode="json") for w in spec.freeze],
            "maintenance": [w.model_dump(mode="json") for w in spec.maintenance],
        },
    )


def is_file(ref: str) -> bool:
    """Whether a `stack` parameter means a file rather than a registered name."""
    return ref.endswith((".yaml", ".yml"))


def read_stack_file(path: str | Path) -> StackSpec:
    """Read and validate an inventory file.

    Raises:
        Permanent: the file cannot be read, or holds a fault.
    """
    try:
        with Path(path).open("rb") as f:
            data = f.read(4 * MAX_CHARACTERS + 1)  # a character has at most four bytes
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise Permanent(f"{path}:{line}: is not UTF-8; save it as UTF-8") from None
    except OSError as e:
        raise Permanent(f"{path}: cannot be read: {e.strerror}; give the inventory's file") from e
    return parse_stack(text, str(path))


async def load_stack(ref: str) -> StackSpec:
    """The inventory by registered name, or from a YAML file.

    Raises:
        Permanent: unknown name, unreadable file, or a block edited into nonsense.
    """
    if is_file(ref):
        return read_stack_file(ref)
    stack = await _load(Stack, ref) if is_slug(ref) else None
    if stack is None:
        raise Permanent(f"stack {ref!r} is not registered; run: runbooks apply STACK.yaml")
    fields: dict[str, Any] = {
        "name": ref,
        **{k: v for k, v in stack.items() if k in _OF_STACK},
        "services": await _parts(VllmServer, ref, stack.get("services")),
        "docker_hosts": await _parts(DockerHost, ref, stack.get("docker_hosts")),
        "slack": await _load(SlackWorkspace, ref) if stack.get("slack") else None,
    }
    try:
        return StackSpec.model_validate(fields)
    except ValidationError as e:
        raise Permanent(
            "\n".join(faults(e.errors(), StackSpec, lambda p: _block(ref, p)))
        ) from None


_OF_STACK = ("description", "timezone", "schedules", "freeze", "maintenance")


def _block(ref: str, path: Sequence[Any]) -> str:
    """Where in the Prefect UI the fault of a registered inventory is edited."""
    kinds: dict[Any, type[Block]] = {"services": VllmServer, "docker_hosts": DockerHost}
    if len(path) > 1 and path[0] in kinds:
        return f"block {kinds[path[0]].get_block_type_slug()}/{block_name(ref, path[1])}"
    kind = SlackWorkspace if path[:1] == ("slack",) else Stack
    return f"block {kind.get_block_type_slug()}/{ref}"


async def _parts(kind: type[Block], ref: str, names: Any) -> dict[str, Any]:
    if not isinstance(names, list):
        return {}
    found = {}
    for name in map(str, names):
        found[name] = await _load(kind, block_name(ref, name))
        if found[name] is None:
            raise Permanent(
                f"block {kind.get_block_type_slug()}/{block_name(ref, name)} does not exist, and "
                f"stack {ref!r} names it; run: runbooks apply STACK.yaml"
            )
    return found


async def _load(kind: type[Block], name: str) -> dict[str, Any] | None:
    """The values of a block as they are stored: whoever edited them is told by our own rules."""
    async with get_client() as client:
        try:
            found = await client.read_block_document_by_name(name, kind.get_block_type_slug())
        except ObjectNotFound:
            return None
    return {k: v for k, v in found.data.items() if k in kind.model_fields}
