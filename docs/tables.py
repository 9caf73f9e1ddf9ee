"""Tables of the generated pages, made from the code."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from datetime import date
from typing import Any, get_args

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from blocks.alert_routes import AlertRoute, AlertsSpec, Storm
from blocks.alertmanager_server import AlertmanagerSpec
from blocks.audit_spec import AuditSpec, S3Spec
from blocks.check_policy import CheckPolicy, TokenLimits
from blocks.dead_man import DeadMan
from blocks.docker_host import DockerHostSpec
from blocks.escalation import (
    BusinessHours,
    ChecklistItem,
    EscalationSpec,
    PagerDutySpec,
    RotationSpec,
    SeveritySpec,
)
from blocks.gpu import Gpu
from blocks.gpu_host import GpuHostSpec
from blocks.ladder import Ladder
from blocks.models import ServingConfig
from blocks.people import ApprovalSpec, Member, PeopleSpec, ProcedureRoles, Roles
from blocks.prometheus_server import PrometheusSpec
from blocks.service import (
    ArgumentsSource,
    ChangePolicy,
    CommandRuntimeSpec,
    DockerRuntimeSpec,
    EnvFileSource,
    LitellmSource,
    Model,
    NoSource,
    Service,
    Slo,
    YamlSource,
)
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from blocks.windows import Window
from deployments.sandbox.litellm_settings import ProxySettings
from deployments.sandbox.vllm_settings import PRESETS, Settings
from deployments.scenario_steps import AlertStep, Came, ClickStep, CommandStep, Step
from deployments.scenarios import Expectation, Platform, Proxy, Scenario, Trigger, load_all
from docs.words import MEANINGS, SETTINGS
from flows.decisions.diagnosis_advice import ADVICE, DEFINITIONS, REMEDIES
from flows.report import Options

# ---- tables of a pydantic model -----------------------------------------------------------------


def model_table(model: type[BaseModel]) -> str:
    """key, type, default, meaning: one row per field."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    texts = _docstrings(model)
    for name, field in model.model_fields.items():
        kind = _kind(field)
        meaning = (field.description or texts.get(name) or MEANINGS.get(name, "")).strip()
        limits = _limits(field)
        words = f"{kind} ({limits})" if limits else kind
        rows.append(f"| `{field.alias or name}` | {words} | {_default(field)} | {line(meaning)} |")
    return "\n".join(rows)


_SECTIONS: dict[Any, str] = {
    Service: "[service](#services)",
    DockerHostSpec: "[Docker host](#docker_hosts)",
    SlackSpec: "[slack](#slack)",
    Window: "[window](#freeze-and-maintenance)",
    Ladder: "[ladder](stack.md#ladder)",
    ChangePolicy: "[policy](#policy)",
    Slo: "[slo](#slo)",
    Gpu: "[gpu](#gpu)",
    GpuHostSpec: "[host](#hosts)",
    PrometheusSpec: "[prometheus](#prometheus)",
    AlertmanagerSpec: "[alertmanager](#alertmanager)",
    AuditSpec: "[audit](#audit)",
    S3Spec: "[s3](#audit)",
    CheckPolicy: "[checks](#checks)",
    TokenLimits: "[token limits](#token_limits)",
    LitellmSource: "[litellm](#serving)",
    NoSource: "[none](#serving)",
    Proxy: "[proxy](#proxy)",
    Model: "[model](#model)",
    DockerRuntimeSpec: "[docker](#runtime)",
    CommandRuntimeSpec: "[command](#runtime)",
    ArgumentsSource: "[arguments](#serving)",
    YamlSource: "[yaml](#serving)",
    EnvFileSource: "[env-file](#serving)",
    AlertsSpec: "[alerts](#alerts)",
    AlertRoute: "[route](#alerts)",
    Storm: "[storm](#alerts)",
    PeopleSpec: "[people](#people)",
    Member: "[member](#people)",
    Roles: "[roles](#people)",
    ProcedureRoles: "[roles](#people)",
    ApprovalSpec: "[approval](#approval)",
    DeadMan: "[pings](#dead_man)",
    EscalationSpec: "[escalation](#escalation)",
    SeveritySpec: "[severity](#severities)",
    ChecklistItem: "[checklist item](#checklist)",
    RotationSpec: "[rotation](#rotations)",
    BusinessHours: "[business hours](#business_hours)",
    PagerDutySpec: "[pagerduty](#pagerduty)",
    date: "date",
    Platform: "[platform](#platform)",
    Trigger: "[trigger](#trigger)",
    Expectation: "[expectation](#expect)",
    Came: "[came](#came)",
    Step: "[step](#steps)",
    AlertStep: "[alert](#alert)",
    CommandStep: "[command](#command)",
    ClickStep: "[click](#click)",
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}


def _kind(field: FieldInfo) -> str:
    if (field.description or "").startswith("reference to "):
        return "secret reference"
    return type_of(field.annotation)


def type_of(kind: Any) -> str:
    if kind in _SECTIONS or kind in _WORDS:
        return _SECTIONS.get(kind) or _WORDS[kind]
    origin, args = getattr(kind, "__origin__", None), get_args(kind)
    if getattr(kind, "__metadata__", None):
        marks = " ".join(str(getattr(m, "description", "")) for m in kind.__metadata__)
        return "secret reference" if "reference to a secret" in marks else type_of(args[0])
    if "Literal" in str(origin or kind):
        return ", ".join(f"`{a}`" for a in args)
    if origin in (tuple, list):
        return f"list of {type_of(args[0])}"
    if origin is dict:
        return f"section: {type_of(args[0])} → {type_of(args[1])}"
    if args:
        return " or ".join(type_of(a) for a in args if a is not type(None))
    return "date and time with offset" if "date" in str(kind).lower() else str(kind)


def _limits(field: FieldInfo) -> str:
    words = []
    for mark in field.metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (value := getattr(mark, name, None)) is not None:
                words.append(f"{sign} {value:,g}".replace(",", " "))
        if isinstance(mark, annotated_types.MinLen) and mark.min_length:
            words.append("not empty")
    return ", ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    return shown(field.default if field.default is not PydanticUndefined else "")


def shown(value: Any) -> str:
    """A default as it would be written in YAML."""
    if isinstance(value, BaseModel):
        return "as below" if type(value) is not ArgumentsSource else "`{kind: arguments}`"
    if value in (None, "", (), [], {}):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _docstrings(model: type) -> dict[str, str]:
    """The string literals that follow fields: `name: type = default` / `\"\"\"meaning\"\"\"`."""
    found: dict[str, str] = {}
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(model))).body[0]
    pairs = zip(body.body, body.body[1:], strict=False)  # type: ignore[attr-defined]
    for field, text in pairs:
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[str(field.target.id)] = str(getattr(text.value, "value", ""))  # type: ignore[union-attr]
    return found


# ---- other tables -------------------------------------------------------------------------------


def labels_table() -> str:
    """The labels of a diagnosis, their meaning, the procedure or a person, and what to do."""
    rows = ["| label | means | acted on by | what to do |", "|---|---|---|---|"]
    for label, meaning in DEFINITIONS.items():
        advice = re.sub(r" ?\{\w+\}", "", ADVICE[label])
        remedy = REMEDIES.get(label, "").replace("_", "-")
        by = f"[{remedy}](procedures/{remedy}.md)" if remedy else "a person"
        rows.append(f"| `{label}` | {line(meaning)} | {by} | {line(advice)} |")
    return "\n".join(rows)


def scenarios_table() -> str:
    """What can be played."""
    rows = ["| scenario | what happens | diagnosis | verdict |", "|---|---|---|---|"]
    for s in load_all():
        named = f"`{s.expect.diagnosis}`" if s.expect.diagnosis else "–"
        blocked = f" ({s.expect.blocked_by})" if s.expect.blocked_by else ""
        verdict = f"{s.expect.verdict or '–'}{blocked}"
        rows.append(f"| `{s.name}` | {line(s.title)} | {named} | {verdict} |")
    return "\n".join(rows)


def settings_table(kind: type[Any] = Settings) -> str:
    """A stand-in's numbers."""
    texts = _docstrings(kind)
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        meaning = line(texts.get(field.name) or SETTINGS[field.name])
        rows.append(f"| `{field.name}` | {shown(field.default)} | {meaning} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    **{
        f"keys {name}": lambda model=model: model_table(model)  # type: ignore[misc]
        for name, model in {
            "stack": StackSpec,
            "service": Service,
            "docker host": DockerHostSpec,
            "docker runtime": DockerRuntimeSpec,
            "command runtime": CommandRuntimeSpec,
            "arguments": ArgumentsSource,
            "yaml": YamlSource,
            "env-file": EnvFileSource,
            "litellm": LitellmSource,
            "none": NoSource,
            "host": GpuHostSpec,
            "prometheus": PrometheusSpec,
            "alertmanager": AlertmanagerSpec,
            "audit": AuditSpec,
            "s3": S3Spec,
            "checks": CheckPolicy,
            "token limits": TokenLimits,
            "proxy": Proxy,
            "ladder": Ladder,
            "policy": ChangePolicy,
            "gpu": Gpu,
            "model": Model,
            "slo": Slo,
            "slack": SlackSpec,
            "alerts": AlertsSpec,
            "route": AlertRoute,
            "storm": Storm,
            "people": PeopleSpec,
            "member": Member,
            "roles": Roles,
            "approval": ApprovalSpec,
            "dead man": DeadMan,
            "escalation": EscalationSpec,
            "severity": SeveritySpec,
            "checklist item": ChecklistItem,
            "rotation": RotationSpec,
            "business hours": BusinessHours,
            "pagerduty": PagerDutySpec,
            "window": Window,
            "serving": ServingConfig,
            "options": Options,
            "scenario": Scenario,
            "platform": Platform,
            "trigger": Trigger,
            "expectation": Expectation,
            "came": Came,
            "step": Step,
            "alert step": AlertStep,
            "command step": CommandStep,
            "click step": ClickStep,
        }.items()
    },
    "labels": labels_table,
    "scenarios": scenarios_table,
    "settings": settings_table,
    "proxy settings": lambda: settings_table(ProxySettings),
    "presets": lambda: ", ".join(f"`{name}`" for name in PRESETS),
}
