"""The limits in a LiteLLM config file: read as LiteLLM reads them, edited in their lines only."""

import difflib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from blocks.errors import Permanent, Unsafe
from blocks.litellm_text import (
    LIMITS,
    backends,
    edit_litellm,
    enforced,
    left_to_environment,
    live_limits,
    read_litellm,
)
from blocks.models import ServingConfig
from blocks.service import LitellmSource, NoSource
from blocks.serving_file import (
    backup_directory,
    backup_file,
    edit_file,
    list_backups,
    preview_file,
    prune_backups,
    read_file,
    restore_file,
    sha256_file,
)

CONFIG = """\
# Deployed by Ansible to Motoko. Keep the comments!
---
x-defaults: &defaults
  timeout: 120
model_list:
  # Wintermute
  - model_name: llama31-8b-wintermute   # explicit alias
    litellm_params:
      <<: *defaults
      model: hosted_vllm/wintermute
      api_base: http://wintermute:8000/v1
      api_key: os.environ/WINTERMUTE_KEY
      tpm: 120000   # halve on latency spikes
      rpm: "60"
      max_parallel_requests: 2
    model_info:
      id: wintermute-a
      max_input_tokens: 14000  # 85 % of 16384
      max_output_tokens: 1024
  - model_name: "local/reasoner"
    model_info: {mode: chat, max_input_tokens: 14000}
    litellm_params: {model: hosted_vllm/wintermute, api_base: 'http://wintermute:8000/v1', tpm: 1}

  - litellm_params:
      api_base: os.environ/ARMITAGE_URL
      model: hosted_vllm/armitage
      rpm: os.environ/ARMITAGE_RPM
    model_name: qwen2.5-7b-armitage
  # the second deployment of one name
  - model_name: llama31-8b-wintermute
    rpm: 7
    litellm_params:
      model: hosted_vllm/straylight
      api_key: sk-s3cr3t
    model_info:
      max_input_tokens: 7000

router_settings:
  enable_pre_call_checks: true
general_settings:
  master_key: os.environ/LITELLM_KEY
"""
LIMITS_OF_CONFIG = {
    "llama31-8b-wintermute.max_input_tokens": 14000,
    "llama31-8b-wintermute.max_output_tokens": 1024,
    "llama31-8b-wintermute.tpm": 120000,
    "llama31-8b-wintermute.rpm": 60,
    "llama31-8b-wintermute.max_parallel_requests": 2,
    "local/reasoner.max_input_tokens": 14000,
    "local/reasoner.tpm": 1,
    "llama31-8b-wintermute#2.rpm": 7,
    "llama31-8b-wintermute#2.max_input_tokens": 7000,
}
SOURCE = LitellmSource(kind="litellm", path="litellm.config.yaml")


def source(path: Path, text: str = CONFIG) -> LitellmSource:
    path.write_text(text, encoding="utf-8")
    return LitellmSource(kind="litellm", path=str(path))


def config(**limits: int | None) -> ServingConfig:
    merged: dict[str, Any] = {**LIMITS_OF_CONFIG, **limits}
    return ServingConfig(limits={k: v for k, v in merged.items() if v is not None})


def changed(old: str, new: str) -> list[str]:
    lines = difflib.ndiff(old.splitlines(), new.splitlines())
    return [line for line in lines if line[0] in "+-"]


def test_limits_are_read_where_litellm_reads_them() -> None:
    assert read_litellm(CONFIG, SOURCE) == ServingConfig(limits=LIMITS_OF_CONFIG)
    assert read_litellm("", SOURCE) == read_litellm("model_list:\n", SOURCE) == ServingConfig()


def test_backends_and_enforcement(tmp_path: Path) -> None:
    assert backends(source(tmp_path / "c.yaml")) == {
        "llama31-8b-wintermute": "http://wintermute:8000/v1",
        "local/reasoner": "http://wintermute:8000/v1",
        "qwen2.5-7b-armitage": "os.environ/ARMITAGE_URL",
        "llama31-8b-wintermute#2": None,
    }
    assert enforced(source(tmp_path / "c.yaml"))
    assert left_to_environment(source(tmp_path / "c.yaml")) == {"qwen2.5-7b-armitage.rpm"}
    assert not enforced(source(tmp_path / "d.yaml", "model_list: []\n"))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (
            {"llama31-8b-wintermute.max_input_tokens": 7000},
            [
                "-       max_input_tokens: 14000  # 85 % of 16384",
                "+       max_input_tokens: 7000  # 85 % of 16384",
            ],
        ),
        (
            {"llama31-8b-wintermute.rpm": 30, "llama31-8b-wintermute.tpm": 90000},
            [
                "-       tpm: 120000   # halve on latency spikes",
                '-       rpm: "60"',
                "+       tpm: 90000   # halve on latency spikes",
                '+       rpm: "30"',
            ],
        ),
        (
            {"qwen2.5-7b-armitage.max_input_tokens": 7000},
            ["+     model_info:", "+       max_input_tokens: 7000"],
        ),
        ({"llama31-8b-wintermute#2.rpm": 8}, ["-     rpm: 7", "+     rpm: 8"]),
        ({"llama31-8b-wintermute#2.tpm": 9}, ["+       tpm: 9"]),
        (
            {"llama31-8b-wintermute#2.max_input_tokens": None},
            ["-     model_info:", "-       max_input_tokens: 7000"],
        ),
        (
            {"local/reasoner.max_input_tokens": 3500},
            [
                "-     model_info: {mode: chat, max_input_tokens: 14000}",
                "+     model_info: {mode: chat, max_input_tokens: 3500}",
            ],
        ),
        ({"llama31-8b-wintermute.max_output_tokens": None}, ["-       max_output_tokens: 1024"]),
    ],
)
def test_only_the_lines_of_the_changed_limits_change(
    tmp_path: Path, limits: dict[str, int | None], expected: list[str]
) -> None:
    one = source(tmp_path / "c.yaml")
    before, after = config(), config(**limits)
    old, new = preview_file(one, before, after)
    assert sha256_file(one) == old
    edit_file(one, before, after, expected_sha256=old)
    text = Path(one.path).read_text(encoding="utf-8")
    lines = changed(CONFIG, text)
    assert [x for x in lines if x[0] == "-"] == [x for x in expected if x[0] == "-"]
    assert [x for x in lines if x[0] == "+"] == [x for x in expected if x[0] == "+"]
    assert sha256_file(one) == new
    assert read_file(one) == after


def test_a_pure_restart_writes_nothing(tmp_path: Path) -> None:
    one = source(tmp_path / "c.yaml")
    was = Path(one.path).stat()
    assert len(set(preview_file(one, config(), config()))) == 1
    edit_file(one, config(), config(), expected_sha256=sha256_file(one))
    now = Path(one.path).stat()
    assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    with pytest.raises(Unsafe, match="edited since the plan"):
        edit_file(one, config(), config(), expected_sha256="0" * 64)


def test_a_backup_comes_back_to_the_byte(tmp_path: Path) -> None:
    one = source(tmp_path / "c.yaml")
    backup = backup_file(one, "run-1")
    edit_file(one, config(), config(**{"local/reasoner.tpm": 2}))
    assert [b.config for b in list_backups(one)] == [config()]
    restore_file(one, backup)
    assert Path(one.path).read_text(encoding="utf-8") == CONFIG
    assert prune_backups(one, 1) == []


def test_drift_is_refused(tmp_path: Path) -> None:
    one = source(tmp_path / "c.yaml")
    stale = config(**{"local/reasoner.tpm": 5})
    with pytest.raises(Unsafe, match=r"local/reasoner\.tpm is 1 now, the plan started from 5"):
        edit_file(one, stale, config(**{"local/reasoner.tpm": 6}))
    assert Path(one.path).read_text(encoding="utf-8") == CONFIG


SHARED = """\
x: &limits {max_input_tokens: 14000}
model_list:
- model_name: a
  litellm_params: &params
    model: m
    tpm: 5
  model_info: *limits
- model_name: b
  litellm_params: *params
  model_info: *limits
- model_name: c
  litellm_params: {model: m}
  model_info:
"""


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("a.max_input_tokens", 7000, "shared by an alias"),
        ("b.tpm", 7, "shared by an alias"),
        ("a.tpm", 7, "without changing another key"),
        ("c.max_input_tokens", 7, "model_info holds no keys"),
        ("z.tpm", 7, "no model 'z' in model_list; known: a, b, c"),
        ("a.weight", 7, "is no limit of a proxy"),
        ("a.tpm", 0, "whole number from 1"),
    ],
)
def test_what_cannot_be_edited_alone_is_refused_untouched(
    tmp_path: Path, name: str, value: int, problem: str
) -> None:
    one = source(tmp_path / "c.yaml", SHARED)
    before = read_file(one)
    with pytest.raises(Permanent, match=problem):
        edit_file(one, before, before.changed(limits={**before.limits, name: value}))
    assert Path(one.path).read_text(encoding="utf-8") == SHARED


def test_what_the_environment_sets_is_left_to_it(tmp_path: Path) -> None:
    one = source(tmp_path / "c.yaml")
    with pytest.raises(Permanent, match="is os.environ/ARMITAGE_RPM; change that variable"):
        edit_file(one, config(), config(**{"qwen2.5-7b-armitage.rpm": 5}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_list: {a: 1}\n", "model_list is a dict; expected a list"),
        ("model_list: [{litellm_params: {}}]\n", "model_list.0 has no model_name"),
        ("model_list: [1]\n", "model_list.0 has no model_name"),
        ("- a\n", "holds a list at the top"),
        (
            "model_list: [{model_name: a, litellm_params: {rpm: sk-s3cr3t}}]\n",
            r"model_list\.0\.litellm_params\.rpm is a str; write a whole number",
        ),
        ("model_list: [{model_name: a, litellm_params: {rpm: -1}}]\n", "rpm is -1"),
        ("model_list: [{model_name: a, litellm_params: {rpm: true}}]\n", "rpm is True"),
        (
            "model_list: [{model_name: a, rpm: 1, litellm_params: {rpm: 2}}]\n",
            "both litellm_params.rpm and rpm are set",
        ),
        (
            "model_list: [{model_name: a}, {model_name: a}, {model_name: 'a#2'}]\n",
            "'a#2' names two deployments",
        ),
    ],
)
def test_a_faulty_file_is_named_without_its_secrets(text: str, problem: str) -> None:
    with pytest.raises(Permanent, match=problem) as e:
        read_litellm(text, SOURCE)
    assert "s3cr3t" not in str(e.value)


def test_live_limits_are_keyed_as_the_file_and_leave_the_database_out() -> None:
    data = [
        {"model_name": "a", "litellm_params": {"tpm": 5, "rpm": "6"}, "model_info": {"tpm": 9}},
        {"model_name": "a", "litellm_params": {}, "model_info": {"max_input_tokens": 7.0}},
        {"model_name": "a", "model_info": {"db_model": True, "max_input_tokens": 1}},
        {"model_name": "b", "litellm_params": {"tpm": None}, "model_info": {"rpm": True}},
        "nonsense",
        {"litellm_params": {"tpm": 1}},
    ]
    assert live_limits(data) == {"a.tpm": 5, "a.rpm": 6, "a#2.max_input_tokens": 7}


NAMES = st.sampled_from(["a", "b", "a#2"])
LIMIT_SETS = st.dictionaries(
    st.builds("{}.{}".format, NAMES, st.sampled_from(LIMITS)), st.integers(1, 10**7), max_size=8
)
REST = """\
# top
model_list: # the models
- model_name: a # first
  litellm_params:
    model: m # no limits yet
- litellm_params: {model: n}
  model_name: b

  # between
- model_name: a
  litellm_params:
    model: 'o'

router_settings:
  num_retries: 2
"""


@settings(max_examples=120, deadline=None)
@given(LIMIT_SETS, LIMIT_SETS, st.sampled_from(["\n", "\r\n"]))
def test_any_edit_reads_back_and_any_undo_leaves_no_trace(
    before: dict[str, int], after: dict[str, int], newline: str
) -> None:
    none, one, two = (ServingConfig(limits=x) for x in ({}, before, after))
    rest = REST.replace("\n", newline)
    text = edit_litellm(rest, SOURCE, none, one)
    assert read_litellm(text, SOURCE) == one
    new = edit_litellm(text, SOURCE, one, two)
    assert read_litellm(new, SOURCE) == two
    assert isinstance(YAML(typ="safe", pure=True).load(new), dict)
    lines = iter(new.splitlines())
    assert all(line in lines for line in rest.splitlines() if "model: n" not in line)
    assert edit_litellm(new, SOURCE, two, none) == rest


def test_many_alike_models_are_no_reason_to_refuse(tmp_path: Path) -> None:
    entry = "- model_name: m{}\n  litellm_params:\n    model: x\n    api_key: none\n"
    info = "  model_info:\n    max_input_tokens: 5\n"
    text = "model_list:\n" + "".join(entry.format(n) + (info if n % 3 else "") for n in range(40))
    one = source(tmp_path / "c.yaml", text)
    before = read_file(one)
    limits = {f"m{n}.max_input_tokens": 7 for n in range(40)}
    edit_file(one, before, ServingConfig(limits=limits))
    assert read_file(one).limits == limits


# --- a service without a file ------------------------------------------------------------------

NONE = NoSource(kind="none")


def test_a_service_without_a_file_can_be_restarted_and_nothing_else() -> None:
    empty = ServingConfig()
    assert read_file(NONE) == empty
    assert preview_file(NONE, empty, empty) == ("", "")
    edit_file(NONE, empty, empty, expected_sha256="")
    assert backup_file(NONE, "run") == sha256_file(NONE) == ""
    assert list_backups(NONE) == prune_backups(NONE) == []
    restore_file(NONE, "")
    for act in (preview_file, edit_file):
        with pytest.raises(Permanent, match="max_num_seqs cannot be changed: serving.kind is none"):
            act(NONE, empty, ServingConfig(max_num_seqs=1))
    with pytest.raises(Permanent, match="is no backup"):
        restore_file(NONE, "elsewhere")
    with pytest.raises(Permanent, match="has no file"):
        backup_directory(NONE)
