"""Write docs/procedures/*.md from the flows: `make docs`. A test fails when they are stale.

The prose of a page (what it will never do, an example record) lives in `docs/prose/NAME.md`;
parameters, schedule and description come from the code, so that they cannot drift from it.
"""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deployments.bootstrap import prefect_yaml
from deployments.running import load_flow, procedures

HERE = Path(__file__).resolve().parent


def page(procedure: str) -> str:
    """The documentation page of one procedure."""
    flow = load_flow(procedure)
    doc = (flow.fn.__doc__ or "").split("\n    Args:")[0]
    text = "\n".join(line.removeprefix("    ") for line in doc.strip().splitlines())
    prose = (HERE / "prose" / f"{procedure}.md").read_text(encoding="utf-8").strip()
    return (
        "\n\n".join(
            [
                f"# {procedure}",
                "<!-- made by `make docs`; edit the flow's docstring or docs/prose -->",
                text,
                "## When it runs",
                _schedule(procedure),
                "## Parameters",
                _parameters(flow.parameters.model_dump()),
                prose,
            ]
        )
        + "\n"
    )


def _schedule(procedure: str) -> str:
    declared = YAML(typ="safe").load(prefect_yaml().read_text(encoding="utf-8"))["deployments"]
    name = procedure.replace("-", "_")
    own = next(d for d in declared if d["entrypoint"].endswith(f".{name}"))
    lines = [
        f"- by hand: `runbooks run {procedure} --stack NAME --service NAME`, or the Prefect UI"
    ]
    for s in own.get("schedules") or []:
        both = "" if s.get("day_or", True) else ", day of month and weekday both"
        lines.append(
            f"- by schedule, once `runbooks up --schedules` or the stack's `schedules: true` "
            f"switches it on: `{s['cron']}` ({s['timezone']}{both})"
        )
    return "\n".join(lines)


def _parameters(schema: dict[str, Any]) -> str:
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for name, spec in schema["properties"].items():
        nested = _definition(schema, spec)
        if nested is None:
            rows.append(_row(name, spec, name in schema.get("required", [])))
            continue
        for field, inner in nested["properties"].items():
            rows.append(_row(f"{name}.{field}", inner, field in nested.get("required", [])))
    return "\n".join(rows)


def _definition(schema: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any] | None:
    ref = spec.get("$ref") or next((p["$ref"] for p in spec.get("allOf", []) if "$ref" in p), None)
    return schema.get("definitions", {}).get(str(ref).rsplit("/", 1)[-1]) if ref else None


def _row(name: str, spec: dict[str, Any], required: bool) -> str:
    kinds = [spec] if "type" in spec or "enum" in spec else spec.get("anyOf", [{}])
    words = [
        "one of " + ", ".join(map(str, k["enum"])) if "enum" in k else str(k.get("type", "any"))
        for k in kinds
        if k.get("type") != "null"
    ]
    default = "required" if required else f"`{spec.get('default', '')!r}`".replace("None", "unset")
    meaning = " ".join(str(spec.get("description", "")).split())
    return f"| `{name}` | {', '.join(words)} | {default} | {meaning} |"


def main() -> int:
    """Write every page; with `--check`, only say which are stale."""
    folder, stale = HERE / "procedures", []
    folder.mkdir(exist_ok=True)
    for procedure in procedures():
        path, text = folder / f"{procedure}.md", page(procedure)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    print("stale: " + ", ".join(stale) if stale else "up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
