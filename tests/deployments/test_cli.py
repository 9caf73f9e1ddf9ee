"""The command line: usage errors are exit 2 and one clear text; reading needs no server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blocks.errors import Permanent
from blocks.stack import parse_stack
from deployments.cli import main
from deployments.running import Request, load_flow
from flows.decisions.diagnosis_advice import DEFINITIONS

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "tests/decisions/logs/kv-cache-too-small.log"


def run(*words: str, home: Path, stdin: bytes | None = None) -> tuple[int, str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        cwd=ROOT,
        input=stdin if stdin is not None else b"",
        capture_output=True,
        env={**env, "RUNBOOKS_HOME": str(home), "COLUMNS": "200", "NO_COLOR": "1"},
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


USAGE: dict[str, tuple[list[str], str]] = {
    "no such command": (["dignose"], "dignose"),
    "no such option": (["diagnose", "--exitcode", "1"], "--exitcode"),
    "an exit code that is none": (["diagnose", str(LOG), "--exit-code", "x"], "--exit-code"),
    "nothing to diagnose": (["diagnose"], "give a log FILE (or -), or --service NAME"),
    "both": (["diagnose", "x.log", "--service", "a"], "give a log FILE (or -), or --service"),
    "service without stack": (["diagnose", "--service", "a"], "--service needs --stack"),
    "no such log": (["diagnose", "nowhere.log"], "nowhere.log: No such file or directory"),
    "a folder": (["diagnose", "docs"], "docs: Is a directory"),
    "no such inventory": (["apply", "nowhere.yaml", "--check"], "nowhere.yaml: cannot be read"),
    "apply without file": (["apply"], "Missing argument"),
    "no such scenario": (["scenario", "play", "nope"], "scenario 'nope' does not exist; known: "),
    "no such procedure": (
        ["run", "remediate-omm", "--stack", "s.yaml", "--service", "a", "--local"],
        "procedure 'remediate-omm' does not exist; known: remediate-oom",
    ),
    "no stack": (["run", "remediate-oom", "--local"], "--stack is missing"),
    "a parameter without value": (
        ["run", "apply-serving", "--stack", "s.yaml", "-p", "max_model_len", "--local"],
        "write key=value",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_usage_error_is_exit_2_and_clear(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, text = USAGE[case]
    if words[0] in ("run", "scenario"):  # these point this process at a server
        code, out, err = run(*words, home=tmp_path)
    else:
        monkeypatch.setattr(sys, "argv", ["runbooks", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as e:
            main()
        code, (out, err) = int(str(e.value.code)), capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert text in err and "Traceback" not in err


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    code, _, err = run("runs", home=tmp_path)
    assert code == 3 and "no server answers: start one with `runbooks up`" in err


def test_a_file_and_standard_input_are_diagnosed_alike(tmp_path: Path) -> None:
    code, out, err = run("diagnose", str(LOG), "--json", home=tmp_path)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert set(found) >= {"label", "evidence", "facts", "advice", "remedy"}
    assert (found["label"], found["remedy"]) == ("oom_kv_cache", "remediate_oom")
    assert found["facts"]["estimated_max_model_len"] == 10752
    code, out, _ = run("diagnose", "-", "--json", home=tmp_path, stdin=LOG.read_bytes())
    assert code == 0 and json.loads(out) == found
    code, out, _ = run("diagnose", "-", home=tmp_path, stdin=LOG.read_bytes())
    assert code == 0 and "oom_kv_cache" in out and "10752" in out and "remediate-oom" in out


def test_how_it_ended_is_part_of_the_diagnosis(tmp_path: Path) -> None:
    for words in (["--oom-killed"], ["--exit-code", "137"]):
        code, out, _ = run("diagnose", "-", "--json", *words, home=tmp_path, stdin=b"INFO ready\n")
        assert code == 0 and json.loads(out)["label"] == "host_oom_killed"
    code, out, _ = run("diagnose", "-", "--json", home=tmp_path, stdin=b"\xff\x00\x01" * 1000)
    assert code == 0 and json.loads(out)["label"] in DEFINITIONS


def test_check_validates_and_registers_nothing(tmp_path: Path) -> None:
    for path in ("docs/examples/docker-single.yaml", "deployments/stacks/wintermute-armitage.yaml"):
        code, out, err = run("apply", path, "--check", home=tmp_path / "home")
        assert code == 0 and "valid; stack" in out and err == ""
    assert not (tmp_path / "home").exists()


def test_check_names_every_fault_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: p\nservices:\n  a:\n    url: http://h:1\n"
        "    runtime: {kind: docker, container: c}\n"
        "    gpu: {name: x, vram_gib: 12GB}\n    policy: {attempts: [1]}\n"
    )
    code, out, err = run("apply", str(path), "--check", home=tmp_path)
    assert (code, out) == (2, "")
    assert f"{path}:6: services.a.gpu.vram_gib:" in err and "[/]" not in err
    assert f"{path}:7: services.a.policy.attempts:" in err


def test_scenarios_as_json(tmp_path: Path) -> None:
    code, out, _ = run("scenario", "list", "--json", home=tmp_path)
    found = json.loads(out)
    names = {p.stem for p in (ROOT / "deployments/sandbox/scenarios").glob("*.yaml")}
    assert code == 0 and {s["name"] for s in found} == names
    assert all({"title", "story", "expect"} <= set(s) for s in found)


@pytest.mark.parametrize(
    "words", [["diagnose", str(LOG), "--json"], ["--help"], ["diagnose", "--help"]]
)
def test_diagnose_and_help_start_without_prefect(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from deployments.cli import app\n"
        f"sys.argv = ['runbooks', *{words!r}]\n"
        "try:\n    app()\nexcept SystemExit as e:\n    assert not e.code\n"
        "slow = {'prefect', 'sqlalchemy', 'docker', 'matplotlib', 'slack_sdk'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_a_name_that_the_stack_does_not_have_makes_no_run() -> None:
    runtime = "runtime: {kind: docker, container: c}"
    spec = parse_stack(f"name: p\nservices:\n  a: {{url: 'http://h:1', {runtime}}}\n")
    for procedure, key in (("watch-gpus", "host"), ("align-token-limits", "proxy")):
        request = Request.parse(procedure, "p", "", [f"{key}=nope"], False, "")
        with pytest.raises(Permanent, match=f"{key}=nope: no such {key}; known: -"):
            request.parameters(load_flow(procedure), spec)
