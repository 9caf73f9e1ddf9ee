"""vLLM's command line: what is read, and that an edit changes its fields and nothing else."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import Permanent, Unsafe
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource
from blocks.serving_arguments import edit_arguments, read_arguments

PLAIN = ArgumentsSource()


def read(*args: str, env: dict[str, str] | None = None, **keys: str) -> ServingConfig:
    return read_arguments(args, env or {}, ArgumentsSource(env=keys))


def edit(args: list[str], **values: object) -> list[str]:
    now = read_arguments(args, {}, PLAIN)
    return edit_arguments(args, {}, PLAIN, now, now.changed(**values))[0]


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--max-model-len", "8192"], "max_model_len", 8192),
        (["--max-model-len=8192"], "max_model_len", 8192),
        (["--max_model_len", "8192"], "max_model_len", 8192),
        (["--max_model_len=16k"], "max_model_len", 16000),
        (["--max-model-len", "16K"], "max_model_len", 16384),
        (["--max-model-len", "1.5k"], "max_model_len", 1500),
        (["--max-model-len", "1M"], "max_model_len", 1048576),
        (["--max-model-len", "-1"], "max_model_len", None),
        (["--max-model-len=auto"], "max_model_len", None),
        (["--max-model", "8192"], "max_model_len", 8192),
        (["--max-num-s", "8"], "max_num_seqs", 8),
        (["--max-num-b=2k"], "max_num_batched_tokens", 2000),
        (["--max-num", "8"], "max_num_seqs", None),  # ambiguous: vLLM refuses it
        (["--max-model-len", "1", "--max-model-len", "2"], "max_model_len", 2),
        (["-tp", "2"], "tensor_parallel_size", 2),
        (["-tp=4"], "tensor_parallel_size", 4),
        (["-tp", "2", "--tensor-parallel-size", "4"], "tensor_parallel_size", 4),
        (["-pp", "2", "-dp", "3"], "tensor_parallel_size", None),
        (["-q", "awq"], "quantization", "awq"),
        (["-q=gptq"], "quantization", "gptq"),
        (["-qawq"], "quantization", "awq"),
        (["--quantization", "None"], "quantization", None),
        (["--gpu-memory-utilization", ".85"], "gpu_memory_utilization", 0.85),
        (["--kv-cache-dtype", "fp8"], "kv_cache_dtype", "fp8"),
        (["--enforce-eager"], "enforce_eager", True),
        (["--enforce_eager"], "enforce_eager", True),
        (["--no-enforce-eager"], "enforce_eager", False),
        (["--enforce-eager=true"], "enforce_eager", True),
        (["--enforce-eager", "False"], "enforce_eager", False),
        (["--enforce-eager", "--no-enforce-eager"], "enforce_eager", False),
        (["--served-model-name", "a", "b"], "served_model_name", "a"),
        (["--served-model-name", "a", "b", "--port", "1"], "served_model_name", "a"),
        (["--hf-overrides.max_model_len", "5"], "max_model_len", None),
        (["--hf-overrides", '{"max_model_len": 5}'], "max_model_len", None),
        (["vllm", "serve", "Qwen/Q", "--port", "1"], "model", "Qwen/Q"),
        (["serve", "Qwen/Q"], "model", "Qwen/Q"),
        (["serve", "--model", "Qwen/Q"], "model", "Qwen/Q"),
        (["serve", "a/b", "--model", "c/d"], "model", "c/d"),
        (["Qwen/Q", "--port", "1"], "model", "Qwen/Q"),
        (["/models/x", "--port", "1"], "model", "/models/x"),
        (["/entrypoint.sh", "--max-model-len", "1"], "model", None),
        (["python3", "-m", "vllm.entrypoints.openai.api_server", "--model=m"], "model", "m"),
        (["tini", "-q", "--", "vllm", "serve", "m/m"], "quantization", None),
        (["--model-impl", "vllm"], "model", None),
        (["--config", "/c.yaml", "--max-model-len", "5"], "max_model_len", 5),
        ([], "model", None),
    ],
)
def test_reads_every_form_vllm_takes(args: list[str], field: str, value: object) -> None:
    assert getattr(read(*args), field) == value


def test_reads_the_captured_container() -> None:
    args = (
        "python -m vllm.entrypoints.openai.api_server --model /models/wintermute-tiny "
        "--served-model-name wintermute --host 0.0.0.0 --port 8000 --max-model-len 16384 "
        "--max-num-seqs 8 --enforce-eager"
    ).split()  # docker inspect of vLLM 0.32, Path and Args
    assert read(*args) == ServingConfig(
        max_model_len=16384,
        max_num_seqs=8,
        enforce_eager=True,
        model="/models/wintermute-tiny",
        served_model_name="wintermute",
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--max-model-len"],
        ["--max-model-len", "--port"],
        ["--max-model-len", "8 GiB"],
        ["--max-model-len", "1.5K"],
        ["--max-model-len", "16q"],
        ["--max-num-seqs", "-1"],
        ["--max-num-seqs", "0"],
        ["--gpu-memory-utilization", "85%"],
        ["--gpu-memory-utilization", "1.2"],
        ["--gpu-memory-utilization", "nan"],
        ["--enforce-eager=maybe"],
    ],
)
def test_refuses_what_vllm_would_refuse_and_names_the_flag(args: list[str]) -> None:
    with pytest.raises(Permanent, match=args[0].partition("=")[0]):
        read(*args)


@pytest.mark.parametrize(
    ("args", "change", "expected"),
    [
        (["--a", "--max-model-len", "16k", "--b"], {"max_model_len": 8192},
         ["--a", "--max-model-len", "8192", "--b"]),
        (["--max_model_len=16k"], {"max_model_len": 8192}, ["--max_model_len=8192"]),
        (["--max-model", "16k"], {"max_model_len": 8192}, ["--max-model", "8192"]),
        (["--max-model-len", "auto"], {"max_model_len": 8192}, ["--max-model-len", "8192"]),
        (["--max-model-len", "1", "x", "--max-model-len", "2"], {"max_model_len": 3},
         ["--max-model-len", "1", "x", "--max-model-len", "3"]),
        (["--max-model-len", "1", "x", "--max-model-len", "2"], {"max_model_len": None}, ["x"]),
        (["--port", "1"], {"max_model_len": 3}, ["--port", "1", "--max-model-len", "3"]),
        (["--port=1"], {"max_model_len": 3}, ["--port=1", "--max-model-len=3"]),
        (["--port=1", "-tp", "2"], {"max_num_seqs": 3},
         ["--port=1", "-tp", "2", "--max-num-seqs", "3"]),
        (["-tp=4"], {"tensor_parallel_size": 2}, ["-tp=2"]),
        (["-qawq"], {"quantization": "gptq"}, ["-qgptq"]),
        (["-q", "awq", "x"], {"quantization": None}, ["x"]),
        (["--enforce-eager"], {"enforce_eager": False}, ["--no-enforce-eager"]),
        (["--no-enforce-eager"], {"enforce_eager": True}, ["--enforce-eager"]),
        (["--enforce-eager"], {"enforce_eager": None}, []),
        (["--enforce-eager=True"], {"enforce_eager": False}, ["--enforce-eager=False"]),
        ([], {"enforce_eager": True}, ["--enforce-eager"]),
        (["--served-model-name", "a", "b"], {"served_model_name": "c"},
         ["--served-model-name", "c", "b"]),
        (["--served-model-name", "a", "b", "--x"], {"served_model_name": None}, ["--x"]),
        (["vllm", "serve", "a/b", "--x"], {"model": "c/d"}, ["vllm", "serve", "c/d", "--x"]),
        (["vllm", "serve", "--x"], {"model": "c/d"}, ["vllm", "serve", "c/d", "--x"]),
        (["--x"], {"model": "c/d"}, ["--x", "--model", "c/d"]),
        (["--gpu-memory-utilization", "0.92"], {"gpu_memory_utilization": 0.85},
         ["--gpu-memory-utilization", "0.85"]),
    ],
)  # fmt: skip
def test_edits_in_the_form_in_use(args: list[str], change: dict, expected: list[str]) -> None:
    assert edit(args, **change) == expected


def test_refuses_an_edit_from_a_state_that_is_no_longer_there() -> None:
    with pytest.raises(Unsafe, match="max_model_len is 4096 now") as caught:
        edit_arguments(
            ["--max-model-len", "4096"],
            {},
            PLAIN,
            ServingConfig(max_model_len=16384),
            ServingConfig(max_model_len=8192),
        )
    assert caught.value.reason == "drifted"


# --- environment ---------------------------------------------------------------------------


def test_variables_are_read_unless_a_flag_is_there() -> None:
    env = {"MAX_LEN": "16k", "EAGER": "1", "EMPTY": ""}
    keys = {"max_model_len": "MAX_LEN", "enforce_eager": "EAGER", "dtype": "EMPTY"}
    assert read(env=env, **keys) == ServingConfig(max_model_len=16000, enforce_eager=True)
    assert read("--max-model-len", "5", env=env, **keys).max_model_len == 5


def test_variables_are_written_in_their_own_spelling() -> None:
    source = ArgumentsSource(env={"max_model_len": "LEN", "enforce_eager": "EAGER"})
    env = {"LEN": "16k", "EAGER": "1", "API_KEY": "s"}
    now = read_arguments([], env, source)
    after = now.changed(max_model_len=8192, enforce_eager=False, max_num_seqs=4)
    args, new = edit_arguments([], env, source, now, after)
    assert (args, new) == (["--max-num-seqs", "4"], {"LEN": "8192", "EAGER": "0", "API_KEY": "s"})
    assert edit_arguments(args, new, source, after, after.changed(max_model_len=None))[1] == {
        "EAGER": "0",
        "API_KEY": "s",
    }


def test_a_flag_is_edited_rather_than_its_variable_and_both_go_with_the_field() -> None:
    source = ArgumentsSource(env={"max_model_len": "LEN"})
    args, env = ["--max-model-len", "1"], {"LEN": "2"}
    one, two = ServingConfig(max_model_len=1), ServingConfig(max_model_len=3)
    assert edit_arguments(args, env, source, one, two) == (["--max-model-len", "3"], {"LEN": "2"})
    assert edit_arguments(args, env, source, one, ServingConfig()) == ([], {})


# --- sh -c ---------------------------------------------------------------------------------

SCRIPTS = [
    "vllm serve a/b --max-model-len 16384",
    "vllm serve a/b --max-model-len=16384 --port 8000",
    "vllm serve a/b --max-model-len='16384'",
    'vllm serve a/b --max-model-len "16384" # --max-model-len 5',
    'vllm serve a/b "--max-model-len=16384"',
    "export A=$HOME; exec vllm serve a/b \\\n  --max-model-len 16384 \\\n  --port 8000\n",
    "vllm serve a/b --max-model-len 16384 2>&1 | tee -a /var/log/v.log",
    "nvidia-smi -q && vllm serve a/b --max-model-len 16384 > /log --port 80 &",
    "HF_HOME=/x python3 -m vllm.entrypoints.openai.api_server --model a/b --max-model-len 16384",
    "(cd /srv; vllm serve a/b $EXTRA --chat-template '{{ x }}' --max-model-len 16384)",
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("head", [["-c"], ["/bin/bash", "-lc"], ["sh", "-e", "-c"], []])
def test_edits_one_word_inside_a_shell_string(script: str, head: list[str]) -> None:
    args = [*head, script]
    assert read(*args).model == "a/b"
    assert read(*args).max_model_len == 16384
    new = edit(args, max_model_len=8192)
    assert new == [*head, script.replace("16384", "8192")]
    assert edit(new, max_model_len=16384) == args


@pytest.mark.parametrize("script", SCRIPTS)
def test_adds_to_and_takes_from_a_shell_string(script: str) -> None:
    new = edit(["-c", script], gpu_memory_utilization=0.85)
    assert read(*new) == read("-c", script).changed(gpu_memory_utilization=0.85)
    assert edit(new, gpu_memory_utilization=None) == ["-c", script]
    gone = edit(["-c", script], max_model_len=None)
    assert read(*gone).max_model_len is None
    assert "max-model-len" not in gone[1].split("#")[0]


def test_adds_before_redirections_and_pipes() -> None:
    assert edit(["-c", "vllm serve a/b 2>&1 | tee x"], max_num_seqs=4)[1] == (
        "vllm serve a/b --max-num-seqs 4 2>&1 | tee x"
    )


@pytest.mark.parametrize(
    ("value", "expected"), [("$LEN", 8192), ('"${LEN}"', 8192), ("${NONE:-4096}", 4096)]
)
def test_shell_variables_are_looked_up(value: str, expected: int) -> None:
    args = ["-c", f"vllm serve a/b --max-model-len {value}"]
    assert read(*args, env={"LEN": "8192"}).max_model_len == expected


def test_a_shell_variable_is_edited_only_where_the_inventory_names_it() -> None:
    args, env = ["-c", "vllm serve a/b --max-model-len ${LEN}"], {"LEN": "8192"}
    now, after = ServingConfig(max_model_len=8192), ServingConfig(max_model_len=4096)
    with pytest.raises(Permanent, match=r"serving\.env"):
        edit_arguments(args, env, PLAIN, now, after)
    named = ArgumentsSource(env={"max_model_len": "LEN"})
    assert edit_arguments(args, env, named, now, after) == (args, {"LEN": "4096"})


@pytest.mark.parametrize(
    "script",
    [
        "vllm serve a/b --max-model-len '16384",
        "vllm serve a/b --max-model-len $UNSET",
        "vllm serve a/b --max-model-len $(cat /len)",
        "vllm serve a/b --max-model-len '$LEN'",
        "vllm serve a/b <<EOF\nx\nEOF",
        "vllm serve a/b --max-model-len 1 & vllm serve c/d --max-model-len 2",
    ],
)
def test_refuses_shell_strings_it_cannot_be_sure_of(script: str) -> None:
    with pytest.raises(Permanent, match="arguments: "):
        read("-c", script)


def test_a_script_without_vllm_reads_as_unset_and_is_not_edited() -> None:
    source = ArgumentsSource(env={"max_model_len": "LEN"})
    args, env = ["-c", "exec /start.sh --foo"], {"LEN": "5"}
    assert read_arguments(args, env, source) == ServingConfig(max_model_len=5)
    with pytest.raises(Permanent, match="no vLLM command"):
        edit(args, max_num_seqs=4)


# --- properties ----------------------------------------------------------------------------

WORDS = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
VALUES: dict[str, st.SearchStrategy] = {
    "max_model_len": st.integers(1, 1 << 21),
    "gpu_memory_utilization": st.sampled_from([0.8, 0.85, 0.9, 0.95, 1.0, 0.123]),
    "max_num_seqs": st.integers(1, 4096),
    "max_num_batched_tokens": st.integers(1, 1 << 20),
    "kv_cache_dtype": st.sampled_from(["auto", "fp8", "fp8_e5m2"]),
    "enforce_eager": st.booleans(),
    "tensor_parallel_size": st.integers(1, 16),
    "quantization": WORDS,
    "dtype": WORDS,
    "model": st.builds("{}/{}".format, WORDS, WORDS),
    "served_model_name": WORDS,
}
CONFIGS = st.builds(
    lambda values: ServingConfig(**values),
    st.fixed_dictionaries({}, optional=dict(VALUES.items())),
)
OTHERS = st.lists(
    st.sampled_from(
        [
            ["--port", "8000"],
            ["--port=8000"],
            ["--trust-remote-code"],
            ["-pp", "2"],
            ["--hf-overrides", '{"max_model_len": 1, "a b": [2]}'],
            ["--override-generation-config.max_new_tokens", "5"],
            ["--api-key", "s3cr3t é"],
            ["--max-log-len", "10"],
            ["--max-num-partial-prefills", "2"],
            ["--config", "/etc/vllm.yaml"],
        ]
    ),
    max_size=6,
)


def spell(config: ServingConfig, equals: bool) -> list[list[str]]:
    spelled = []
    for field, value in config.model_dump(exclude_none=True).items():
        flag = "--" + field.replace("_", "-")
        if field == "enforce_eager":
            spelled.append([flag if value else "--no-enforce-eager"])
        else:
            spelled.append([f"{flag}={value}"] if equals else [flag, str(value)])
    return spelled


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[list[str], list[list[str]], ServingConfig]:
    config, equals = draw(CONFIGS), draw(st.booleans())
    groups = draw(st.permutations(spell(config, equals) + draw(OTHERS)))
    head = draw(st.sampled_from([[], ["python3", "-m", "vllm.entrypoints.openai.api_server"]]))
    return [*head, *(w for g in groups for w in g)], [head, *groups], config


@settings(max_examples=100, deadline=None)
@given(command_lines(), CONFIGS)
def test_what_was_edited_reads_back_and_the_rest_stays(line: tuple, after: ServingConfig) -> None:
    args, groups, before = line
    assert read_arguments(args, {}, PLAIN) == before
    new, env = edit_arguments(args, {}, PLAIN, before, after)
    assert read_arguments(new, {}, PLAIN) == after
    assert env == {}
    gone = {k: v for k, v in before.model_dump().items() if k in before.diff(after)}
    changed = [g for eq in (True, False) for g in spell(ServingConfig(**gone), eq)]
    rest = iter(new)
    assert all(w in rest for g in groups if g not in changed for w in g)  # in their order


@settings(max_examples=60, deadline=None)
@given(command_lines(), st.data())
def test_editing_back_gives_the_same_bytes(line: tuple, data: st.DataObject) -> None:
    args, _, before = line
    values = {f: data.draw(VALUES[f]) for f in data.draw(st.sets(st.sampled_from([*VALUES])))}
    after = before.changed(**values)
    new, _ = edit_arguments(args, {}, PLAIN, before, after)
    assert edit_arguments(new, {}, PLAIN, after, before)[0] == args


@settings(max_examples=60, deadline=None)
@given(command_lines(), st.data())
def test_a_shell_string_takes_the_same_edits(line: tuple, data: st.DataObject) -> None:
    args, _, before = line
    prefix = [] if args[:1] == ["python3"] else ["python3", "-m", "vllm.entrypoints.api_server"]
    script = "set -e; exec " + shlex.join([*prefix, *args]) + " 2>&1 | tee /log"
    values = {f: data.draw(VALUES[f]) for f in data.draw(st.sets(st.sampled_from([*VALUES])))}
    after = before.changed(**values)
    new, _ = edit_arguments(["-c", script], {}, PLAIN, before, after)
    assert read_arguments(new, {}, PLAIN) == after
    assert edit_arguments(new, {}, PLAIN, after, before)[0] == ["-c", script]
