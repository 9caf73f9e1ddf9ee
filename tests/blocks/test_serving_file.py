"""The serving config in files: edits touch their lines only and survive every interruption."""

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from blocks import safe_file, serving_file
from blocks.env_text import edit_env, read_env
from blocks.errors import Permanent, Transient, Unsafe
from blocks.models import SERVING_FIELDS, ServingConfig
from blocks.service import EnvFileSource, YamlSource
from blocks.serving_file import (
    backup_file,
    edit_file,
    list_backups,
    preview_file,
    prune_backups,
    read_file,
    restore_file,
    sha256_file,
)
from blocks.yaml_text import edit_yaml, load_yaml, read_yaml

YAML_TEXT = """\
# Wintermute. Edited by hand, keep the comments!
%s
model: google/gemma-3-27b-it   # the model
dtype: "auto"
tensor_parallel_size: 4

# Performance settings
gpu_memory_utilization: 0.90
max_num_seqs:    256
max_model_len: 16384  # halve on OOM
'kv_cache_dtype': 'fp8'
chat_template: "{%% for m in messages %%}{{ m }} a very long line that no library may wrap, ever, at any column, because it is a template and not prose{%% endfor %%}"
api_key: s3cr3t
ports: [8000,  8001]
note: |
  max_model_len: 1
  is not a key

nested:
    - name: a
      max_model_len: 5
    - name: b
...
"""  # noqa: E501
ENV_TEXT = """\
# vLLM
export MODEL_NAME=google/gemma-3-27b-it
MAX_MODEL_LEN=1  # overridden below

TENSOR_PARALLEL_SIZE = 4
GPU_MEMORY_UTILIZATION="0.9"   # share
API_KEY='s3cr3t # not a comment'
KEY_PEM="-----BEGIN
MAX_NUM_SEQS=7
-----END"
ENFORCE_EAGER=TRUE
this is no assignment
MAX_MODEL_LEN=16384\t# tokens"""


def yaml_source(path: Path, text: str | bytes = YAML_TEXT % "---", **more: object) -> YamlSource:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return YamlSource(kind="yaml", path=str(path), **more)


def env_source(path: Path, text: str | bytes = ENV_TEXT, **keys: str) -> EnvFileSource:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return EnvFileSource(kind="env-file", path=str(path), key_map=keys)


def change(source: YamlSource | EnvFileSource, **values: object) -> bytes:
    now = read_file(source)
    edit_file(source, now, now.changed(**values))
    return Path(source.path).read_bytes()


# --- YAML ----------------------------------------------------------------------------------


def test_reads_the_handbooks_yaml(tmp_path: Path) -> None:
    assert read_file(yaml_source(tmp_path / "c.yaml")) == ServingConfig(
        model="google/gemma-3-27b-it",
        dtype="auto",
        tensor_parallel_size=4,
        gpu_memory_utilization=0.9,
        max_num_seqs=256,
        max_model_len=16384,
        kv_cache_dtype="fp8",
    )


def test_a_yaml_edit_replaces_words_and_leaves_every_other_byte(tmp_path: Path) -> None:
    source = yaml_source(tmp_path / "c.yaml")
    old = (tmp_path / "c.yaml").read_text()
    new = change(
        source, max_model_len=8192, kv_cache_dtype="auto", gpu_memory_utilization=0.85, dtype="half"
    )
    assert new.decode() == (
        old.replace("16384  # halve", "8192  # halve")
        .replace("'fp8'", "'auto'")
        .replace("0.90", "0.85")
        .replace('"auto"', '"half"')
    )


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a: 1\n", {"max_model_len": 8}, "a: 1\nmax_model_len: 8\n"),
        ("a: 1", {"max_model_len": 8}, "a: 1\nmax_model_len: 8"),
        ("a-b: 1\n", {"max_model_len": 8, "max_num_seqs": 2},
         "a-b: 1\nmax-model-len: 8\nmax-num-seqs: 2\n"),
        ("a: 1\r\nb: 2\r\n", {"max_model_len": 8}, "a: 1\r\nb: 2\r\nmax_model_len: 8\r\n"),
        ("max-model-len: 16k\r\nb: 2\r\n", {"max_model_len": 8}, "max-model-len: 8\r\nb: 2\r\n"),
        ("a:\n  b: 1\n# end\n", {"max_model_len": 8}, "a:\n  b: 1\nmax_model_len: 8\n# end\n"),
        ("a: |\n  x\n", {"max_model_len": 8}, "a: |\n  x\nmax_model_len: 8\n"),
        ("a:\n- b\n", {"max_model_len": 8}, "a:\n- b\nmax_model_len: 8\n"),
        ("a: [1,\n 2]\n", {"max_model_len": 8}, "a: [1,\n 2]\nmax_model_len: 8\n"),
        ("{a: 1}\n", {"max_model_len": 8}, "{a: 1, max_model_len: 8}\n"),
        ("{}\n", {"max_model_len": 8}, "{max_model_len: 8}\n"),
        ("", {"max_model_len": 8}, "max_model_len: 8\n"),
        ("# only\n", {"max_model_len": 8}, "# only\nmax_model_len: 8\n"),
        ("max_model_len:  # unset\na: 1\n", {"max_model_len": 8},
         "max_model_len: 8  # unset\na: 1\n"),
        ("max_model_len: ~\n", {"max_model_len": 8}, "max_model_len: 8\n"),
        ("max_model_len: auto\n", {"max_model_len": 8}, "max_model_len: 8\n"),
        ("max_model_len: '16K'\n", {"max_model_len": 8}, "max_model_len: '8'\n"),
        ("max_model_len: !!int 5\n", {"max_model_len": 8}, "max_model_len: !!int 8\n"),
        ("max_model_len: &l 5\na: 1\n", {"max_model_len": 8}, "max_model_len: &l 8\na: 1\n"),
        ("a: &l 5\nmax_model_len: *l\nb: *l\n", {"max_model_len": 8},
         "a: &l 5\nmax_model_len: 8\nb: *l\n"),
        ("d: &d {max_model_len: 5}\n<<: *d\n", {"max_model_len": 8},
         "d: &d {max_model_len: 5}\n<<: *d\nmax_model_len: 8\n"),
        ("# c\nmax_model_len: 5 # x\n# d\na: 1\n", {"max_model_len": None}, "# c\n# d\na: 1\n"),
        ("{a: 1, max_model_len: 5, b: 2}\n", {"max_model_len": None}, "{a: 1, b: 2}\n"),
        ("{a: 1, max_model_len: 5}\n", {"max_model_len": None}, "{a: 1}\n"),
        ("max_model_len: 5\n", {"max_model_len": None}, ""),
        ("enforce_eager: True\n", {"enforce_eager": False}, "enforce_eager: False\n"),
        ("enforce_eager: yes\n", {"enforce_eager": False}, "enforce_eager: no\n"),
        ("dtype: auto\n", {"dtype": "null"}, 'dtype: "null"\n'),
        ("model: a\n", {"model": "no: such #x"}, 'model: "no: such #x"\n'),
        ("served_model_name: [a, b]\n", {"served_model_name": "c"},
         "served_model_name: [c, b]\n"),
        ("served_model_name:\n- a\n- b\n", {"served_model_name": "c"},
         None),  # the line does not name the key: refused rather than guessed
        ("\ufeffmax_model_len: 5\n", {"max_model_len": 8}, "\ufeffmax_model_len: 8\n"),
    ],
)  # fmt: skip
def test_yaml_forms(tmp_path: Path, text: str, values: dict, expected: str | None) -> None:
    source = yaml_source(tmp_path / "c.yaml", text)
    if expected is None:
        with pytest.raises(Permanent, match="nothing was written"):
            change(source, **values)
        assert Path(source.path).read_text() == text
    else:
        assert change(source, **values).decode() == expected


def test_keys_may_be_nested_in_mappings_and_lists(tmp_path: Path) -> None:
    text = (
        "inference:\n  config:\n    maxModelLen: 4096 # t\n  models:\n  - name: a\n    gpu: 0.9\n"
    )
    keys = {
        "max_model_len": "inference.config.maxModelLen",
        "gpu_memory_utilization": "inference.models.0.gpu",
        "max_num_seqs": "inference.limits.batch.seqs",
        "dtype": "inference.config.type",
    }
    source = yaml_source(tmp_path / "values.yaml", text, key_map=keys)
    assert read_file(source) == ServingConfig(max_model_len=4096, gpu_memory_utilization=0.9)
    values = {
        "max_model_len": 2048, "gpu_memory_utilization": 0.8, "max_num_seqs": 8, "dtype": "half",
    }  # fmt: skip
    assert change(source, **values).decode() == (
        "inference:\n  config:\n    maxModelLen: 2048 # t\n    type: half\n  models:\n"
        "  - name: a\n    gpu: 0.8\n  limits:\n    batch:\n      seqs: 8\n"
    )
    assert change(source, max_num_seqs=None).decode().endswith("  limits:\n    batch:\n")


def test_words_of_the_file_are_mapped_both_ways(tmp_path: Path) -> None:
    source = yaml_source(
        tmp_path / "c.yml",
        'kv_cache_dtype: "fp16"\nenforce_eager: eager\n',
        value_map={"kv_cache_dtype": {"auto": "fp16"}, "enforce_eager": {"true": "eager"}},
    )
    assert read_file(source) == ServingConfig(kv_cache_dtype="auto", enforce_eager=True)
    assert change(source, kv_cache_dtype="fp8").startswith(b'kv_cache_dtype: "fp8"\n')
    assert change(source, kv_cache_dtype="auto").startswith(b'kv_cache_dtype: "fp16"\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML at line"),
        ("- a\n- b\n", "holds a list at the top"),
        ("just words\n", "holds a str"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("max_model_len: 1\nmax_model_len: 2\n", "not valid YAML at line 2"),
        ("max_model_len: 1\nmax-model-len: 2\n", "both max_model_len and max-model-len"),
        ("max_model_len: long\n", "max_model_len: 'long' is no max_model_len; write a whole"),
        ("max_model_len: 8 GiB\n", "'8 GiB' is no max_model_len"),
        ("max_model_len: true\n", "'true' is no max_model_len"),
        ("max_model_len: {a: 1}\n", "is a dict, not a single value"),
        ("gpu_memory_utilization: 90%\n", "write a share"),
        (b"a: \xff\n", "not UTF-8"),
    ],
)
def test_bad_yaml_is_named_without_repeating_the_file(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    secret = b"api_key: s3cr3t\napi_key: s3cr3t2\n" if b"a: [1" in data else b""
    with pytest.raises(Permanent) as caught:
        read_file(yaml_source(tmp_path / "c.yaml", secret + data))
    assert message in str(caught.value)
    assert str(tmp_path / "c.yaml") in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("max_model_len: &l 5\nb: *l\n", {"max_model_len": 8}),  # b would change with it
        ("<<: {max_model_len: 5}\n", {"max_model_len": None}),
        ("- x\n", {}),
        ("max_model_len: |\n  5\n", {"max_model_len": 8}),
    ],
)
def test_what_cannot_be_edited_alone_is_refused_untouched(
    tmp_path: Path, text: str, values: dict
) -> None:
    source = yaml_source(tmp_path / "c.yaml", text)
    with pytest.raises(Permanent):
        change(source, **values)
    assert Path(source.path).read_text() == text


# --- .env ----------------------------------------------------------------------------------


def test_reads_the_handbooks_env(tmp_path: Path) -> None:
    assert read_file(env_source(tmp_path / ".env", model="MODEL_NAME")) == ServingConfig(
        model="google/gemma-3-27b-it",
        max_model_len=16384,
        tensor_parallel_size=4,
        gpu_memory_utilization=0.9,
        enforce_eager=True,
    )


def test_an_env_edit_replaces_words_and_leaves_every_other_byte(tmp_path: Path) -> None:
    source = env_source(tmp_path / ".env", model="MODEL_NAME")
    new = change(
        source,
        max_model_len=8192,
        model="a/b",
        gpu_memory_utilization=0.8,
        tensor_parallel_size=2,
        enforce_eager=False,
    ).decode()
    expected = ENV_TEXT.replace("16384", "8192").replace("google/gemma-3-27b-it", "a/b")
    expected = expected.replace('"0.9"', '"0.8"').replace("= 4", "= 2").replace("TRUE", "FALSE")
    assert new == expected


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("A=1", {"max_num_seqs": 2}, "A=1\nMAX_NUM_SEQS=2\n"),
        ("A=1\r\n", {"max_num_seqs": 2}, "A=1\r\nMAX_NUM_SEQS=2\r\n"),
        ("MAX_NUM_SEQS=1\r\nA=1\r\n", {"max_num_seqs": 2}, "MAX_NUM_SEQS=2\r\nA=1\r\n"),
        ("export A=1\n", {"max_num_seqs": 2}, "export A=1\nexport MAX_NUM_SEQS=2\n"),
        ("", {"max_num_seqs": 2}, "MAX_NUM_SEQS=2\n"),
        ("MAX_NUM_SEQS=\n", {"max_num_seqs": 2}, "MAX_NUM_SEQS=2\n"),
        ("MAX_NUM_SEQS\nA=1\n", {"max_num_seqs": 2}, "MAX_NUM_SEQS=2\nA=1\n"),
        ("DTYPE='a' # c\n", {"dtype": "b"}, "DTYPE='b' # c\n"),
        ("DTYPE=a\n", {"dtype": "b c"}, "DTYPE='b c'\n"),
        ("A=1\n\nDTYPE=a\n\nDTYPE=b\n", {"dtype": None}, "A=1\n\n\n"),
        ("ENFORCE_EAGER=1\n", {"enforce_eager": False}, "ENFORCE_EAGER=0\n"),
        ("\ufeffDTYPE=a\n", {"dtype": "b"}, "\ufeffDTYPE=b\n"),
    ],
)
def test_env_forms(tmp_path: Path, text: str, values: dict, expected: str) -> None:
    assert change(env_source(tmp_path / ".env", text), **values).decode() == expected


def test_a_bad_env_value_is_named_and_others_are_never_repeated(tmp_path: Path) -> None:
    source = env_source(tmp_path / ".env", "API_KEY=s3cr3t\nMAX_MODEL_LEN=${LEN}\n")
    with pytest.raises(Permanent, match=r"\.env: MAX_MODEL_LEN: '\$\{LEN\}' is no") as caught:
        read_file(source)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "directory", "big"])
def test_unreadable_paths_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.env"
    if kind == "directory":
        path.mkdir()
    elif kind == "big":
        path.write_bytes(b"#" * (safe_file.MAX_BYTES + 1))
    with pytest.raises(Permanent, match=r"x\.env"):
        read_file(EnvFileSource(kind="env-file", path=str(path)))


# --- properties ----------------------------------------------------------------------------

CONFIGS = st.builds(
    ServingConfig,
    max_model_len=st.none() | st.integers(1, 1 << 20),
    gpu_memory_utilization=st.none() | st.sampled_from([0.5, 0.85, 0.925]),
    enforce_eager=st.none() | st.booleans(),
    kv_cache_dtype=st.none() | st.sampled_from(["auto", "fp8", "no", "1", "a b", "x#y", "it's"]),
    model=st.none() | st.from_regex(r"[A-Za-z]{1,4}/[A-Za-z0-9.-]{1,6}", fullmatch=True),
)


@settings(max_examples=80, deadline=None)
@given(CONFIGS, CONFIGS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_env_edit_reads_back(
    before: ServingConfig, after: ServingConfig, newline: str, tail: bool
) -> None:
    source = EnvFileSource(kind="env-file", path=".env")
    rest = "# c\n\nexport B='x # y'\nC=1 # z\n".replace("\n", newline)
    text = edit_env(rest if tail else rest.rstrip(), source, ServingConfig(), before)
    assert read_env(text, source) == before
    new = edit_env(text, source, before, after)
    assert read_env(new, source) == after
    assert new.startswith(rest.rstrip())
    gone = edit_env(new, source, after, ServingConfig())
    assert gone.rstrip() == rest.rstrip()


@settings(max_examples=80, deadline=None)
@given(CONFIGS, CONFIGS, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "s.v.", "s.l.0."]))
def test_any_yaml_edit_reads_back(
    before: ServingConfig, after: ServingConfig, newline: str, where: str
) -> None:
    source = YamlSource(kind="yaml", path="c", key_map={f: where + f for f in SERVING_FIELDS})
    rest = "# c\na: 'x' # y\ns:\n  l:\n  - q: 1\n  v: # w\n    z: [1,\n      2]\nt: |\n  d\n"
    rest = rest.replace("\n", newline)
    text = edit_yaml(rest, source, ServingConfig(), before)
    assert read_yaml(text, source) == before
    new = edit_yaml(text, source, before, after)
    assert read_yaml(new, source) == after
    assert YAML(typ="safe", pure=True).load(new) == load_yaml(new, "c")
    assert edit_yaml(new, source, after, ServingConfig()) == rest
    lines = iter(new.splitlines(keepends=True))
    assert all(line in lines for line in rest.splitlines(keepends=True))


# --- writing -------------------------------------------------------------------------------

ONE, TWO = ServingConfig(max_num_seqs=1), ServingConfig(max_num_seqs=2)


def small(tmp_path: Path, text: str = "API_KEY=s\nMAX_NUM_SEQS=1\n") -> EnvFileSource:
    return env_source(tmp_path / "v.env", text)


def test_preview_tells_the_hashes_and_writes_nothing(tmp_path: Path) -> None:
    source = small(tmp_path)
    old, new = preview_file(source, ONE, TWO)
    assert sha256_file(source) == old
    edit_file(source, ONE, TWO, expected_sha256=old)
    assert sha256_file(source) == new
    with pytest.raises(Unsafe, match="edited since the plan"):
        edit_file(source, TWO, ONE, expected_sha256=old)


def test_an_edit_keeps_mode_owner_and_attributes(tmp_path: Path) -> None:
    source = small(tmp_path)
    os.chmod(source.path, 0o640)
    if os.geteuid() == 0:
        os.chown(source.path, 1234, 4321)
    try:
        os.setxattr(source.path, "user.note", b"keep")
        note = True
    except OSError:
        note = False
    before = os.stat(source.path)
    edit_file(source, ONE, TWO)
    after = os.stat(source.path)
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert not note or os.getxattr(source.path, "user.note") == b"keep"
    assert os.listdir(tmp_path) == ["v.env"]


def test_a_symbolic_link_stays_and_its_target_is_edited(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    target = tmp_path / "releases" / "v.env"
    target.write_text("MAX_NUM_SEQS=1\n")
    (tmp_path / "v.env").symlink_to(Path("releases") / "v.env")
    source = EnvFileSource(kind="env-file", path=str(tmp_path / "v.env"))
    backup = backup_file(source, "r")
    edit_file(source, ONE, TWO)
    assert (tmp_path / "v.env").is_symlink()
    assert target.read_text() == "MAX_NUM_SEQS=2\n"
    restore_file(source, backup)
    assert (tmp_path / "v.env").is_symlink()
    assert target.read_text() == "MAX_NUM_SEQS=1\n"


class Killed(BaseException):
    """kill -9, as far as Python code can see it."""


def test_killed_between_write_and_rename_leaves_the_file_and_later_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path)
    old = Path(source.path).read_bytes()

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", killed)  # a killed process does not clean up
        with pytest.raises(Killed):
            edit_file(source, ONE, TWO)
    assert Path(source.path).read_bytes() == old
    assert len(os.listdir(tmp_path)) == 2
    assert stat.S_IMODE(next(tmp_path.glob(".*")).stat().st_mode) & 0o077 in (0, 0o044)
    edit_file(source, ONE, TWO)
    assert os.listdir(tmp_path) == ["v.env"]


def test_an_error_before_the_rename_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Transient, match="No space left"):
        edit_file(source, ONE, TWO)
    assert os.listdir(tmp_path) == ["v.env"]


def test_somebody_elses_write_in_between_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path)
    edited = serving_file.edited

    def meanwhile(*args: object) -> bytes:
        new = edited(*args)
        Path(source.path).write_text("MAX_NUM_SEQS=1\nHUMAN=1\n")
        return new

    monkeypatch.setattr(serving_file, "edited", meanwhile)
    with pytest.raises(Unsafe) as caught:
        edit_file(source, ONE, TWO)
    assert caught.value.reason == "drifted"
    assert Path(source.path).read_text() == "MAX_NUM_SEQS=1\nHUMAN=1\n"


def test_concurrent_edits_of_one_field_let_one_through(tmp_path: Path) -> None:
    source = small(tmp_path)
    outcomes: list[object] = []

    def attempt(value: int) -> None:
        try:
            edit_file(source, ONE, ServingConfig(max_num_seqs=value))
            outcomes.append(value)
        except Unsafe as e:
            outcomes.append(e.reason)

    threads = [threading.Thread(target=attempt, args=(v,)) for v in range(10, 18)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    winners = [o for o in outcomes if isinstance(o, int)]
    assert len(winners) == 1
    assert outcomes.count("drifted") == 7
    assert read_file(source).max_num_seqs == winners[0]


def test_concurrent_edits_of_different_fields_all_arrive(tmp_path: Path) -> None:
    names = [f"max_{n}" for n in ("model_len", "num_seqs", "num_batched_tokens")]
    source = env_source(tmp_path / "v.env", "".join(f"{n.upper()}=1\n" for n in names))
    threads = [
        threading.Thread(
            target=edit_file, args=(source, ServingConfig(**{n: 1}), ServingConfig(**{n: 2}))
        )
        for n in names
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert read_file(source) == ServingConfig(**dict.fromkeys(names, 2))


@pytest.mark.skipif(os.geteuid() != 0, reason="drops privileges")
def test_a_directory_without_write_access_is_named(tmp_path: Path) -> None:
    source = small(tmp_path)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        os.chmod(directory, 0o755)
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        code = 1
        try:
            os.setuid(65534)
            edit_file(source, ONE, TWO)
        except Permanent as e:
            code = 0 if "write access" in str(e) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- backups -------------------------------------------------------------------------------


def test_a_backup_is_private_named_and_brings_the_bytes_back(tmp_path: Path) -> None:
    source = small(tmp_path)
    os.chmod(source.path, 0o644)
    old = Path(source.path).read_bytes()
    path = Path(backup_file(source, "flow/run 1"))
    assert path.parent == tmp_path / "v.env.runbooks"
    assert path.name.endswith("Z-flow-run-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    edit_file(source, ONE, TWO)
    restore_file(source, str(path), expected_sha256=sha256_file(source))
    assert Path(source.path).read_bytes() == old
    assert stat.S_IMODE(os.stat(source.path).st_mode) == 0o644
    inode = os.stat(source.path).st_ino
    restore_file(source, str(path), expected_sha256="0" * 64)  # equal already: nothing happens
    assert os.stat(source.path).st_ino == inode


def test_backups_are_listed_newest_first_with_their_config(tmp_path: Path) -> None:
    source = small(tmp_path)
    paths = [backup_file(source, "r")]
    edit_file(source, ONE, TWO)
    paths += [backup_file(source, "r"), backup_file(source, "r")]
    (tmp_path / "v.env.runbooks" / "last-command.log").write_text("x")
    (tmp_path / "v.env.runbooks" / "20200101T000000Z-bad").write_text("MAX_NUM_SEQS=x")
    found = list_backups(source)
    assert [b.path for b in found] == paths[::-1]
    assert [b.config.max_num_seqs for b in found] == [2, 2, 1]
    assert {b.run_id for b in found} == {"r"}
    assert found[0].sha256 == sha256_file(source)
    assert abs(datetime.now(UTC) - found[0].taken_at) < timedelta(minutes=1)


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    source = small(tmp_path)
    paths = [backup_file(source, str(n)) for n in range(5)]
    assert sorted(prune_backups(source, keep=2)) == sorted(paths[:3])
    assert [b.path for b in list_backups(source)] == [paths[4], paths[3]]
    with pytest.raises(ValueError, match="at least one"):
        prune_backups(source, keep=0)


def test_restore_refuses_what_is_no_intact_backup_of_the_file(tmp_path: Path) -> None:
    source = small(tmp_path)
    path = backup_file(source, "r")
    with pytest.raises(Permanent, match="is no backup of"):
        restore_file(source, str(tmp_path / "other.env"))
    with pytest.raises(Permanent, match="damaged"):
        restore_file(source, path, sha256_of_backup="0" * 64)
    edit_file(source, ONE, TWO)
    with pytest.raises(Unsafe, match="not overwritten"):
        restore_file(source, path, expected_sha256="0" * 64)
    os.unlink(path)
    with pytest.raises(Permanent, match="does not exist"):
        restore_file(source, path)


def test_restore_brings_a_deleted_file_back(tmp_path: Path) -> None:
    source = small(tmp_path)
    path = backup_file(source, "r")
    os.unlink(source.path)
    restore_file(source, path)
    assert read_file(source) == ONE
