"""Write the generated pages under docs/: `make docs`. A test fails when they are stale.

`docs/procedures/NAME.md` comes from the flow (docstring, parameters, schedule) and
`docs/prose/NAME.md`. `docs/stack.md`, `lifecycle.md`, `diagnosis.md` and `sandbox.md` come from
their prose, in which a line `{{ name }}` is replaced by a table made from the code.
"""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from blocks.docker_host import DockerHostSpec
from blocks.gpu import Gpu
from blocks.ladder import Ladder
from blocks.models import ServingConfig
from blocks.service import (
    ArgumentsSource,
    ChangePolicy,
    CommandRuntimeSpec,
    DockerRuntimeSpec,
    EnvFileSource,
    Model,
    Service,
    Slo,
    YamlSource,
)
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from blocks.windows import Window
from deployments.bootstrap import prefect_yaml
from deployments.running import load_flow, procedures
from deployments.sandbox.vllm_settings import PRESETS, Settings
from deployments.scenarios import Expectation, Platform, Scenario, Trigger, load_all
from flows.decisions.diagnosis_advice import ADVICE, DEFINITIONS, REMEDIES
from flows.report import Options

HERE = Path(__file__).resolve().parent
MADE = "<!-- made by `make docs` from the code and docs/prose/{name}.md; edit those -->"


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
        rows.append(f"| `{field.alias or name}` | {words} | {_default(field)} | {_line(meaning)} |")
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
    Model: "[model](#model)",
    DockerRuntimeSpec: "[docker](#runtime)",
    CommandRuntimeSpec: "[command](#runtime)",
    ArgumentsSource: "[arguments](#serving)",
    YamlSource: "[yaml](#serving)",
    EnvFileSource: "[env-file](#serving)",
    Platform: "[platform](#platform)",
    Trigger: "[trigger](#trigger)",
    Expectation: "[expectation](#expect)",
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}


#: Of fields whose module says it in its docstring, where a form of Prefect would not show it.
MEANINGS = {
    "from": "begin of an absolute window",
    "from_": "begin of an absolute window",
    "weekdays": "days on which a recurring window starts; none: every day",
    "start": 'begin of a recurring window, "HH:MM" in quotes',
    "end": 'its end; not after `start`: on the next day',
    "reason": "shown when it blocks a change",
    "count": "equal devices",
    "name": "as people call it",
    "max_num_seqs": "Concurrent sequences, count.",
    "max_num_batched_tokens": "Tokens in one step, count.",
    "kv_cache_dtype": "`auto`, `fp8`, `fp8_e5m2`, ...",
    "enforce_eager": "No CUDA graphs.",
    "tensor_parallel_size": "GPUs per replica, count.",
    "quantization": "`awq`, `gptq`, ...",
    "dtype": "`auto`, `half`, `bfloat16`, ...",
    "model": "Repository or path.",
    "served_model_name": "What `/v1/models` lists.",
    "title": "one line, lower case",
    "story": "what happens and what it teaches",
    "platform": "[the stand-in](#platform)",
    "trigger": "[what makes it fail](#trigger)",
    "procedure": "what is run then",
    "expect": "[what must come of it](#expect)",
    "preset": "hardware and faults by name",
    "style": "where its numbers live",
    "serving": "its numbers, by vLLM's names",
    "restart": "restart policy of its process",
    "ladder": "of the service, as in the inventory",
    "policy": "of the service; short times are set already",
    "until": "end of an absolute window, not in it; of a trigger, the state waited for",
    "diagnosis": "label",
    "acts": "how many plans were carried out",
    "verdict": "of the report",
    "blocked_by": "guard reason",
}


def _kind(field: FieldInfo) -> str:
    if (field.description or "").startswith("reference to "):
        return "secret reference"
    return _type(field.annotation)


def _type(kind: Any) -> str:
    if kind in _SECTIONS or kind in _WORDS:
        return _SECTIONS.get(kind) or _WORDS[kind]
    origin, args = getattr(kind, "__origin__", None), get_args(kind)
    if getattr(kind, "__metadata__", None):
        marks = " ".join(str(getattr(m, "description", "")) for m in kind.__metadata__)
        return "secret reference" if "reference to a secret" in marks else _type(args[0])
    if "Literal" in str(origin or kind):
        return ", ".join(f"`{a}`" for a in args)
    if origin in (tuple, list):
        return f"list of {_type(args[0])}"
    if origin is dict:
        return f"section: {_type(args[0])} → {_type(args[1])}"
    if args:
        return " or ".join(_type(a) for a in args if a is not type(None))
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
    return _shown(field.default if field.default is not PydanticUndefined else "")


def _shown(value: Any) -> str:
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


def _line(text: str) -> str:
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
        rows.append(f"| `{label}` | {_line(meaning)} | {by} | {_line(advice)} |")
    return "\n".join(rows)


def scenarios_table() -> str:
    """What can be played."""
    rows = ["| scenario | what happens | diagnosis | verdict |", "|---|---|---|---|"]
    for s in load_all():
        named = f"`{s.expect.diagnosis}`" if s.expect.diagnosis else "–"
        blocked = f" ({s.expect.blocked_by})" if s.expect.blocked_by else ""
        rows.append(f"| `{s.name}` | {_line(s.title)} | {named} | {s.expect.verdict}{blocked} |")
    return "\n".join(rows)


def settings_table() -> str:
    """The stand-in's numbers."""
    texts = _docstrings(Settings)
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        meaning = _line(texts.get(field.name) or SETTINGS[field.name])
        rows.append(f"| `{field.name}` | {_shown(field.default)} | {meaning} |")
    return "\n".join(rows)


SETTINGS = {
    "gpu_name": "as messages print it",
    "vram_gib": "total memory of the device",
    "weights_gib": "taken by the model's weights",
    "non_torch_gib": "taken beside PyTorch (NCCL, driver)",
    "activation_gib_per_seq": "more of it per sequence of max_num_seqs",
    "activation_gib_per_1k_tokens": "more of it per 1,000 batched tokens",
    "cudagraph_gib_per_seq": "more of it per sequence",
    "runtime_gib_per_seq": "more of it per running sequence",
    "kv_block_tokens": "tokens of one KV block",
    "startup_s": "from start to serving",
    "prefill_tokens_per_s": "speed of reading the prompt",
    "slow_start_s": "added to the start; the log moves meanwhile",
    "model_missing": "the model's path does not exist",
    "port_held": "somebody else listens on its port",
    "health_status": "what /health answers",
    "crash_after": "0: never",
    "fp8_unsupported": "an fp8 KV cache ends the start",
    "host_oom_at_start": "the kernel kills it while it loads",
    "host_oom_after": "the kernel kills it at request N; 0: never",
}


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
            "ladder": Ladder,
            "policy": ChangePolicy,
            "gpu": Gpu,
            "model": Model,
            "slo": Slo,
            "slack": SlackSpec,
            "window": Window,
            "serving": ServingConfig,
            "options": Options,
            "scenario": Scenario,
            "platform": Platform,
            "trigger": Trigger,
            "expectation": Expectation,
        }.items()
    },
    "labels": labels_table,
    "scenarios": scenarios_table,
    "settings": settings_table,
    "presets": lambda: ", ".join(f"`{name}`" for name in PRESETS),
}
_MARKER = re.compile(r"^\{\{ (.+) \}\}$", re.MULTILINE)


def filled(name: str) -> str:
    """A page of prose with its tables filled in."""
    prose = (HERE / "prose" / f"{name}.md").read_text(encoding="utf-8").strip()
    text = _MARKER.sub(lambda m: TABLES[m[1]](), prose)
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{MADE.format(name=name)}\n{rest}\n"


# ---- the page of a procedure --------------------------------------------------------------------


def page(procedure: str) -> str:
    """The documentation page of one procedure."""
    flow = load_flow(procedure)
    doc = (flow.fn.__doc__ or "").split("\n    Args:")[0]
    text = "\n".join(line.removeprefix("    ") for line in doc.strip().splitlines())
    prose = (HERE / "prose" / f"{procedure}.md").read_text(encoding="utf-8").strip()
    parts = [
        f"# {procedure}",
        MADE.format(name=procedure),
        text,
        "## When it runs",
        _schedule(procedure, flow.parameters.model_dump()),
        "## Parameters",
        _parameters(flow, doc_of=flow.fn.__doc__ or ""),
        "On the command line a parameter is `-p NAME=VALUE`; `options` are `--dry-run`, `--yes` and "
        "`--approve DIGEST` ([what they mean](../lifecycle.md#options)).",
        prose,
    ]
    return "\n\n".join(parts) + "\n"


def _schedule(procedure: str, schema: dict[str, Any]) -> str:
    declared = YAML(typ="safe").load(prefect_yaml().read_text(encoding="utf-8"))["deployments"]
    name = procedure.replace("-", "_")
    own = next(d for d in declared if d["entrypoint"].endswith(f".{name}"))
    needs = schema.get("required", [])
    one = "".join(f" --{p} NAME" for p in ("stack", "service") if p in needs)
    lines = [f"- by hand: `runbooks run {procedure}{one or ' --stack NAME'}`, or the Prefect UI"]
    for s in own.get("schedules") or []:
        both = "" if s.get("day_or", True) else ", day of month and weekday both"
        lines.append(
            f"- by schedule, once `runbooks up --schedules` or the stack's `schedules: true` "
            f"switches it on: `{s['cron']}` ({s['timezone']}{both})"
        )
    return "\n".join(lines)


def _parameters(flow: Any, doc_of: str) -> str:
    """One row per parameter; a model's fields one by one, the options all in one."""
    texts = dict(re.findall(r"^ {8}(\w+): (.+)$", doc_of, re.MULTILINE))
    schema = flow.parameters.model_dump()
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for name, spec in schema["properties"].items():
        kind = flow.fn.__annotations__[name]
        if kind is Options:
            rows.append("| `options` | [options](../lifecycle.md#options) | as there | how it runs |")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            inner = model_table(kind).splitlines()[2:]
            rows += [row.replace("| `", f"| `{name}.", 1) for row in inner]
        else:
            required = name in schema.get("required", [])
            default = "**required**" if required else _shown(spec.get("default"))
            meaning = spec.get("description") or texts.get(name, "")
            rows.append(f"| `{name}` | {_type(kind)} | {default} | {_line(str(meaning))} |")
    return "\n".join(rows)


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    made = {HERE / f"{name}.md": filled(name) for name in FILLED}
    return made | {HERE / "procedures" / f"{p}.md": page(p) for p in procedures()}


FILLED = ("stack", "lifecycle", "diagnosis", "sandbox")


def main() -> int:
    """Write every page; with `--check`, only say which are stale."""
    stale = []
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(HERE)))
            if "--check" not in sys.argv:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print("stale: " + ", ".join(stale) if stale else "up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
