"""A stand-in vLLM server: `python3 vllm_server.py --model NAME --port 8000 ...`.

It needs the Python standard library and its `vllm_*.py` siblings, nothing else, and no GPU:
logs, endpoints, metrics and failures follow vLLM 0.32 as captured. Hardware and faults come from
`SANDBOX_*` variables and the JSON file in `SANDBOX_FAULTS_FILE` (see `vllm_settings.Settings`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from deployments.sandbox import vllm_args, vllm_errors, vllm_frames, vllm_memory, vllm_text
    from deployments.sandbox.vllm_api import Api, dangling
    from deployments.sandbox.vllm_engine import Engine, host_oom, start_fault
    from deployments.sandbox.vllm_http import MAX_HEAD, Server
    from deployments.sandbox.vllm_metrics import Metrics
    from deployments.sandbox.vllm_settings import Source, UnknownSetting
else:
    import vllm_args
    import vllm_errors
    import vllm_frames
    import vllm_memory
    import vllm_text
    from vllm_api import Api, dangling
    from vllm_engine import Engine, host_oom, start_fault
    from vllm_http import MAX_HEAD, Server
    from vllm_metrics import Metrics
    from vllm_settings import Source, UnknownSetting

DRAIN_S = 0.15
STATS_S = 10.0


class Boot:
    """One start: from the arguments to a listening server, or to the exit code of a failure."""

    def __init__(self, args: argparse.Namespace, source: Source) -> None:
        self.args, self.source = args, source
        self.names: list[str] = args.served_model_name or [args.model]
        settings = source.current()
        self.wanted = vllm_memory.Wanted(
            max_model_len=settings.model_max_len if args.max_model_len == 0 else args.max_model_len,
            gpu_memory_utilization=args.gpu_memory_utilization,
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens or 2048,
            kv_cache_dtype=args.kv_cache_dtype,
            enforce_eager=args.enforce_eager,
            tensor_parallel_size=args.tensor_parallel_size,
        )
        self.budget = vllm_memory.budget(settings, self.wanted)
        self.died = asyncio.Event()
        self.exit_code = 0

    def bind(self) -> socket.socket:
        """The port, taken before the model loads as vLLM does; raises OSError."""
        host = self.args.host or "0.0.0.0"  # noqa: S104 - vLLM's own default
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if self.source.current().port_held:
                raise OSError("address already in use")
            sock.bind((host, self.args.port))
        except OSError as e:
            sock.close()
            raise OSError(
                f"[Errno 98] error while attempting to bind on address {(host, self.args.port)}: "
                f"{(e.strerror or str(e)).lower()}"
            ) from e
        return sock

    def refused(self) -> bool:
        """True, with vLLM's words, when the arguments alone make the start impossible."""
        s, model = self.source.current(), self.args.model
        known = s.models.split(",") if s.models else [model]
        if s.model_missing or model not in known or dangling(model):
            vllm_text.traceback(
                vllm_frames.MODEL_PATH,
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' "
                f"or 'namespace/repo_name': '{model}'. Use `repo_type` argument if needed.",
            )
            return True
        length = self.wanted.max_model_len
        if length is not None and length > s.model_max_len:
            vllm_text.api("model.py:733", "Resolved architecture: LlamaForCausalLM")
            vllm_text.traceback(
                vllm_frames.MODEL_LEN,
                f"ValueError: User-specified max_model_len ({length}) is greater than the derived "
                f"max_model_len (max_position_embeddings={s.model_max_len}.0 or "
                "model_max_length=None in model's config.json). To allow overriding this maximum, "
                "set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
            )
            return True
        return False

    async def load(self) -> bool:
        """Load weights and allocate the cache; False when that failed."""
        s, b, w, args = self.source.current(), self.budget, self.wanted, self.args
        shown = w.max_model_len or s.model_max_len
        vllm_text.resolved(shown, w.enforce_eager)
        vllm_text.engine_config(args.model, self.names[0], w, shown, args.quantization)
        if s.tokenizer_stall:
            vllm_text.core("tokenizer_group.py:24", "Initializing tokenizer pool")
            while self.source.current().tokenizer_stall:  # noqa: ASYNC110 - a file changes
                await asyncio.sleep(0.05)
        await asyncio.sleep(s.startup_s * 0.3)
        failure = start_fault(s, w, b)
        if failure == "weights":
            vllm_text.core(
                "gpu_model_runner.py:5021",
                vllm_errors.FAILED_TO_LOAD.format(vllm_errors.cuda_oom(s, 0.4375, 0.31)),
                "ERROR",
            )
        if failure in ("memory_held", "weights", "fp8_unsupported"):
            vllm_text.engine_init_failed(failure, vllm_errors.start_error(failure, s, b, w))
            return False
        vllm_text.loaded(b, await self._weights())
        if self.source.current().host_oom_at_start:
            host_oom()
        await asyncio.sleep(s.startup_s * 0.2)
        if failure:
            if failure == "cudagraph":
                vllm_text.raw(
                    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  43%|████▎ "
                    "    | 3/7 [00:00<00:00, 38.12it/s]"
                )
            vllm_text.engine_init_failed(failure, vllm_errors.start_error(failure, s, b, w))
            return False
        if w.max_model_len is None and b.max_model_len < s.model_max_len:
            vllm_text.core(
                "kv_cache_utils.py:1986",
                f"Auto-fit max_model_len: reduced from {s.model_max_len} to {b.max_model_len} to "
                f"fit in available GPU memory ({b.available:.2f} GiB available for KV cache)",
            )
        vllm_text.cache_ready(b, s.startup_s * 0.2)
        return True

    async def _weights(self) -> float:
        """Show the shards going in; `slow_start_s` can be cleared meanwhile."""
        begun = time.monotonic()
        s = self.source.current()
        total = 4 if not s.slow_start_s else max(4, min(60, int(s.slow_start_s / 0.4)))
        for done in range(total + 1):
            vllm_text.shards(done, total, time.monotonic() - begun)
            now = self.source.current()
            if done < total:
                await asyncio.sleep((now.startup_s * 0.3 + now.slow_start_s) / total)
        return time.monotonic() - begun

    def die(self, code: int) -> None:
        """The engine is dead: stop serving, soon, with this exit code."""
        self.exit_code = code
        self.died.set()

    def build(self) -> tuple[Api, Engine]:
        """The API over a fresh engine."""
        metrics, w, b = Metrics(self.names[0]), self.wanted, self.budget
        metrics.cache_config(**vllm_memory.cache_info(w, b, self.source.current().kv_block_tokens))
        engine = Engine(self.source, metrics, b, w, self.die)
        api = Api(
            source=self.source,
            metrics=metrics,
            engine=engine,
            names=self.names,
            root=self.args.model,
            max_model_len=b.max_model_len,
            keys=self.args.api_key or filter(None, [os.environ.get("VLLM_API_KEY")]),
        )
        return api, engine

    async def run(self) -> int:
        """Start, serve, and return the exit code."""
        vllm_text.banner(self.args.model, self.args.given)
        try:
            sock = self.bind()
        except OSError as e:
            vllm_text.traceback(vllm_frames.BIND, f"OSError: {e}")
            return 1
        with contextlib.closing(sock):
            if self.refused() or not await self.load():
                return 1
            api, engine = self.build()
            server = Server(api.handle, api.finished)
            host, port = sock.getsockname()[:2]
            try:
                listener = await asyncio.start_server(server.connection, sock=sock, limit=MAX_HEAD)
            except OSError:
                vllm_text.raw(
                    "ERROR:    [Errno 98] error while attempting to bind on address "
                    f"{(host, port)}: address already in use"
                )
                return 1
            vllm_text.serving(f"http://{host}:{port}", os.getpid())
            stats = asyncio.create_task(engine.report(STATS_S))
            try:
                await self.died.wait()
            finally:
                stats.cancel()
                listener.close()
                await server.drain(DRAIN_S)
                vllm_text.stopping(os.getpid())
        return self.exit_code


async def serve(args: argparse.Namespace, source: Source) -> int:
    """Run until the engine dies or a SIGTERM; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    run = asyncio.create_task(Boot(args, source).run())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({run, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        stopped.cancel()
        return run.result()
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    return 0


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """The command line; returns the exit code."""
    environ = os.environ if environ is None else environ
    args = vllm_args.parse(sys.argv[1:] if argv is None else argv, environ)
    try:
        source = Source(environ)
        source.current()
    except UnknownSetting as e:
        sys.stderr.write(f"vllm_server.py: error: sandbox: {e}\n")
        return 2
    return asyncio.run(serve(args, source))


if __name__ == "__main__":
    sys.exit(main())
