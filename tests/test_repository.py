"""The repository keeps its own promises: deployments, docs, layout, names, examples."""

import ast
import importlib.machinery
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
import typer
from pydantic import BaseModel
from ruamel.yaml import YAML

from blocks.stack import StackSpec, parse_stack
from deployments.cli import app
from deployments.scenarios import Scenario

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("blocks", "tasks", "flows", "deployments")
PREFECT = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())
ENTRYPOINTS = [d["entrypoint"] for d in PREFECT["deployments"]]
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def tracked() -> list[Path]:
    """Files of the tree that git does not ignore."""
    argv = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    out = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


def generator() -> ModuleType:
    """docs/generate.py, which is no package's module."""
    spec = importlib.util.spec_from_file_location(
        "runbooks_docs_generate", ROOT / "docs/generate.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- deployments --------------------------------------------------------------------------------


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_every_entrypoint_is_a_whole_procedure(entrypoint: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    module, name = entrypoint.rsplit(".", 1)
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert module == f"flows.{name}" and flow.fn.__name__ == name
    assert flow.name == name.replace("_", "-")
    assert flow.isasync
    doc = flow.fn.__doc__ or ""
    assert len(doc.split("\n")[0]) > 30 and "Args:" in doc
    for parameter in flow.parameters.properties:
        assert f"{parameter}:" in doc, f"{name}: the docstring does not explain {parameter}"
    assert (ROOT / "docs/procedures" / f"{flow.name}.md").is_file()
    prose = (ROOT / "docs/prose" / f"{flow.name}.md").read_text()
    for heading in ("## What it does", "## What it will never do", "## An example record"):
        assert heading in prose
    words = (name, flow.name)
    tests = [p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p != Path(__file__)]
    tests += [p.read_text() for p in (ROOT / "deployments/sandbox/scenarios").glob("*.yaml")]
    assert any(w in text for text in tests for w in words), f"no test names {name}"


def test_every_flow_has_a_deployment() -> None:
    found = []
    for path in (ROOT / "flows").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                decorators = [getattr(d, "func", d) for d in node.decorator_list]
                if any(getattr(d, "id", "") == "flow" for d in decorators):
                    found.append(f"flows.{path.stem}.{node.name}")
    assert sorted(found) == sorted(ENTRYPOINTS)


def test_prefect_yaml_has_no_key_that_prefect_would_ignore() -> None:
    from prefect.cli.deploy._models import (
        DeploymentConfig,
        PrefectYamlModel,
        RawScheduleConfig,
        WorkPoolConfig,
    )

    def known(model: type[BaseModel]) -> set[str]:
        names = set(model.model_fields)
        return names | {str(f.alias) for f in model.model_fields.values() if f.alias}

    assert set(PREFECT) - known(PrefectYamlModel) == {"definitions"}, "definitions holds anchors"
    for deployment in PREFECT["deployments"]:
        assert not set(deployment) - known(DeploymentConfig)
        assert not set(deployment["work_pool"]) - known(WorkPoolConfig)
        # A run that pauses loses the limit's lease, and is killed at the next renewal.
        assert "concurrency_limit" not in deployment
        for schedule in deployment.get("schedules") or []:
            assert not set(schedule) - known(RawScheduleConfig)


def test_every_schedule_is_valid_and_off_until_switched_on() -> None:
    from prefect.client.schemas.schedules import CronSchedule

    for deployment in PREFECT["deployments"]:
        for s in deployment.get("schedules") or []:
            CronSchedule(cron=s["cron"], timezone=s["timezone"], day_or=s.get("day_or", True))
            ZoneInfo(s["timezone"])
            assert s["active"] is False


def test_every_deployment_says_what_it_is() -> None:
    for deployment in PREFECT["deployments"]:
        name = deployment["entrypoint"].rsplit(".", 1)[1].replace("_", "-")
        assert len(deployment["description"]) > 40
        assert f"procedure:{name}" in deployment["tags"]


# ---- layout -------------------------------------------------------------------------------------


def test_no_module_shadows_an_importable_one() -> None:
    folders = {
        p.parent for p in MODULES if p.parent.parent == ROOT or p.parent.parent.parent == ROOT
    }
    for path in MODULES:
        if path.stem.startswith("__") or path.parent not in folders:
            continue
        assert path.stem not in sys.stdlib_module_names, path
        before = [p for p in sys.path if Path(p).resolve() != path.parent]
        found = importlib.machinery.PathFinder.find_spec(path.stem, before)
        assert found is None or str(ROOT) in str(
            found.origin or found.submodule_search_locations
        ), path


def test_modules_are_short_and_packages_empty() -> None:
    for path in MODULES:
        lines = path.read_text().count("\n")
        assert lines <= 300, f"{path.relative_to(ROOT)}: {lines} lines"
        assert path.name != "__init__.py" or lines == 0, path


def bodies(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_flow_bodies_are_short() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        for node in bodies(ast.parse(path.read_text())):
            start = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - start.lineno + 1
            wanted = 60 if path.stem == "lifecycle" else 40
            assert lines <= wanted, f"{path.stem}.{node.name}: {lines} lines"


def test_what_is_public_is_documented() -> None:
    missing = []
    for path in MODULES:
        if path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        where = str(path.relative_to(ROOT))
        if not ast.get_docstring(tree):
            missing.append(where)
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            inner = node.body if isinstance(node, ast.ClassDef) else []
            functions = [n for n in inner if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            if node.name.startswith("_"):
                continue
            for one in (node, *functions):
                if not one.name.startswith("_") and not ast.get_docstring(one):
                    missing.append(f"{where}: {one.name}")
    # http.server's and asyncio's own names are no API of ours.
    own = [m for m in missing if not re.search(r": (do_(GET|POST|HEAD)|log_message)$", m)]
    assert own == []


PATTERNS = {
    "a path of the machine it was made on": r"/(?:work|farm)/(?!share\b)",
    "an index host": r"(?:index-url|find-links)|https?://[^\s\"']*(?:pypi|/simple)\b",
}


@pytest.mark.parametrize("what", PATTERNS)
def test_the_tree_names_no(what: str) -> None:
    bad = []
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".png", ".jsonl", ".gz"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(PATTERNS[what], line) and "--no-emit-index-url" not in line:
                bad.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert bad == []


def test_the_lock_names_no_host_and_keeps_the_caps() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--" not in text
    locked = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            one = Requirement(line)
            locked[canonicalize_name(one.name)] = str(one.specifier).removeprefix("==")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version, prereleases=True), requirement


# ---- documents ----------------------------------------------------------------------------------


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generator().pages().items()
        if not path.is_file() or path.read_text() != text
    ]
    assert stale == [], "run: make docs"


def test_the_generator_runs_as_the_makefile_says() -> None:
    assert "python -m docs.generate" in (ROOT / "Makefile").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_of_the_inventory_has_a_meaning() -> None:
    made = generator()
    for name, table in made.TABLES.items():
        for row in table().splitlines():
            assert not row.rstrip().endswith("|  |") and "<class" not in row, (name, row)


def blocks_of(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line, info words and text of every fenced block, list indentation removed."""
    text = page.read_text()
    for match in re.finditer(
        r"^([ ]*)```(\S[^\n]*)?\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL
    ):
        indent = len(match[1])
        body = "\n".join(line[indent:] for line in match[3].splitlines()) + "\n"
        yield text.count("\n", 0, match.start()) + 1, (match[2] or "").strip(), body


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text()
        found = []
        for line, info, body in blocks_of(page):
            if info in ("sh", "bash", "shell"):
                joined = body.replace("\\\n", " ").splitlines()
                found += [(line, re.sub(r"\s+#.*$", "", one)) for one in joined]
        outside = re.sub(r"^[ ]*```.*?^[ ]*```$", "", text, flags=re.MULTILINE | re.DOTALL)
        found += [(0, code) for code in re.findall(r"`([^`\n]+)`", outside)]
        for line, words in found:
            for part in re.split(r"&&|\||;", words):
                part = part.strip().removeprefix(".venv/bin/")
                if part.startswith("runbooks ") and "..." not in part:
                    yield f"{page.relative_to(ROOT)}:{line}", part


def walk(command: click.Command, words: list[str]) -> None:
    """Parse as the command line does, without running anything."""
    context = click.Context(command, info_name=command.name)
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        assert words and words[0] in command.commands, f"{command.name} has no {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))


def test_every_command_that_is_shown_parses() -> None:
    seen = 0
    for where, line in commands():
        words = shlex.split(line)[1:]
        if not words or words[0].startswith("<") or "|" in words[0]:
            continue
        try:
            walk(typer.main.get_command(app), words)
        except click.exceptions.Exit:
            pass
        except (click.UsageError, AssertionError) as e:
            inline = where.endswith(":0") and isinstance(e, click.MissingParameter)
            assert inline, f"{where}: {line}: {e}"
        seen += 1
    assert seen > 30


def test_every_yaml_example_is_valid() -> None:
    seen = 0
    for page in PAGES:
        for line, info, body in blocks_of(page):
            where = f"{page.relative_to(ROOT)}:{line}"
            if info == "yaml":
                parse_stack(body, where)
            elif info == "yaml scenario":
                Scenario(name="example", **YAML(typ="safe").load(body))
            elif info.startswith("yaml"):
                assert info in ("yaml fragment",), f"{where}: unknown mark {info!r}"
            seen += info.startswith("yaml")
    for path in [
        *(ROOT / "docs/examples").glob("*.yaml"),
        *(ROOT / "deployments/stacks").glob("*"),
    ]:
        assert isinstance(parse_stack(path.read_text(), path.name), StackSpec)
    assert seen >= 6


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^[ ]*```.*?^[ ]*```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def test_every_relative_link_leads_somewhere() -> None:
    bad = []
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = re.sub(r"^[ ]*```.*?^[ ]*```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        if page.parent.name == "prose":
            continue  # its links are those of the page that is made from it
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
                bad.append(f"{page.relative_to(ROOT)}: {target}")
    assert bad == []


def test_the_labels_of_the_docs_are_those_of_the_code() -> None:
    from flows.decisions.diagnosis_advice import DEFINITIONS

    text = (ROOT / "docs/diagnosis.md").read_text()
    assert len(DEFINITIONS) == 32 and all(f"| `{label}` |" in text for label in DEFINITIONS)


def test_guard_reasons_verdicts_and_exit_codes_of_the_docs_are_those_of_the_code() -> None:
    from typing import get_args

    from blocks.errors import GuardReason
    from flows.report import EXIT_CODES

    text = (ROOT / "docs/lifecycle.md").read_text()
    assert all(f"| `{reason}` |" in text for reason in get_args(GuardReason))
    for verdict, code in EXIT_CODES.items():
        assert re.search(rf"^\| `{verdict}` \|.*\| {code} \|$", text, re.MULTILINE), verdict


def test_status_examples_of_the_docs_are_read_as_they_say() -> None:
    from blocks.command_status import read_status

    examples = {
        info: body
        for _, info, body in blocks_of(ROOT / "docs/runtimes.md")
        if info in ("text", "json")
    }
    texts = [b for _, i, b in blocks_of(ROOT / "docs/runtimes.md") if i == "text"]
    systemd, docker = (t.split("\n", 1)[1].encode() for t in texts)
    found: Any = read_status("systemd", 0, systemd, b"")
    assert (found.phase, found.exit_code, found.oom_killed, found.restarts) == (
        "exited",
        137,
        True,
        3,
    )
    found = read_status("docker-state", 0, docker, b"")
    assert (found.phase, found.exit_code) == ("exited", 1)
    found = read_status("json", 0, examples["json"].encode(), b"")
    assert (found.phase, found.exit_code, found.instance) == ("exited", 1, "4711")
