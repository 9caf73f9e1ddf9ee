"""Rules of last resort: what an error line that no other rule knows is about.

They are tried only on lines that look like errors, weigh less than anything else, and mark the
diagnosis with `weak_evidence`.
"""

from flows.decisions.diagnosis_rules import Table

WEAK_WEIGHT = 30
"""Rules of at most this weight are guesses by topic."""
FRAME_WEIGHT = 12
"""Rules of at most this weight are guesses by the file of a stack frame."""
LAST_WEIGHT = 5
"""Rules of at most this weight are guesses by the process that wrote the line."""

WEAK: Table = (
    ("tls_certificate", 30, r"""
        certificate
    """),
    ("fp8_kv_unsupported", 29, r"""
        ~kv~kv.?cache.{0,80}(?:fp8|float8|e4m3|e5m2)
        ~kv~(?:fp8|float8|e4m3|e5m2).{0,80}kv.?cache
        kv_cache_dtype ;; kv-cache-dtype
    """),
    ("dtype_unsupported", 28, r"""
        bfloat16 !! size !! shape ;; bf16 !! size !! shape
    """),
    ("nccl_or_tp_failure", 27, r"""
        nccl ;; gloo ;; tensor parallel ;; tensor_parallel ;; tensor-parallel ;; all_reduce
        allreduce ;; all_gather ;; processgroup ;; c10d ;; tcpstore ;; world size ;; world_size
        placement group ;; torch.distributed
    """),
    ("gpu_arch_unsupported", 26, r"""
        capability
        ~sm~\bsm[_ ]?\d{2,3}\b
        hopper ;; blackwell ;; ptxas ;; nvcc
    """),
    ("quantization_mismatch", 25, r"""
        qweight ;; qzeros ;; zero_point ;; quantiz ;; gptq ;; awq ;; marlin ;; bitsandbytes
        compressed-tensors ;; compressed_tensors ;; nvfp4 ;; mxfp4 ;; modelopt ;; weight_scale
    """),
    ("tokenizer_error", 24, r"""
        tokeniz ;; vocab ;; sentencepiece ;; tiktoken ;; chat template ;; chat_template
        transformers ;; processor ;; detokeniz
    """),
    ("corrupt_weights", 23, r"""
        safetensors ;; gguf ;; ggml ;; checkpoint shard ;; state_dict ;; weights file
    """),
    ("gpu_not_visible", 22, r"""
        nvml ;; nvidia-smi ;; nvidia-container ;; no gpu ;; no such device
        cuda initialization ;; hip initialization
    """),
    ("driver_cuda_mismatch", 22, r"""
        nvidia driver ;; cuda driver ;; shared object ;; cuda version ;; cudnn ;; glibc
    """),
    ("cuda_illegal_access", 21, r"""
        cuda error ;; hip error ;; cublas
    """),
    ("bad_cli_argument", 20, r"""
        ~--~(?:error|invalid|unknown|unexpected).{0,80}[ '"`]--[a-z]
        ~argument~(?:invalid|unknown|unexpected|bad|missing).{0,40}argument
        engineargs
    """),
    ("model_not_found", 19, r"""
        repo_id ;; model_id ;; on the hub ;; huggingface ;; hf_hub ;; config.json ;; model path
        model repository ;; no such file ;; does not exist
    """),
    ("engine_dead", 19, r"""
        ~timeouterror~(?:engine|core\.py|executor|worker|shm_broadcast).{0,160}timeouterror
        ~timeouterror~timeouterror.{0,160}(?:engine|executor|worker)
        queue.empty ;; zmq.error.again
    """),
    # The file of a stack frame, where the error itself says nothing.
    ("tokenizer_error", 12, r"""
        tokenization_ ;; /tokenizers/ ;; tokenizer.py", line ;; processing_auto
    """),
    ("quantization_mismatch", 11, r"""
        in get_quant_config ;; _get_quantization_config ;; /quantization/
        /bitsandbytes/ ;; compressed_tensors/
    """),
    ("nccl_or_tp_failure", 10, r"""
        /distributed/device_communicators ;; pynccl ;; distributed_c10d.py
    """),
    # The engine's own processes print an error that no rule knows.
    ("engine_dead", 5, r"""
        ~.py:~\berror\b.{0,40}\b(?:core|core_client|engine|async_llm|async_llm_engine|worker_base
        +|multiproc_executor|multiproc_worker_utils|ray_executor|uniproc_executor)\.py:\d
    """),
    ("proxy_backend_unreachable", 18, r"""
        connection ;; upstream ;; timed out ;; timeout
    """),
)  # fmt: skip
