"""The inventory of one platform: `StackSpec` and its YAML file."""

from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from blocks.alert_routes import AlertsSpec
from blocks.alertmanager_server import AlertmanagerSpec
from blocks.audit_spec import AuditSpec
from blocks.check_policy import CheckPolicy, TokenLimits
from blocks.dead_man import DeadMan
from blocks.docker_host import DockerHostSpec
from blocks.errors import Permanent
from blocks.escalation import EscalationSpec
from blocks.gpu_host import GpuHostSpec
from blocks.models import Frozen
from blocks.people import ApprovalSpec, PeopleSpec
from blocks.prometheus_server import PrometheusSpec
from blocks.service import Service
from blocks.slack_workspace import SlackSpec
from blocks.stack_rules import contradictions, slug, unreachable
from blocks.stack_text import MAX_CHARACTERS, faults, read
from blocks.windows import Window


def lock_name(stack: str, service: str) -> str:
    """The global concurrency limit that a change of this service holds (Prefect forbids `/`)."""
    return f"service:{stack}:{service}"


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
    hosts: dict[str, GpuHostSpec] = Field(
        default={}, description="machines whose GPUs, processors and disks are looked at, by name"
    )
    prometheus: PrometheusSpec | None = Field(default=None, description="where metrics are kept")
    alertmanager: AlertmanagerSpec | None = Field(
        default=None, description="where firing alerts are asked for"
    )
    certificates: tuple[str, ...] = Field(
        default=(),
        description="further TLS endpoints (HOST:PORT) or PEM files whose expiry is watched; "
        "those of https:// URLs are anyway",
    )
    checks: CheckPolicy = Field(default=CheckPolicy(), description="thresholds of check-platform")
    token_limits: TokenLimits = Field(
        default=TokenLimits(), description="the proxy's limits as shares of the context"
    )
    slack: SlackSpec | None = Field(default=None, description="where people are told")
    alerts: AlertsSpec | None = Field(default=None, description="what alerts may start")
    people: PeopleSpec = Field(default=PeopleSpec(), description="who may do what")
    approval: ApprovalSpec = Field(default=ApprovalSpec(), description="how plans are approved")
    escalation: EscalationSpec | None = Field(default=None, description="who is woken, and when")
    audit: AuditSpec = Field(default=AuditSpec(), description="where the audit trail goes")
    dead_man: dict[str, DeadMan] = Field(
        default={}, description="pings of scheduled procedures, by name"
    )
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
        found = contradictions(self.services, self.docker_hosts, self.hosts)
        found += unreachable(self.escalation, self.people, has_slack=self.slack is not None)
        if found:
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
