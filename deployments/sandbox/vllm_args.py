"""vLLM's flags, as far as the stand-in needs them: command line, YAML file, environment.

Standard library only. A flag that vLLM does not know, or has dropped, is refused as argparse
does it, with exit code 2.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox.processes import read_env_file
else:
    from processes import read_env_file

_ENV = {
    "MODEL_NAME": "model",
    "MAX_MODEL_LEN": "max_model_len",
    "GPU_MEMORY_UTILIZATION": "gpu_memory_utilization",
    "MAX_NUM_SEQS": "max_num_seqs",
    "KV_CACHE_DTYPE": "kv_cache_dtype",
    "TENSOR_PARALLEL_SIZE": "tensor_parallel_size",
    "SERVED_MODEL_NAME": "served_model_name",
    "MAX_NUM_BATCHED_TOKENS": "max_num_batched_tokens",
    "ENFORCE_EAGER": "enforce_eager",
    "QUANTIZATION": "quantization",
    "DTYPE": "dtype",
}
_NO_FLAG = tuple(
    "CUDA_ HF_ LD_ NCCL_ NVIDIA_ OMP_ PYTHON PYTORCH_ RAY_ SANDBOX_ TOKENIZER TORCH_ TRANSFORMERS_ "
    "VLLM_".split()
)
"""Variables that configure a library, not a flag."""
_KV_DTYPES = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"]
_DTYPES = ["auto", "half", "float16", "bfloat16", "float", "float32"]
_VALUED = """allowed-headers allowed-methods allowed-origins attention-backend block-size
    chat-template chat-template-content-format code-revision compilation-config cpu-offload-gb
    data-parallel-size download-dir generation-config hf-overrides kv-cache-memory-bytes
    limit-mm-per-prompt load-format lora-modules max-log-len max-logprobs max-loras max-lora-rank
    override-generation-config pipeline-parallel-size reasoning-parser response-role revision
    root-path runner safetensors-load-strategy scheduling-policy seed speculative-config
    ssl-certfile ssl-keyfile tokenizer tokenizer-mode tokenizer-revision tool-call-parser
    uvicorn-log-level""".split()
_SWITCHES = """async-scheduling disable-log-stats disable-uvicorn-access-log
    enable-auto-tool-choice enable-chunked-prefill enable-expert-parallel enable-log-requests
    enable-lora enable-prefix-caching enable-prompt-tokens-details enable-scale-out
    enable-sleep-mode trust-remote-code disable-custom-all-reduce""".split()


def length(text: str) -> int | None:
    """A context length: plain, `16k` (x 1000), `16K` (x 1024), or `auto`/`-1` (None)."""
    value = str(text).strip()
    if value in ("auto", "-1"):
        return None
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}.get(value[-1:], 0)
    if scale:
        number = float(value[:-1]) * scale
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if int(value) < 1:
        raise ValueError(value)
    return int(value)


length.__name__ = "human_readable_int_or_auto"


def parser() -> argparse.ArgumentParser:
    """Every flag the stand-in takes; defaults are vLLM's."""
    p = argparse.ArgumentParser(prog="api_server.py", allow_abbrev=False)
    p.add_argument("model_tag", nargs="*", help=argparse.SUPPRESS)
    p.add_argument("--config")
    p.add_argument("--host")
    p.add_argument("--port", type=int, default=8000)
    p.add_argument("--api-key", nargs="+")
    p.add_argument("--model", default="Qwen/Qwen3-0.6B")
    p.add_argument("--dtype", choices=_DTYPES, default="auto")
    p.add_argument("--max-model-len", type=length, default=0)
    p.add_argument("--quantization", "-q")
    p.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction, default=False)
    p.add_argument("--served-model-name", nargs="+")
    p.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    p.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    p.add_argument("--kv-cache-dtype", choices=_KV_DTYPES, default="auto")
    p.add_argument("--max-num-batched-tokens", type=length, default=2048)
    p.add_argument("--max-num-seqs", type=int, default=256)
    for name in _VALUED:
        p.add_argument(f"--{name}")
    for name in _SWITCHES:
        p.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    return p


def read_yaml(path: str) -> dict[str, str]:
    """Top-level `key: value` lines; comments, quotes and blank lines as YAML has them."""
    values: dict[str, str] = {}
    with open(path, encoding="utf-8") as f:
        for number, raw in enumerate(f, 1):
            line = raw.rstrip("\n")
            if not line.strip() or line.lstrip().startswith("#") or line.strip() in ("---", "..."):
                continue
            key, colon, rest = line.partition(":")
            if not colon or (rest and rest[0] not in " \t") or key != key.lstrip():
                raise ValueError(f"{path}:{number}: expected 'key: value', got {line!r}")
            rest = rest.strip()
            if rest[:1] in ("'", '"'):
                end = rest.find(rest[0], 1)
                rest = rest[1:end] if end > 0 else rest[1:]
            elif " #" in rest or rest.startswith("#"):
                rest = rest[: rest.index("#")].rstrip()
            values[key.strip().strip("'\"").replace("_", "-")] = rest
    return values


def _as_flags(values: Mapping[str, str]) -> list[str]:
    switches = {*_SWITCHES, "enforce-eager"}
    flags: list[str] = []
    for key, value in values.items():
        if key in switches or value.lower() in ("true", "false"):
            if value.lower() in ("true", "yes", "on", ""):
                flags.append(f"--{key}")
        elif value.lower() not in ("", "null", "~"):
            flags.append(f"--{key}={value}")
    return flags


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """The arguments: command line over the YAML file over the environment.

    Every variable of the file named by `SANDBOX_ENV_FILE` is a flag, as with an entrypoint script
    that turns variables into arguments; those of a library (`_NO_FLAG`) are not.

    A file whose keys are not vLLM's is read through `SANDBOX_CONFIG_KEYS`, a JSON object from
    the file's key to vLLM's.

    `args.given` maps the values that differ from vLLM's defaults, in vLLM's order, as its
    "non-default args" line prints them.
    """
    p = parser()
    flags = [_dashes(a) for a in argv]
    known, _ = p.parse_known_args(flags)
    from_env = {k.replace("_", "-"): environ[e] for e, k in _ENV.items() if environ.get(e)}
    from_file: dict[str, str] = {}
    if environ.get("SANDBOX_ENV_FILE"):
        own = read_env_file(environ["SANDBOX_ENV_FILE"])
        extra = {k: v for k, v in own.items() if k not in _ENV and not k.startswith(_NO_FLAG)}
        from_env |= {k.lower().replace("_", "-"): v for k, v in extra.items()}
    if known.config:
        try:
            from_file = read_yaml(known.config)
            renamed = json.loads(environ.get("SANDBOX_CONFIG_KEYS") or "{}")
            names = {k.replace("_", "-"): v.replace("_", "-") for k, v in renamed.items()}
            from_file = {names.get(k, k): v for k, v in from_file.items()}
        except (OSError, ValueError) as e:
            p.error(str(e))
    args = p.parse_args([*_as_flags(from_env), *_as_flags(from_file), *flags])
    tags = [t for t in args.model_tag if t != "serve"]
    if len(tags) > 1:
        p.error(f"unrecognized arguments: {' '.join(tags[1:])}")
    if tags:
        args.model = tags[0]
    if not 0 < args.gpu_memory_utilization <= 1:
        p.error(
            "argument --gpu-memory-utilization: Input should be greater than 0 and less than "
            f"or equal to 1, got {args.gpu_memory_utilization}"
        )
    for name in ("max_num_seqs", "tensor_parallel_size"):
        if getattr(args, name) < 1:
            p.error(
                f"argument --{name.replace('_', '-')}: Input should be greater than or equal "
                f"to 1, got {getattr(args, name)}"
            )
    args.given = _non_default(p, args)
    return args


def _dashes(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value


def _non_default(p: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for action in p._actions:
        name = action.dest
        if name in ("help", "model_tag", "config"):
            continue
        value = getattr(args, name)
        if value != action.default:
            given[name] = ["***"] if name == "api_key" else value
    return given
