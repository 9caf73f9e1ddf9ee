"""Tracebacks of vLLM 0.32 as data: where each failure passes through.

Standard library only. Frames are `(file, line, function, code)`; see `render`. The first
tables are captured (captures/vllm), the GPU tails follow vLLM's own module layout.
"""

import re

Frame = tuple[str, int, str, str]

_PREFIX = {
    "v:": "/opt/venv/lib/python3.11/site-packages/vllm/",
    "s:": "/opt/venv/lib/python3.11/site-packages/",
    "p:": "/usr/local/lib/python3.11/",
}
_ASSIGNED = re.compile(r"(return |[\w.]+ = )")

# fmt: off
WRAP: Frame = ("v:tracing/otel.py", 175, "sync_wrapper", "return func(*args, **kwargs)")
RUNPY: list[Frame] = [
    ("<frozen runpy>", 198, "_run_module_as_main", ""),
    ("<frozen runpy>", 88, "_run_code", ""),
    ("v:entrypoints/openai/api_server.py", 59, "<module>", "main()"),
    ("v:entrypoints/launchers/api_server/entry.py", 232, "main", "uvloop.run(run_server(args))"),
    ("s:uvloop/__init__.py", 92, "run", "return runner.run(wrapper())"),
    ("p:asyncio/runners.py", 118, "run", "return self._loop.run_until_complete(task)"),
    ("uvloop/loop.pyx", 1515, "uvloop.loop.Loop.run_until_complete", ""),
    ("s:uvloop/__init__.py", 48, "wrapper", "return await main"),
]
_ENTRY = "v:entrypoints/launchers/api_server/entry.py"
_ANEXT: Frame = ("p:contextlib.py", 210, "__aenter__", "return await anext(self.gen)")
SERVER: list[Frame] = [
    *RUNPY,
    (_ENTRY, 177, "run_server",
     "await run_server_worker(listen_address, sock, args, **uvicorn_kwargs)"),
    (_ENTRY, 195, "run_server_worker", "async with build_async_engine_client("),
    _ANEXT,
]
BIND: list[Frame] = [
    *RUNPY,
    (_ENTRY, 174, "run_server", "listen_address, sock = setup_server(args)"),
    (_ENTRY, 141, "setup_server", "sock = create_server_socket(sock_addr)"),
    ("v:entrypoints/serve/utils/api_utils.py", 214, "create_server_socket", "sock.bind(addr)"),
]
ENGINE_ARGS: list[Frame] = [
    *SERVER,
    (_ENTRY, 53, "build_async_engine_client",
     "engine_args = AsyncEngineArgs.from_cli_args(args)"),
    ("v:engine/arg_utils.py", 1938, "from_cli_args", "engine_args = cls("),
    ("<string>", 260, "__init__", ""),
]
MODEL_PATH: list[Frame] = [
    *ENGINE_ARGS,
    ("v:engine/arg_utils.py", 914, "__post_init__",
     "self.model = get_model_path(self.model, self.revision)"),
    ("v:transformers_utils/repo_utils.py", 301, "get_model_path",
     "return hf_api().snapshot_download("),
    ("s:huggingface_hub/utils/_validators.py", 85, "_inner_fn", "validate_repo_id(arg_value)"),
    ("s:huggingface_hub/utils/_validators.py", 133, "validate_repo_id", "raise HFValidationError("),
]
FROM_ARGS: list[Frame] = [
    *SERVER,
    (_ENTRY, 61, "build_async_engine_client",
     "async with build_async_engine_client_from_engine_args("),
    _ANEXT,
]
MODEL_LEN: list[Frame] = [
    *FROM_ARGS,
    (_ENTRY, 83, "build_async_engine_client_from_engine_args",
     "vllm_config = engine_args.create_engine_config(usage_context=usage_context)"),
    ("v:engine/arg_utils.py", 2087, "create_engine_config",
     "model_config = self.create_model_config()"),
    ("v:config/model.py", 2148, "get_and_verify_max_len",
     "max_model_len = _get_and_verify_max_len("),
    ("v:config/model.py", 2719, "_get_and_verify_max_len", "raise ValueError("),
]
CLIENT: list[Frame] = [
    *FROM_ARGS,
    (_ENTRY, 95, "build_async_engine_client_from_engine_args",
     "async_llm = AsyncLLM.from_vllm_config("),
    ("v:v1/engine/async_llm.py", 255, "from_vllm_config", "return cls("),
    ("v:v1/engine/async_llm.py", 184, "__init__",
     "self.engine_core = EngineCoreClient.make_async_mp_client("),
    WRAP,
    ("v:v1/engine/core_client.py", 167, "make_async_mp_client", "return AsyncMPClient("),
    WRAP,
    ("v:v1/engine/core_client.py", 1120, "__init__", "super().__init__("),
    ("v:v1/engine/core_client.py", 682, "__init__", "with launch_core_engines("),
    ("p:contextlib.py", 144, "__exit__", "next(self.gen)"),
    ("v:v1/engine/utils.py", 1351, "launch_core_engines", "wait_for_engine_startup("),
    ("v:v1/engine/utils.py", 1431, "wait_for_engine_startup", "raise RuntimeError("),
]
PROCESS: list[Frame] = [
    ("p:multiprocessing/process.py", 314, "_bootstrap", "self.run()"),
    ("p:multiprocessing/process.py", 108, "run", "self._target(*self._args, **self._kwargs)"),
]
_CORE = "v:v1/engine/core.py"
_RUNNER = "v:v1/worker/gpu_model_runner.py"
_WORKER = "v:v1/worker/gpu_worker.py"
_LLAMA = "v:model_executor/models/llama.py"
INIT: list[Frame] = [
    (_CORE, 1482, "run_engine_core",
     "engine_core = EngineCoreProc(*args, engine_index=dp_rank, **kwargs)"),
    WRAP,
    (_CORE, 1194, "__init__", "super().__init__("),
]
_EXECUTOR: list[Frame] = [
    (_CORE, 131, "__init__", "self.model_executor = executor_class(vllm_config)"),
    ("v:v1/executor/abstract.py", 109, "__init__", "self._init_executor()"),
]
_KV: list[Frame] = [
    (_CORE, 157, "__init__", "kv_cache_config = self._initialize_kv_caches(vllm_config)"),
    WRAP,
]
_CHECK: Frame = (_CORE, 326, "_initialize_kv_caches", "kv_cache_configs = get_kv_cache_configs(")
_UTILS = "v:v1/core/kv_cache_utils.py"
_LOAD: list[Frame] = [
    *_EXECUTOR,
    ("v:v1/executor/uniproc_executor.py", 52, "_init_executor", "self.driver_worker.load_model()"),
    (_WORKER, 311, "load_model", "self.model_runner.load_model(eep_scale_up=eep_scale_up)"),
    (_RUNNER, 4982, "load_model", "self.model = model_loader.load_model("),
    ("v:model_executor/model_loader/base_loader.py", 55, "load_model", "model = initialize_model("),
]
TAILS: dict[str, list[Frame]] = {
    "kv_too_small": [
        *_KV,
        _CHECK,
        (_UTILS, 2642, "get_kv_cache_configs", "_check_enough_kv_cache_memory("),
        (_UTILS, 1030, "_check_enough_kv_cache_memory", "raise ValueError("),
    ],
    "kv_none": [
        *_KV,
        _CHECK,
        (_UTILS, 2642, "get_kv_cache_configs", "_check_enough_kv_cache_memory("),
        (_UTILS, 1012, "_check_enough_kv_cache_memory", "raise ValueError("),
    ],
    "memory_held": [
        *_EXECUTOR,
        ("v:v1/executor/uniproc_executor.py", 48, "_init_executor",
         "self.driver_worker.init_device()"),
        (_WORKER, 268, "init_device", "self.requested_memory = request_memory("),
        ("v:v1/worker/utils.py", 413, "request_memory", "raise ValueError("),
    ],
    "weights": [
        *_LOAD,
        (_LLAMA, 375, "__init__", "self.model = self._init_model("),
        (_LLAMA, 92, "__init__", "self.gate_up_proj = MergedColumnParallelLinear("),
        ("v:model_executor/layers/linear.py", 521, "create_weights",
         "weight = ModelWeightParameter(data=torch.empty("),
    ],
    "fp8_unsupported": [
        *_LOAD,
        ("v:model_executor/layers/attention/attention.py", 297, "__init__",
         "self.attn_backend = get_attn_backend("),
        ("v:v1/attention/backends/triton_attn.py", 402, "__init__", "raise ValueError("),
    ],
    "profile": [
        *_KV,
        (_CORE, 288, "_initialize_kv_caches",
         "available_gpu_memory = self.model_executor.determine_available_memory()"),
        (_WORKER, 388, "determine_available_memory", "self.model_runner.profile_run()"),
        (_RUNNER, 5611, "profile_run", "hidden_states, last_hidden_states = self._dummy_run("),
        (_RUNNER, 5322, "_dummy_run", "outputs = self.model("),
        (_LLAMA, 97, "forward", "x = self.act_fn(gate_up)"),
    ],
    "cudagraph": [
        *_KV,
        (_CORE, 341, "_initialize_kv_caches",
         "self.model_executor.initialize_from_config(kv_cache_configs)"),
        (_WORKER, 545, "compile_or_warm_up_model",
         "cuda_graph_memory_bytes = self.model_runner.capture_model()"),
        (_RUNNER, 5748, "capture_model", "self._capture_cudagraphs("),
        (_RUNNER, 5832, "_capture_cudagraphs", "self._dummy_run("),
        ("v:compilation/cuda_graph.py", 260, "__call__",
         "with torch.cuda.graph(cudagraph, pool=self.graph_pool):"),
    ],
}
BUSY: list[Frame] = [
    (_CORE, 1509, "run_engine_core", "engine_core.run_busy_loop()"),
    (_CORE, 1264, "run_busy_loop", "self._process_engine_step()"),
    (_CORE, 1303, "_process_engine_step", "outputs, model_executed = self.step_fn()"),
    (_CORE, 437, "step", "model_output = future.result()"),
    (_WORKER, 771, "execute_model", "output = self.model_runner.execute_model("),
    (_RUNNER, 4012, "execute_model", "model_output = self._model_forward("),
    (_LLAMA, 97, "forward", "x = self.act_fn(gate_up)"),
]
OUTPUT: list[Frame] = [
    ("v:v1/engine/async_llm.py", 667, "output_handler",
     "outputs = await engine_core.get_output_async()"),
    ("v:v1/engine/core_client.py", 1196, "get_output_async",
     "raise self._format_exception(outputs) from None"),
]
MODELS: list[Frame] = [
    ("v:entrypoints/openai/models/api_router.py", 29, "show_available_models",
     "models_ = await handler.show_available_models()"),
    ("v:entrypoints/openai/models/serving.py", 120, "show_available_models",
     "config = get_config(self.model_config.model)"),
]
# fmt: on


def render(frames: list[Frame]) -> list[str]:
    """The lines of a traceback, Python 3.11's carets included, without the error itself."""
    lines = ["Traceback (most recent call last):"]
    for file, number, function, code in frames:
        path = _PREFIX[file[:2]] + file[2:] if file[:2] in _PREFIX else file
        lines.append(f'  File "{path}", line {number}, in {function}')
        if code:
            lines.append(f"    {code}")
            marked = _ASSIGNED.match(code)
            if marked:
                start = marked.end()
                lines.append("    " + " " * start + "^" * (len(code) - start))
    return lines
