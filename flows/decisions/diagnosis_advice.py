"""Definitions, advice and procedures per label (diagnoses.md and the handbooks). No rule here."""

from flows.decisions.diagnosis_facts import Facts
from flows.decisions.diagnosis_rules import Label

REMEDIES: dict[Label, str] = {
    "oom_kv_cache": "remediate_oom",
    "oom_runtime": "remediate_oom",
    "oom_cudagraph": "remediate_oom",
    "oom_startup_profile": "remediate_oom",
    "fp8_kv_unsupported": "remediate_oom",
    "cuda_illegal_access": "remediate_crash",
    "engine_dead": "remediate_outage",
    "proxy_backend_unreachable": "remediate_outage",
    "request_too_long": "align_token_limits",
}
"""The procedures that exist; a label that is missing here is for a person."""

DEFINITIONS: dict[Label, str] = {
    "oom_startup_weights": "the model weights do not fit the device",
    "oom_startup_profile": "the weights fit; the profile or warm-up activations do not",
    "oom_kv_cache": "no KV blocks, or fewer than one request of max_model_len needs",
    "oom_cudagraph": "out of memory while capturing CUDA graphs, compiling or warming the sampler",
    "oom_runtime": "CUDA out of memory while serving",
    "host_oom_killed": "the host's RAM ran out, or the process was killed (SIGKILL, exit 137)",
    "gpu_memory_held": "another process holds memory of the device",
    "fp8_kv_unsupported": "the KV cache dtype is not supported by GPU, backend or checkpoint",
    "dtype_unsupported": "the number format is not supported by this GPU",
    "gpu_arch_unsupported": "the GPU is below the minimum of a kernel, quantisation or build",
    "quantization_mismatch": "quantisation flag, config and checkpoint disagree",
    "model_not_found": "a path, repository or cache entry is missing",
    "model_gated": "the model hub answered 401 or 403",
    "max_len_exceeds_model": "max_model_len is above what the model derives",
    "tokenizer_error": "tokenizer and transformers do not match, or the tokenizer stalls",
    "driver_cuda_mismatch": "the driver is too old or wrong for the CUDA build",
    "gpu_not_visible": "no GPU, NVML or container toolkit is visible to the process",
    "cuda_illegal_access": "illegal memory access or device-side assert",
    "nccl_or_tp_failure": "a NCCL, tensor-parallel or rank failure",
    "xid_or_hw_fault": "a hardware fault: Xid, ECC or fallen off the bus",
    "port_in_use": "the server could not bind its port",
    "shm_too_small": "/dev/shm is exhausted",  # noqa: S108
    "disk_full": "no space is left on a disk",
    "corrupt_weights": "a weights file is incomplete or damaged",
    "engine_dead": "the engine died and no cause is visible",
    "kv_preemption": "requests are preempted for lack of KV space",
    "request_too_long": "a client's request exceeds the context (HTTP 400)",
    "rate_limited_429": "requests are throttled on purpose",
    "proxy_backend_unreachable": "the proxy cannot reach its backend",
    "tls_certificate": "a certificate is expired, unknown or for another host",
    "bad_cli_argument": "an unknown or invalid flag",
    "healthy_noise": "normal start-up or benign warnings",
}

ADVICE: dict[Label, str] = {
    "oom_startup_weights": "Raise tensor_parallel_size, use a quantised checkpoint, or lower "
    "gpu_memory_utilization{at_utilisation} as vLLM's own text says. A shorter context does not "
    "help: the weights alone do not fit{in_total}.",
    "oom_startup_profile": "Lower max_num_seqs, then max_model_len (or max_num_batched_tokens); "
    "then gpu_memory_utilization 0.92 -> 0.85 -> 0.80{tried}.",
    "oom_kv_cache": "Step max_model_len down{to_estimate}{kv_sizes}; or raise "
    "gpu_memory_utilization where memory of the device is free.",
    "oom_cudagraph": "Lower gpu_memory_utilization{at_utilisation} (0.92 -> 0.85 -> 0.80), then "
    "max_num_seqs; --enforce-eager helps too but costs speed{tried}.",
    "oom_runtime": "Lower gpu_memory_utilization{at_utilisation} (0.92 -> 0.85 -> 0.80), then "
    "max_num_seqs, then the context{tried}.",
    "host_oom_killed": "Give the host or the container more RAM (memory limit); no vLLM flag "
    "helps. If somebody stopped the container and it outlived its grace period, exit 137 means "
    "only that.",
    "gpu_memory_held": "Name the process that holds the device{pids} (nvidia-smi, or orphaned "
    "EngineCore processes after a kill -9) and stop it first{free}. Do not step the "
    "configuration down for another process's memory.",
    "fp8_kv_unsupported": "Set kv_cache_dtype to auto. That doubles the cache per token: check "
    "that max_model_len still fits.",
    "dtype_unsupported": "Start with --dtype half{gpu}.",
    "gpu_arch_unsupported": "Use another GPU, another build or another quantisation{capability}.",
    "quantization_mismatch": "Drop --quantization or make it match the checkpoint's config{quant}.",
    "model_not_found": "Check the model's path, mount and symlink, or the repository's name"
    "{model}; offline, fill the cache first.",
    "model_gated": "Request access to the repository{model} and give the server a valid HF_TOKEN.",
    "max_len_exceeds_model": "Lower max_model_len{derived}. Do not set "
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN unattended: the model may produce wrong output or crash.",
    "tokenizer_error": "Pin the transformers and tokenizers versions that this vLLM was built "
    "with, and restore the model's tokenizer files.",
    "driver_cuda_mismatch": "Update the NVIDIA driver of the host, or use an image built for the "
    "driver that is there{library}.",
    "gpu_not_visible": "Check nvidia-smi on the host, the container toolkit and the container's "
    "device request (--gpus, resource limits), then recreate the container.",
    "cuda_illegal_access": "Restart. If it repeats with an fp8 KV cache, set kv_cache_dtype to "
    "auto; keep the trace (CUDA_LAUNCH_BLOCKING=1) for a report.",
    "nccl_or_tp_failure": "Use a tensor_parallel_size that divides the attention heads{heads} and "
    "is not above the number of GPUs; give the container --ipc host or a larger shm; check the "
    "network between ranks with NCCL_DEBUG=INFO.",
    "xid_or_hw_fault": "Cordon the node and take the GPU out of service{xid}; reset or replace it. "
    "No configuration change helps.",
    "port_in_use": "Free the port{port} or change it; look for an old server process.",
    "shm_too_small": "Raise shm_size (for example 8g), use --ipc host, or mount a Memory emptyDir "
    "at /dev/shm.",
    "disk_full": "Free or grow the storage; prune old images, models and logs.",
    "corrupt_weights": "Download the model files again and verify their checksums.",
    "engine_dead": "No cause is visible in this log: read further above its first error, restart, "
    "and keep the whole log if it repeats{code}.",
    "kv_preemption": "Raise gpu_memory_utilization or tensor_parallel_size, or lower "
    "max_num_seqs{preemptions}.",
    "request_too_long": "The client must send less{limit}; or align the proxy's max_input_tokens "
    "with the server's max_model_len.",
    "rate_limited_429": "Back off as told, or apply the burst profile{rates}. Check first that the "
    "backend is up: a dead backend in cool-down is reported as 429 too.",
    "proxy_backend_unreachable": "Restore the backend{backend}: is it running, does its /health "
    "answer, are address and port right?",
    "tls_certificate": "Rotate the certificate, or give the client the CA bundle; check the host "
    "name.",
    "bad_cli_argument": "Fix the arguments{argument}: compare with `vllm serve --help` of this "
    "version.",
    "healthy_noise": "Nothing to do.",
}

_PHRASES: dict[str, tuple[tuple[str, ...], str]] = {
    "at_utilisation": (("gpu_memory_utilization",), " (now {0})"),
    "in_total": (("gpu_total_gib",), " in {0} GiB"),
    "tried": (("tried_gib", "gpu_free_gib"), " (it tried to allocate {0} GiB with {1} GiB free)"),
    "kv_sizes": (
        ("kv_needed_gib", "kv_available_gib"),
        " (one request needs {0} GiB of KV cache, {1} GiB are there)",
    ),
    "pids": (("holder_pids",), " (pid {0})"),
    "free": (("gpu_free_gib", "gpu_total_gib"), "; {0} of {1} GiB are free"),
    "gpu": (("gpu",), ": the {0} has no bfloat16"),
    "capability": (
        ("required_capability", "gpu_capability"),
        ": it needs capability {0}, the GPU has {1}",
    ),
    "quant": (
        ("quantization_in_config", "quantization_argument"),
        ": the config says {0}, the flag {1}",
    ),
    "model": (("model",), " ({0})"),
    "derived": (("derived_max_model_len",), " to at most {0}"),
    "library": (("missing_library",), "; {0} is missing"),
    "heads": (("attention_heads",), " ({0})"),
    "xid": (("xid",), " (Xid {0})"),
    "port": (("port",), " {0}"),
    "code": (("exit_code",), " (exit code {0})"),
    "preemptions": (("preemptions",), " ({0} preemptions so far)"),
    "limit": (
        ("requested_tokens", "context_limit_tokens"),
        " ({0} tokens asked, {1} is the limit)",
    ),
    "rates": (("rpm_limit", "tpm_limit"), " (limits: {0} requests, {1} tokens per minute)"),
    "backend": (("backend",), " {0}"),
    "argument": (("argument",), " ({0})"),
}
UNKNOWN = (
    "Nothing in this log was recognised: that is no proof of health. Read the lines shown, or "
    "the whole log, before you trust the service."
)
WEAK = "No rule knows this error; its words point here. Read the lines shown before you act. "
RECOVERED = " The last start in this log is up: this was the cause of an earlier end."


def _phrase(name: str, facts: Facts) -> str:
    names, text = _PHRASES[name]
    if any(fact not in facts for fact in names):
        return ""
    return text.format(*(facts[fact] for fact in names))


def _estimate(facts: Facts) -> str:
    estimate = facts.get("estimated_max_model_len", facts.get("kv_cache_tokens"))
    asked = facts.get("requested_max_model_len")
    if not isinstance(estimate, int) or estimate <= 0:
        return ""
    return f" from {asked} to at most {estimate}" if asked else f" to at most {estimate}"


def advise(label: Label, facts: Facts) -> str:
    """What an operator should do, with the parsed numbers filled in."""
    if label == "healthy_noise" and "no_evidence" in facts:
        return UNKNOWN
    phrases = {name: _phrase(name, facts) for name in _PHRASES}
    text = ADVICE[label].format(**phrases, to_estimate=_estimate(facts))
    if "weak_evidence" in facts:
        text = WEAK + text
    return text + RECOVERED if "recovered_in_last_start" in facts else text
