"""The metric families of vLLM 0.32 as data: kinds, names, help texts, labels, buckets.

Standard library only. Captured (captures/vllm/metrics.txt). Kinds: c counter, g gauge,
h histogram, s summary.
"""

# fmt: off
_TOKENS = "1 2 5 10 20 50 100 200 500 1000 2000 5000"
_STEP = "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384"
_TTFT = ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
_ITL = ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80"
_E2E = ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
_PREEMPTIONS = "1 2 3 4 5 10 20"
_HIGHR = ".01 .025 .05 .075 .1 .25 .5 .75 1 1.5 2 2.5 3 3.5 4 4.5 5 7.5 10 30 60"

_MFU = "(for Model Flops Utilization calculations)."
_PHASE = "Histogram of time spent in {} phase for request."
_EXTERNAL = (
    "External prefix cache {} from KV connector cross-instance cache sharing, in terms of number "
    "of {} tokens."
)
# (kind, name, help, label name, label values or buckets)
VLLM: list[tuple[str, str, str, str, str]] = [
    ("c", "estimated_flops_per_gpu",
     f"Estimated number of floating point operations per GPU {_MFU}", "", ""),
    ("c", "estimated_read_bytes_per_gpu",
     f"Estimated number of bytes read from memory per GPU {_MFU}", "", ""),
    ("c", "estimated_write_bytes_per_gpu",
     f"Estimated number of bytes written to memory per GPU {_MFU}", "", ""),
    ("g", "num_requests_running", "Number of requests in model execution batches.", "", ""),
    ("g", "num_requests_waiting", "Number of requests waiting to be processed.", "", ""),
    ("g", "num_requests_waiting_by_reason",
     "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling "
     "capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked "
     "status). Sum of all reasons equals vllm:num_requests_waiting.",
     "reason", "capacity deferred"),
    ("g", "engine_sleep_state",
     "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
     "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
     "sleep_state", "awake weights_offloaded discard_all"),
    ("g", "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", "", ""),
    ("c", "prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.",
     "", ""),
    ("c", "prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", "", ""),
    ("c", "external_prefix_cache_queries", _EXTERNAL.format("queries", "queried"), "", ""),
    ("c", "external_prefix_cache_hits", _EXTERNAL.format("hits", "cached"), "", ""),
    ("c", "mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.",
     "", ""),
    ("c", "mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.", "", ""),
    ("c", "num_preemptions", "Cumulative number of preemption from the engine.", "", ""),
    ("c", "prompt_tokens", "Number of prefill tokens processed.", "", ""),
    ("c", "prompt_tokens_by_source", "Number of prompt tokens by source.",
     "source", "local_compute local_cache_hit external_kv_transfer"),
    ("c", "prompt_tokens_cached", "Number of cached prompt tokens (local + external).", "", ""),
    ("c", "prompt_tokens_cached_by_source",
     "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host "
     "(offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or "
     "external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + "
     "vllm:external_prefix_cache_hits.",
     "source", "device host p2p disk external_unspecified"),
    ("c", "generation_tokens", "Number of generation tokens processed.", "", ""),
    ("c", "request_success", "Count of successfully processed requests.",
     "finished_reason", "stop length abort error repetition"),
    ("c", "admission_rejections",
     "Number of admission attempts rejected by a queue limit, by reason.",
     "reason", "max_num_queued_reqs max_num_queued_tokens"),
    ("h", "request_prompt_tokens", "Number of prefill tokens processed.", "", _TOKENS),
    ("h", "request_generation_tokens", "Number of generation tokens processed.", "", _TOKENS),
    ("h", "iteration_tokens_total", "Histogram of number of tokens per engine_step.", "", _STEP),
    ("h", "request_max_num_generation_tokens",
     "Histogram of maximum number of requested generation tokens.", "", _TOKENS),
    ("h", "request_params_n", "Histogram of the n request parameter.", "", "1 2 5 10 20"),
    ("h", "request_params_max_tokens", "Histogram of the max_tokens request parameter.",
     "", _TOKENS),
    ("h", "time_to_first_token_seconds", "Histogram of time to first token in seconds.", "", _TTFT),
    ("h", "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "", _ITL),
    ("h", "request_time_per_output_token_seconds",
     "Histogram of time_per_output_token_seconds per request.", "", _ITL),
    ("h", "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", "", _E2E),
    ("h", "request_queue_time_seconds", _PHASE.format("WAITING"), "", _E2E),
    ("h", "request_inference_time_seconds", _PHASE.format("RUNNING"), "", _E2E),
    ("h", "request_prefill_time_seconds", _PHASE.format("PREFILL"), "", _E2E),
    ("h", "request_decode_time_seconds", _PHASE.format("DECODE"), "", _E2E),
    ("h", "request_num_preemptions", "Histogram of the number of times a request was preempted.",
     "", _PREEMPTIONS),
    ("h", "request_prefill_kv_computed_tokens",
     "Histogram of new KV tokens computed during prefill (excluding cached tokens).", "", _TOKENS),
    ("g", "cache_config_info", "Information of the LLMEngine CacheConfig", "", ""),
]
HTTP: list[tuple[str, str, str, str]] = [
    ("c", "http_requests", "Total number of requests by method, status and handler.", ""),
    ("s", "http_request_size_bytes",
     "Content length of incoming requests by handler. Only value of header is respected. "
     "Otherwise ignored. No percentile calculated. ", ""),
    ("s", "http_response_size_bytes",
     "Content length of outgoing responses by handler. Only value of header is respected. "
     "Otherwise ignored. No percentile calculated. ", ""),
    ("h", "http_request_duration_highr_seconds",
     "Latency with many buckets but no API specific labels. Made for more accurate percentile "
     "calculations. ", _HIGHR),
    ("h", "http_request_duration_seconds",
     "Latency with only few buckets by handler. Made to be only used if aggregation by handler is "
     "important. ", ".1 .5 1"),
]
# fmt: on
OLD_NAMES = {
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "inter_token_latency_seconds": "time_per_output_token_seconds",
    "prefix_cache_queries": "gpu_prefix_cache_queries",
    "prefix_cache_hits": "gpu_prefix_cache_hits",
}
"""Families that vLLM renamed with 0.10: name today -> name before."""
