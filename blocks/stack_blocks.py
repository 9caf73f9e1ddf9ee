"""The inventory as Prefect blocks: saved by `runbooks apply`, edited in the UI, loaded by runs."""

from collections.abc import Sequence
from typing import Any

from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python as jsonable

from blocks.alertmanager_server import AlertmanagerServer
from blocks.docker_host import DockerHost
from blocks.errors import Permanent
from blocks.gpu_host import GpuHost
from blocks.http_service import HttpService
from blocks.litellm_proxy import LitellmProxy
from blocks.prometheus_server import PrometheusServer
from blocks.slack_workspace import SlackWorkspace
from blocks.stack import StackSpec, is_file, read_stack_file
from blocks.stack_rules import is_slug
from blocks.stack_text import faults
from blocks.vllm_server import VllmServer

ENGINES: dict[str, type[Block]] = {"vllm": VllmServer, "litellm": LitellmProxy, "http": HttpService}
MANY: dict[str, type[Block]] = {"docker_hosts": DockerHost, "hosts": GpuHost}
"""Sections of named parts: each part is a block `<stack>--<name>`."""
ONE: dict[str, type[Block]] = {
    "slack": SlackWorkspace,
    "prometheus": PrometheusServer,
    "alertmanager": AlertmanagerServer,
}
"""Sections that are one block, named as the stack."""
PLAIN = (
    "description",
    "timezone",
    "schedules",
    "freeze",
    "maintenance",
    "certificates",
    "checks",
    "token_limits",
    "alerts",
    "people",
    "approval",
    "escalation",
    "audit",
    "dead_man",
)
"""What stands in the Stack block itself."""


def block_name(stack: str, part: str) -> str:
    """The name of the block of one part.

    Two dashes, which no name contains: `a` + `b-c` and `a-b` + `c` are two blocks.
    """
    return f"{stack}--{part}"


class Stack(Block):
    """A platform's inventory; its parts are blocks of their own, `<stack>--<name>` or `<stack>`."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "Stack"
    _block_type_slug = "stack"
    _description = "The inventory of one LLM platform, written by `runbooks apply STACK.yaml`."

    description: str = ""
    timezone: str = "UTC"
    schedules: bool = False
    services: dict[str, str] = Field(description="service -> its engine, which is its block's type")
    docker_hosts: list[str] = []
    hosts: list[str] = []
    slack: bool = Field(default=False, description="whether a Slack workspace block exists")
    prometheus: bool = Field(default=False, description="whether a Prometheus block exists")
    alertmanager: bool = Field(default=False, description="whether an Alertmanager block exists")
    certificates: list[str] = []
    checks: dict[str, Any] = {}
    token_limits: dict[str, Any] = {}
    alerts: dict[str, Any] | None = None
    people: dict[str, Any] = {}
    approval: dict[str, Any] = {}
    escalation: dict[str, Any] | None = None
    audit: dict[str, Any] = {}
    dead_man: dict[str, Any] = {}
    freeze: list[dict[str, Any]] = []
    maintenance: list[dict[str, Any]] = []


async def save_stack(spec: StackSpec) -> None:
    """Register the inventory as Prefect blocks; running it twice changes nothing."""
    values = spec.model_dump(mode="json")
    parts: dict[type[Block], dict[str, Any]] = {}
    for name, service in spec.services.items():
        kind = ENGINES[service.engine]
        parts.setdefault(kind, {})[block_name(spec.name, name)] = values["services"][name]
    for section, kind in MANY.items():
        parts[kind] = {block_name(spec.name, n): part for n, part in values[section].items()}
    for section, kind in ONE.items():
        parts[kind] = {spec.name: values[section]} if values[section] else {}
    fields = {
        **{k: values[k] for k in PLAIN},
        **{k: list(values[k]) for k in MANY},
        **{k: values[k] is not None for k in ONE},
        "services": {name: service.engine for name, service in spec.services.items()},
    }
    parts[Stack] = {spec.name: fields}  # last, so that a stack that can be loaded is complete
    async with get_client() as client:
        for kind, wanted in parts.items():
            await _save(client, kind, wanted)


async def _save(client: PrefectClient, kind: type[Block], wanted: dict[str, Any]) -> None:
    """Create or update the blocks of one kind; one that is so already is not written.

    `Block.save` registers its type anew each time, which takes half a second for each block.
    """
    if not wanted:
        return
    try:
        await kind.aregister_type_and_schema(client=client)
    except ObjectAlreadyExists:  # another process registers it for the first time as well
        await kind.aregister_type_and_schema(client=client)
    there = {d.name: d for d in await _documents(client, kind)}
    for name, fields in wanted.items():
        document = kind(**fields)._to_block_document(name=name)
        schema, data = document.block_schema_id, jsonable(document.data)
        found = there.get(name)
        if found is None:
            new = BlockDocumentCreate(
                name=name,
                data=data,
                block_schema_id=schema,
                block_type_id=document.block_type_id,
            )
            try:
                await client.create_block_document(new)
                continue
            except ObjectAlreadyExists:  # a busy server: said twice by Prefect's client, or by two
                found = (await _all(client, kind))[name]
        if (found.block_schema_id, found.data) != (schema, data):
            await client.update_block_document(
                found.id, BlockDocumentUpdate(block_schema_id=schema, data=data)
            )


async def _documents(client: PrefectClient, kind: type[Block]) -> list[BlockDocument]:
    """Every block of one kind; empty when the kind was never registered."""
    found: list[BlockDocument] = []
    while True:
        try:
            page = await client.read_block_documents_by_type(
                kind.get_block_type_slug(), offset=len(found), limit=PAGE
            )
        except PrefectHTTPStatusError as e:
            if e.response.status_code != 404:
                raise
            return found
        found += page
        if len(page) < PAGE:
            return found


PAGE = 200
"""The most that Prefect gives at once."""


Documents = dict[type[Block], dict[str, BlockDocument]]
"""Blocks as they are stored: kind -> name -> document."""


async def load_stack(ref: str) -> StackSpec:
    """The inventory by registered name, or from a YAML file.

    Raises:
        Permanent: unknown name, unreadable file, or a block edited into nonsense.
    """
    if is_file(ref):
        return read_stack_file(ref)
    async with get_client() as client:
        there: Documents = {Stack: await _named(client, Stack, ref)}
        document = there[Stack].get(ref)
        if document is None:
            raise Permanent(f"stack {ref!r} is not registered; run: runbooks apply STACK.yaml")
        stack = _values(Stack, document)
        engines = set(_engines(stack).values())
        for engine, kind in ENGINES.items():
            there[kind] = await _all(client, kind) if engine in engines else {}
        for section, kind in MANY.items():
            there[kind] = await _all(client, kind) if stack.get(section) else {}
        for section, kind in ONE.items():
            there[kind] = await _named(client, kind, ref) if stack.get(section) else {}
    return _assembled(ref, there)


async def load_stacks() -> dict[str, StackSpec | Permanent]:
    """Every registered inventory, or what is wrong with it, by name.

    Each kind of block is read once, however many inventories there are.
    """
    async with get_client() as client:
        kinds: list[type[Block]] = [Stack, *ENGINES.values(), *MANY.values(), *ONE.values()]
        there: Documents = {kind: await _all(client, kind) for kind in kinds}
    found: dict[str, StackSpec | Permanent] = {}
    for name in sorted(there[Stack]):
        try:
            found[name] = _assembled(name, there)
        except Permanent as e:
            found[name] = e
    return found


async def _all(client: PrefectClient, kind: type[Block]) -> dict[str, BlockDocument]:
    return {str(d.name): d for d in await _documents(client, kind)}


async def _named(client: PrefectClient, kind: type[Block], name: str) -> dict[str, BlockDocument]:
    """The block of that name, if there is one."""
    if not is_slug(name):
        return {}
    try:
        found = await client.read_block_document_by_name(name, kind.get_block_type_slug())
    except ObjectNotFound:
        return {}
    return {name: found}


def _engines(stack: dict[str, Any]) -> dict[str, str]:
    """Service -> its engine."""
    engines = stack.get("services")
    if isinstance(engines, list):  # registered by 0.1, which knew vLLM servers only
        return dict.fromkeys(map(str, engines), "vllm")
    known = engines if isinstance(engines, dict) else {}
    return {n: e if e in ENGINES else "vllm" for n, e in known.items()}


def _assembled(ref: str, there: Documents) -> StackSpec:
    """One inventory out of its blocks.

    Raises:
        Permanent: a block is missing, or was edited into nonsense.
    """
    stack = _values(Stack, there[Stack][ref])
    wanted = _engines(stack)
    fields: dict[str, Any] = {"name": ref, **{k: v for k, v in stack.items() if k in PLAIN}}
    fields["services"] = {n: _part(ENGINES[e], ref, n, there) for n, e in wanted.items()}
    for section, kind in MANY.items():
        listed = stack.get(section)
        names = map(str, listed if isinstance(listed, list) else [])
        fields[section] = {name: _part(kind, ref, name, there) for name in names}
    for section, kind in ONE.items():
        one = there[kind].get(ref) if stack.get(section) else None
        fields[section] = _values(kind, one) if one else None
    try:
        return StackSpec.model_validate(fields)
    except ValidationError as e:
        raise Permanent(
            "\n".join(faults(e.errors(), StackSpec, lambda p: _block(ref, p, wanted)))
        ) from None


async def registered() -> dict[str, dict[str, Any]]:
    """The stored values of every registered stack's own block, by name, sorted."""
    async with get_client() as client:
        found = await _documents(client, Stack)
    return {str(d.name): _values(Stack, d) for d in sorted(found, key=lambda d: str(d.name))}


def _block(ref: str, path: Sequence[Any], engines: Any) -> str:
    """Where in the Prefect UI the fault of a registered inventory is edited."""
    head = path[0] if path else ""
    if len(path) > 1 and (head == "services" or head in MANY):
        kind = MANY.get(head) or ENGINES.get(str(dict(engines or {}).get(path[1])), VllmServer)
        return f"block {kind.get_block_type_slug()}/{block_name(ref, path[1])}"
    return f"block {ONE.get(head, Stack).get_block_type_slug()}/{ref}"


def _part(kind: type[Block], ref: str, name: str, there: Documents) -> dict[str, Any]:
    """The values of a named part.

    Raises:
        Permanent: it does not exist.
    """
    document = there[kind].get(block_name(ref, name))
    if document is None:
        raise Permanent(
            f"block {kind.get_block_type_slug()}/{block_name(ref, name)} does not exist, and "
            f"stack {ref!r} names it; run: runbooks apply STACK.yaml"
        )
    return _values(kind, document)


def _values(kind: type[Block], document: BlockDocument) -> dict[str, Any]:
    """As they are stored: whoever edited them is told by our own rules."""
    return {k: v for k, v in document.data.items() if k in kind.model_fields}
