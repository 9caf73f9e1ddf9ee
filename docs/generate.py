"""Write the generated pages under docs/: `make docs`. A test fails when they are stale.

`docs/procedures/NAME.md` comes from the flow (docstring, parameters, schedule) and
`docs/prose/NAME.md`. `docs/stack.md`, `lifecycle.md`, `diagnosis.md` and `sandbox.md` come from
their prose, in which a line `{{ name }}` is replaced by a table made from the code.
"""

import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from deployments.bootstrap import prefect_yaml
from deployments.running import load_flow, procedures
from flows.report import Options

from docs.tables import TABLES, line, model_table, shown, type_of

HERE = Path(__file__).resolve().parent
MADE = "<!-- made by `make docs` from the code and docs/prose/{name}.md; edit those -->"


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
            rows.append(
                "| `options` | [options](../lifecycle.md#options) | as there | how it runs |"
            )
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            inner = model_table(kind).splitlines()[2:]
            rows += [row.replace("| `", f"| `{name}.", 1) for row in inner]
        else:
            required = name in schema.get("required", [])
            default = "**required**" if required else shown(spec.get("default"))
            meaning = spec.get("description") or texts.get(name, "")
            rows.append(f"| `{name}` | {type_of(kind)} | {default} | {line(str(meaning))} |")
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
