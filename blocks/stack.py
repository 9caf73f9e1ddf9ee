"""The inventory of one platform: `Stack`, its YAML file and its Prefect blocks."""

import re
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from blocks.docker_host import DockerHost, DockerHostSpec
from blocks.errors import Permanent
from blocks.models import Frozen
from blocks.service import Service
from blocks.slack_workspace import SlackSpec, SlackWorkspace
from blocks.vllm_server import VllmServer
from blocks.windows import Window

_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?")


def lock_name(stack: str, service: str) -> str:
    """The global concurrency limit that a change of this service holds (Prefect forbids `/`)."""
    return f"service:{stack}:{service}"


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        suggestion = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "my-platform"
        raise ValueError(
            f"{value!r} is no name here: lower-case letters, digits and dashes; try {suggestion!r}"
        )
    return value


class StackSpec(Frozen):
    """One platform. See docs/stack.md for every key."""

    name: str
    description: str = ""
    timezone: str = Field(default="UTC", description="IANA name; schedules and windows use it")
    schedules: bool = Field(default=False, description="run the scheduled procedures")
    docker_hosts: dict[str, DockerHostSpec] = {}
    services: dict[str, Service]
    slack: SlackSpec | None = None
    freeze: tuple[Window, ...] = Field(default=(), description="no change in these windows")
    maintenance: tuple[Window, ...] = Field(
        default=(), description="the only windows in which services may be stepped back up"
    )
    _name_slug = field_validator("name")(_slug)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as e:
            raise ValueError(f"{value!r} is no IANA time zone; e.g. Europe/Berlin") from e
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "StackSpec":
        if not self.services:
            raise ValueError("services: at least one service is needed")
        seen: dict[str, str] = {}
        for name, service in self.services.items():
            try:
                _slug(name)
            except ValueError as e:
                raise ValueError(f"services.{name}: {e}") from e
            if service.runtime.kind == "docker":
                host = service.runtime.host
                if host != "local" and host not in self.docker_hosts:
                    known = ", ".join(["local", *self.docker_hosts])
                    raise ValueError(
                        f"services.{name}.runtime.host: {host!r} is not under docker_hosts "
                        f"(known: {known})"
                    )
            for what, target in _targets(service):
                if other := seen.get(target):
                    raise ValueError(
                        f"services.{name} and services.{other} are one thing under two locks: "
                        f"both use {what} {target.split(' ', 1)[1]}; describe it once"
                    )
                seen[target] = name
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


def _targets(service: Service) -> list[tuple[str, str]]:
    """What a change of the service touches: nothing of it may stand under two locks."""
    found = [("the url", f"url {service.url}")]
    if service.runtime.kind == "docker":
        container = f"container {service.runtime.host}/{service.runtime.container}"
        found.append(("the container", container))
    if service.serving.kind != "arguments":
        found.append(("the file", f"file {service.serving.path}"))
    return found


def parse_stack(text: str, where: str = "stack.yaml") -> StackSpec:
    """Read an inventory.

    Raises:
        Permanent: one line per fault: the key's path with its line, the value, the remedy.
    """
    yaml = YAML(typ="rt")
    try:
        data = yaml.load(text)
    except YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise Permanent(f"{where}: {line}{getattr(e, 'problem', None) or e}") from e
    if not isinstance(data, dict):
        raise Permanent(f"{where}: expected keys such as name: and services:, found {data!r}")
    try:
        return StackSpec.model_validate(_plain(data))
    except ValidationError as e:
        raise Permanent("\n".join(_faults(e, data, where))) from e


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


_KINDS = {"docker", "command", "arguments", "yaml", "env-file"}


def _faults(error: ValidationError, data: Any, where: str) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        # A discriminated union adds its branch to the path; the file has no such key.
        path = [p for i, p in enumerate(fault["loc"]) if not (i and p in _KINDS)]
        line = _line_of(data, path)
        at = f"{where}{f':{line}' if line else ''}"
        key = ".".join(str(p) for p in path)
        lines.append(f"{at}: {key + ': ' if key else ''}{_explain(fault, path)}")
    return lines


def _explain(fault: Any, path: list[Any]) -> str:
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"unknown key {path[-1]!r}; remove it or see docs/stack.md for the known ones"
    if kind == "missing":
        return "is missing; add it"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return message  # ours: it names the value where that is safe
    return f"{message} (found {value!r})" if not isinstance(value, dict) else message


def _line_of(data: Any, path: list[Any]) -> int | None:
    """Line of the deepest key of `path` that the file has; ruamel keeps the marks in `lc`."""
    line = None
    for key in path:
        try:
            mark = data.lc.key if hasattr(data, "items") else data.lc.item
            line = int(mark(key)[0]) + 1
            data = data[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


class Stack(Block):
    """One platform's inventory. Services, Docker hosts and Slack are blocks of their own,
    named `<stack>-<name>`, so that an operator can edit each in the UI.
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
        await save(DockerHost, f"{spec.name}-{name}", host.model_dump(mode="json"))
    for name, service in spec.services.items():
        await save(VllmServer, f"{spec.name}-{name}", service.model_dump(mode="json"))
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
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise Permanent(f"{path}: cannot be read: {type(e).__name__}") from e
    return parse_stack(text, str(path))


async def load_stack(ref: str) -> StackSpec:
    """The inventory by registered name, or from a YAML file.

    Raises:
        Permanent: unknown name, unreadable file, or a block edited into nonsense.
    """
    if is_file(ref):
        return read_stack_file(ref)
    try:
        stack = await _load(Stack, ref)
    except Permanent as e:
        raise Permanent(f"stack {ref!r} is not registered; run: runbooks apply STACK.yaml") from e
    fields: dict[str, Any] = {
        "name": ref,
        **{k: stack[k] for k in ("description", "timezone", "schedules", "freeze", "maintenance")},
        "services": {n: await _load(VllmServer, f"{ref}-{n}") for n in stack["services"]},
        "docker_hosts": {n: await _load(DockerHost, f"{ref}-{n}") for n in stack["docker_hosts"]},
        "slack": await _load(SlackWorkspace, ref) if stack["slack"] else None,
    }
    try:
        return StackSpec.model_validate(fields)
    except ValidationError as e:
        raise Permanent("\n".join(_faults(e, fields, f"blocks of {ref}"))) from e


async def _load(kind: type[Block], name: str) -> dict[str, Any]:
    try:
        block = await kind.load(name)
    except (ValueError, ObjectNotFound) as e:
        raise Permanent(f"block {kind.get_block_type_slug()}/{name} does not exist") from e
    known = set(kind.model_fields)
    return {k: v for k, v in block.model_dump(mode="json").items() if k in known}
