"""What vLLM 0.32 writes while it starts, fails and stops (captures/vllm).

Standard library only. vLLM's own log lines go to stdout, tracebacks, progress bars and
uvicorn's lines to stderr, each flushed at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox import vllm_frames as frames
else:
    import vllm_frames as frames

if TYPE_CHECKING:
    from deployments.sandbox.vllm_memory import Budget, Wanted

VERSION = "0.32.0"
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
DEPRECATED = (
    (
        24,
        "`vllm.entrypoints.openai.api_server` is deprecated and will likely beunsupported in a "
        "future version. Use the corresponding function from `vllm.entrypoints.launchers` "
        "instead.",
    ),
    (
        51,
        "The `python -m vllm.entrypoints.openai.api_server` command is deprecated and may be "
        "removed in a future release. Please use `vllm server` instead.",
    ),
)
BANNER = (
    "",
    "       █     █     █▄   ▄█",
    " ▄▄ ▄█ █     █     █ ▀▄▀ █  version {version}",
    "  █▄█▀ █     █     █     █  model   {model}",
    "   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀",
    "",
)
ROUTES = """openapi.json GET,HEAD|docs GET,HEAD|docs/oauth2-redirect GET,HEAD|redoc GET,HEAD
load GET|version GET|kv_event_sources GET|health GET|metrics GET|tokenize POST|detokenize POST
v1/models GET|v1/systemone POST|ping GET|ping POST|invocations POST|v1/chat/completions POST
v1/chat/completions/batch POST|v1/responses POST|v1/responses/{response_id} GET
v1/responses/{response_id}/cancel POST|v1/completions POST|v1/messages POST
v1/messages/count_tokens POST|generative_scoring POST|scale_elastic_ep POST
is_scaling_elastic_ep POST|v1/chat/completions/render POST|v1/messages/render POST
v1/completions/render POST|v1/responses/render POST|v1/chat/completions/derender POST
v1/completions/derender POST|inference/v1/generate POST|inference/v1/abort_requests POST"""


def raw(line: str = "") -> None:
    """One line to stderr, without a prefix (tracebacks, progress bars, uvicorn)."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def log(role: str, level: str, where: str, message: str) -> None:
    """One vLLM log record to stdout; every line of the message carries the prefix."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    prefix = f"({role} pid={os.getpid()}) {level} {stamp} [{where}] "
    sys.stdout.write("".join(f"{prefix}{line}\n" for line in message.split("\n")))
    sys.stdout.flush()


def api(where: str, message: str, level: str = "INFO") -> None:
    """A record of the API server."""
    log("APIServer", level, where, message)


def core(where: str, message: str, level: str = "INFO") -> None:
    """A record of the engine core."""
    log("EngineCore", level, where, message)


def banner(model: str, given: Mapping[str, Any]) -> None:
    """The first lines of every start, with the two warnings that an old entrypoint prints."""
    for number, warning in DEPRECATED:
        raw(
            "/opt/venv/lib/python3.11/site-packages/vllm/entrypoints/openai/api_server.py:"
            f"{number}: DeprecationWarning: {warning}\n  warnings.warn("
        )
    for line in BANNER:
        api("api_utils.py:347", line.format(version=VERSION, model=model))
    api("api_utils.py:286", f"non-default args: {dict(given)}")


def resolved(max_model_len: int, eager: bool) -> None:
    """The configuration is read."""
    api("model.py:733", "Resolved architecture: LlamaForCausalLM")
    api("model.py:2152", f"Using max model len {max_model_len}")
    if eager:
        api(
            "vllm.py:1703",
            "Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup. This "
            "is equivalent to setting -cc.mode=none -cc.cudagraph_mode=none and "
            "--kernel_config.enable_jit_warmup=False",
            "WARNING",
        )
        api(
            "vllm.py:1727",
            "Inductor compilation was disabled by user settings, optimizations settings that are "
            "only active during inductor compilation will be ignored.",
            "WARNING",
        )


def engine_config(model: str, name: str, w: Wanted, max_len: int, quantization: str | None) -> None:
    """The engine core starts."""
    core(
        "core.py:133",
        f"Initializing a V1 LLM engine (v{VERSION}) with config: model='{model}', "
        f"speculative_config=None, tokenizer='{model}', skip_tokenizer_init=False, "
        "tokenizer_mode=auto, revision=None, tokenizer_revision=None, trust_remote_code=False, "
        f"dtype=torch.float16, max_seq_len={max_len}, download_dir=None, load_format=auto, "
        f"tensor_parallel_size={w.tensor_parallel_size}, pipeline_parallel_size=1, "
        "data_parallel_size=1, decode_context_parallel_size=1, dcp_comm_backend=ag_rs, "
        f"disable_custom_all_reduce=True, quantization={quantization}, quantization_config=None, "
        f"enforce_eager={w.enforce_eager}, kv_cache_dtype={w.kv_cache_dtype}, device_config=cuda, "
        "structured_outputs_config=StructuredOutputsConfig(backend='auto', "
        "disable_any_whitespace=False, reasoning_parser='', enable_in_reasoning=False), "
        f"seed=0, served_model_name={name}, enable_prefix_caching=True, "
        "enable_chunked_prefill=True, pooler_config=None",
    )
    core(
        "parallel_state.py:1906",
        f"world_size={w.tensor_parallel_size} rank=0 local_rank=0 "
        "distributed_init_method=tcp://127.0.0.1:40463 backend=nccl",
    )
    core("gpu_model_runner.py:4968", f"Starting to load model {model}...")
    core(
        "cuda.py:431",
        "Using FLASH_ATTN attention backend out of potential backends: "
        "['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION'].",
    )


def shards(done: int, total: int, seconds: float) -> None:
    """The progress bar of the weights."""
    share = f"{100 * done // total:3d}% Completed | {done}/{total}"
    if done:
        rest = seconds / done * (total - done)
        pace = f"[{_clock(seconds)}<{_clock(rest)}, {done / max(seconds, 1e-6):5.2f}it/s]"
    else:
        pace = "[00:00<?, ?it/s]"
    raw(f"Loading safetensors checkpoint shards: {share} {pace}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def loaded(b: Budget, seconds: float) -> None:
    """The weights are on the device."""
    raw()
    core("default_loader.py:501", f"Loading weights took {seconds:.2f} seconds")
    core(
        "gpu_model_runner.py:5014",
        f"Model loading took {b.weights:.2f} GiB memory and {seconds:.6f} seconds",
    )


def cache_ready(b: Budget, seconds: float) -> None:
    """The KV cache is allocated, and CUDA graphs are captured unless eager."""
    core("gpu_worker.py:459", f"Available KV cache memory: {round(b.available, 2)} GiB")
    core(
        "kv_cache_utils.py:2327",
        f"GPU KV cache size: {b.kv_tokens:,} tokens, Maximum concurrency for "
        f"{b.max_model_len:,} tokens per request: {b.kv_tokens / b.max_model_len:.2f}x",
    )
    if b.graphs:
        raw(
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 7/7 "
            "[00:00<00:00, 41.30it/s]"
        )
        core(
            "gpu_model_runner.py:5771",
            f"Graph capturing finished in 1 secs, took {b.graphs:.2f} GiB",
        )
    core(
        "core.py:402", f"init engine (profile, create kv cache, warmup model) took {seconds:.2f} s"
    )


def serving(url: str, pid: int) -> None:
    """The routes, and uvicorn's first lines."""
    api("entry.py:136", "Supported tasks: ['generate']")
    api("entry.py:140", f"Starting vLLM server on {url}")
    api("launcher.py:186", "Available routes are:")
    for route in ROUTES.replace("\n", "|").split("|"):
        path, methods = route.split(" ")
        api("launcher.py:195", f"Route: /{path}, Methods: {methods.replace(',', ', ')}")
    raw(f"INFO:     Started server process [{pid}]")
    raw("INFO:     Waiting for application startup.")
    raw("INFO:     Application startup complete.")


def stopping(pid: int) -> None:
    """The last lines of uvicorn."""
    api("launcher.py:110", "Shutting down FastAPI HTTP server.")
    for line in (
        "Shutting down",
        "Waiting for application shutdown.",
        "Application shutdown complete.",
        f"Finished server process [{pid}]",
    ):
        raw(f"INFO:     {line}")


def access(peer: tuple[str, int], line: str, status: int) -> None:
    """One line of uvicorn's access log."""
    sys.stdout.write(
        f'INFO:     {peer[0]}:{peer[1]} - "{line} HTTP/1.1" {status} {HTTPStatus(status).phrase}\n'
    )
    sys.stdout.flush()


def traceback(trace: list[frames.Frame], error: str) -> None:
    """An uncaught exception of the API server."""
    for line in [*frames.render(trace), error]:
        raw(line)


def asgi_failed(error: str) -> None:
    """An exception that a route let through: the client gets a bare 500."""
    raw("ERROR:    Exception in ASGI application")
    traceback(frames.MODELS, error)


def engine_init_failed(tail: str, error: str) -> None:
    """The engine core could not start: the cause, then 40 and more lines that hide it."""
    trace = [*frames.INIT, *frames.TAILS[tail]]
    core("core.py:1510", "EngineCore failed to start.", "ERROR")
    core("core.py:1510", "\n".join([*frames.render(trace), error]), "ERROR")
    raw("Process EngineCore:")
    core(
        "multiproc_executor.py:315",
        "Worker proc VllmWorker-0 died unexpectedly (exit code: 0), shutting down executor.",
        "ERROR",
    )
    core("multiproc_executor.py:479", "[shutdown] Executor: waiting for worker exit count=0")
    head, *rest = frames.render(
        [*frames.PROCESS, (trace[0][0], 1514, "run_engine_core", "raise e"), *trace]
    )
    raw(head)
    core("multiproc_executor.py:486", "[shutdown] Executor: all workers exited gracefully")
    for line in [*rest, error]:
        raw(line)
    traceback(
        frames.CLIENT,
        "RuntimeError: Engine core initialization failed. See root cause "
        "above. Failed core proc(s): {'EngineCore': 1}",
    )


def engine_died(error: str | None) -> None:
    """The engine core died while it served; without an error, no cause is visible."""
    if error:
        core("core.py:1521", "EngineCore encountered a fatal error.", "ERROR")
        core("core.py:1521", "\n".join([*frames.render(frames.BUSY), error]), "ERROR")
        raw("Process EngineCore:")
        head, *rest = frames.render([*frames.PROCESS, *frames.BUSY])
        for line in [head, *rest, error]:
            raw(line)
    api("async_llm.py:711", "AsyncLLM output_handler failed.", "ERROR")
    dead = f"vllm.v1.engine.exceptions.EngineDeadError: {ENGINE_DEAD}"
    api("async_llm.py:711", "\n".join([*frames.render(frames.OUTPUT), dead]), "ERROR")
