"""Rules: GPU memory, its phases, host memory, shared memory and disks."""

from flows.decisions.diagnosis_rules import Table

MEMORY: Table = (
    # --- GPU memory ran out; which label, the phase decides --------------------------------
    ("oom", 78, r"""
        cuda out of memory ;; hip out of memory ;; xpu out of memory ;; npu out of memory
        outofmemoryerror !! ray.exceptions !! low on memory ;; cuda error: out of memory
        hip error: out of memory ;; triton error .. out of memory
        cudamalloc failed: out of memory ;; cudaerrormemoryallocation
        cuda_error_out_of_memory ;; cublas_status_alloc_failed
        ur_result_error_out_of_device_memory ;; ur_result_error_out_of_resources
        ran out of memory in memory space hbm ;; resource_exhausted .. hbm
        cuda runtime error .. out of memory ;; cuda driver error: out of memory
        hiperroroutofmemory ;; failed to allocate .. bytes on cuda ;; unable to allocate cuda
        ~unable to allocate~unable to allocate (?!cpu)[a-z]{2,12}\d{0,2} buffer
        failed to allocate cuda ;; allocating .. mib on device .. failed
        nvml_error .. out of memory ;; would exceed allowed memory
        allocation on device .. out of memory ;; cannot allocate memory on gpu
        failed to allocate device memory ;; failed to allocate gpu memory ;; gpu out of memory
        device out of memory
    """),
    # --- phases: a stack frame or a method name ---------------------------------------------
    ("at_weights", 0, r"""
        in load_model ;; method load_model ;; "load_model" ;; 'load_model' ;; = get_model(
        .load_model( ;; _load_model_weights
        load_weights ;; initialize_model ;; _initialize_model ;; create_weights
        process_weights_after_loading ;; weight_utils.py", line ;; default_loader.py", line
        model_loader/ ;; model_loader\ ;; parameter(torch.empty ;; parameter( torch.empty
        load_tensors ;; llama_model_load ;; error loading model ;; error loading llama
        safetensors_weights_iterator
        /model_executor/models/ .. in __init__ ;; linear.py .. in __init__ ;; from_pretrained
        in materialize ;; load_state_dict ;; shard_checkpoint ;; failed to load model
        deserializecudaengine ;; _init_model_weights ;; text_generation_server/utils/weights
        forcausallm(config, weights) ;; error when initializing model ;; in get_sharded
        get_multi_weights ;; get_weights_col ;; vocab_parallel_embedding.py .. in __init__
        ~self.~self\.\w{1,40} = \w{0,40}(?:linear|moe|layer|layers|mlp|attention|embedding|model
        +|causallm|lmhead|block|experts|transformer|generation)\(
        ~lambda~lambda \w{0,20}: ?\w{1,60}(?:layer|block)\( ;; make_layers( ;; maybe_offload_to_cpu(
        model_class( ;; = model_cls( ;; _init_model( ;; _init_fused_moe ;; _init_experts
        /layers/ .. in __init__ ;; /models/ .. in __init__ ;; torch.empty( .. _partition
        weight = torch.empty( ;; parameter( .. torch.empty ;; register_parameter( ;; weight_loader(
        marlin_repack ;; _for_marlin ;; repack( ;; .weight.data ;; param.data.copy_
        param_data.copy_ ;; swizzle ;; shuffle_weight ;; permute_weight ;; requantize
        loaded_weight ;; module.py .. in convert ;; return t.to(
    """),
    ("at_profile", 0, r"""
        warmup{ ;; :warmup: ;; in _warmup ;; determine_num_available_blocks
        determine_available_memory ;; profile_run ;; _dummy_run ;; dummy_run
        profile_num_available_blocks ;; in warmup ;; warmup model ;; warmup encountered
        warm up model ;; method warmup ;; memory_profiling ;; graph_reserve ;; gallocr_reserve
        ~dummy~\bdummy_(?:encoder|mm|data|input|batch|seq|video|image)
        compute buffer ;; compute pp buffers ;; compute_pp_buffers ;; profile_max_num_token
        starting profile run ;; profile_multimodal ;; profiling multi
    """),
    ("at_capture", 0, r"""
        capture_model ;; compile_or_warm_up_model ;; _capture_cudagraphs ;; capture_cudagraph
        in capture ;; .capture( ;; capture_begin ;; capture_end ;; cudagraph.py", line
        cuda_graph.py", line ;; cuda_graph_runner ;; cudagraph_runner ;; torch/cuda/graphs.py
        torch.cuda.graph( ;; cuda graph .. failed ;; capture cuda graph ;; warming up sampler
        warming up pooler ;; _dummy_sampler_run ;; _dummy_pooler_run ;; warm_up_model
        kernel_warmup ;; graph_capture ;; cudagraph_dispatch ;; in capture_graph
        cuda graph capture ;; cudagraph capture !! if out-of-memory !! consider
    """),
    ("at_kv", 0, r"""
        allocate_kv_cache ;; initialize_kv_cache( ;; in initialize_kv_cache ;; cache_engine.py
        _init_cache_engine ;; initialize_kv_cache_tensors
    """),
    ("at_runtime", 0, r"""
        _process_engine_step ;; run_busy_loop ;; step_with_batch_queue ;; step_async
        engine_step ;; run_engine_loop ;; run_engine_busy_loop ;; _log_task_completion
        execute_dummy_batch ;; event_loop_normal ;; event_loop_overlap ;; enginedeaderror
        asyncenginedead ;; encountered a fatal error ;; encountered an issue
        execute_model_req ;; sample_tokens ;; in generate ;; prefillbatch
        text_generation_server .. decode ;; in prefill ;; method prefill ;; method decode
        batch_prefill ;; post /v1/ ;; post /generate ;; received request ;; added request
        running: .. reqs ;; avg prompt throughput ;; running requests ;; wake_up
        exception in asgi application ;; output_token ;; scheduler_output ;; dumping input data
        decode batch ;; prefill batch ;; in forward_batch_generation
    """),
    ("at_compile", 0, r"""
        inductor ;; torch/_dynamo ;; torch._dynamo ;; triton/compiler
        triton/runtime/autotuner ;; autotun
    """),
    ("at_execute", 0, r"""
        in execute_model ;; method execute_model ;; .execute_model( ;; worker_execute
    """),
    ("log_weights", 0, r"""
        starting to load !! took ;; loading model from scratch ;; loading model weights from
        load weight begin ;; loading weights !! took ;; using model weights format
        loading safetensors checkpoint shards: .. % completed !! 100%
        loading pt checkpoint shards ;; filesystem type for checkpoints
        load_tensors: loading model tensors
    """),
    ("log_profile", 0, r"""
        loading model weights took ;; model loading took ;; loading weights took
        load weight end ;; loading safetensors checkpoint shards: 100%
        encoder cache will be initialized ;; starting profile run ;; profile run ;; profiling.py
        memory profiling ;; warming up model ;; computing the max num
        dynamo bytecode transform time ;; compiling a graph for
    """),
    ("log_capture", 0, r"""
        capturing batch ;; capturing graph ;; capturing cudagraphs
        capturing the model for cuda graphs ;; capturing cuda graph ;; capture cuda graph begin
        capture cuda graph bs ;; cuda graphs can take additional ;; cuda graph capturing
        graph capturing finished ;; # gpu blocks: ;; # cuda blocks: ;; gpu kv cache size
        maximum concurrency for ;; registering .. cuda graph addresses ;; autotuning
        torch.compile takes ;; compiling a graph for general shape takes ;; cuda graph pool
        cudagraph.cpp
    """),
    ("stall", 0, "initializing tokenizer pool"),
    ("pools", 0, "private pools"),
    ("init_failed", 0, r"""
        enginecore failed to start ;; engine core initialization failed
        engine process failed to start ;; enginecore hit an exception
        ~ fail~(?:engine|core|proc|worker|executor|stage|orchestrator|replica|actor)s?\b.{0,24}
        +(?:failed to (?:start|initiali[sz]e)|initiali[sz]ation failed|init failed)
        scheduler hit an exception
    """),
    # --- explicit texts ----------------------------------------------------------------------
    ("oom_startup_weights", 100, r"""
        failed to load model - not enough gpu memory
        modules are dispatched on the cpu or the disk
        requested amount of gpu memory .. could not be allocated
        ~weights~weights?.{0,40}(?:do not|does not|don't|cannot|can't) fit
        not enough gpu memory to load ;; not enough vram
    """),
    ("oom_startup_profile", 100, r"""
        not enough memory to handle .. prefill tokens ;; failed to allocate compute buffers
        failed to allocate compute pp buffers ;; failed to allocate buffer of size .. compute
        out of memory .. during profiling ;; out of memory .. profile run
    """),
    ("oom_kv_cache", 106, r"""
        no available memory for the cache blocks
        larger than the maximum number of tokens that can be stored
        maximum number of tokens that can be stored in kv cache ;; kv cache is needed
        larger than the available kv cache memory
        to serve at least one request with the model ;; estimated maximum model length
        ~ blocks: ~# ?(?:gpu|cuda|xpu|npu|hpu|tpu|neuron|hip) blocks: ?(?:0\b|-\d)
        available kv cache memory: - ;; available kv cache memory: 0.0 gib
        available kv cache memory: 0 gib ;; reserved for kv cache is -
        reserved for kv cache is 0.00gib ;; gpu kv cache size: 0 tokens
        please try to increase --mem-fraction-static
        please try increasing --mem-fraction-static ;; not enough memory .. mem-fraction-static
        not enough memory .. mem_fraction_static
        max_batch_prefill_tokens .. must be <= .. max_batch_total_tokens
        max_total_tokens .. must be <= .. max_batch_total_tokens
        max-total-tokens .. max-batch-total-tokens
        max_input_tokens .. must be <= .. max_batch_total_tokens ;; max_total_tokens .. exceed
        total tokens .. exceed .. cache ;; impossible to fit ;; paged kv cache .. insufficient
        kv cache .. is insufficient
        insufficient .. kv cache !! preempt !! kv cache space !! paus
        not enough .. kv cache !! preempt !! kv cache space !! retract
        no enough gpu memory for kv ;; no enough gpu memory for runtime
        due to limited kv cache ;; failed to allocate buffer for kv cache
        failed to allocate kv cache
        failed to allocate the kv cache ;; kv cache .. cannot fit ;; not enough memory for mamba
        num_gpu_blocks .. must be greater than 0 ;; cannot allocate kv cache
        no available block for kv ;; max_num_token .. kv cache .. 0
        ~kv~kv.?cache.{0,100}(?:cannot|can't|can not|unable to|not enough to|does not|doesn't|won't
        +|insufficient to|too small to) (?:hold|fit|store|serve|accommodate|support)
        ~one ~(?:not enough|insufficient|cannot|too small|too few).{0,60}\bone (?:full )?
        +(?:request|seq)
        ~single ~(?:not enough|insufficient|cannot|too small|too few).{0,60}\bsingle (?:request|seq)
    """),
    ("oom_cudagraph", 104, r"""
        out of memory .. capturing !! if you are running out
        capturing .. cuda .. out of memory !! if you are running out !! if out-of
        capturing .. graph .. failed .. out of memory !! if you are running out
        out of memory occurred when warming up
    """),
    ("oom_cudagraph", 71, r"""
        capture cuda graph failed ;; capture cudagraph failed ;; cuda graph capture failed
    """),
    ("oom_runtime", 100, r"""
        prefill out of memory. try to lower ;; decode out of memory. try to lower
        prefill out of memory .. allocate ;; decode out of memory .. allocate
    """),
    ("gpu_memory_held", 101, r"""
        free memory on device .. less than desired ;; on startup is less than desired gpu memory
        reduce gpu memory used by other processes ;; error in memory profiling
        gpus may be occupied by other processes ;; release gpu memory while vllm is profiling
        memory capacity is unbalanced
    """),
    ("gpu_memory_held", 84, r"""
        busy or unavailable ;; all cuda-capable devices are busy or unavailable
        cudaerrordevicesunavailable ;; device is already in use by another process
    """),
    # --- host memory ------------------------------------------------------------------------------
    ("host_oom_killed", 100, r"""
        out of memory: kill ;; oom-kill ;; oom_kill_process ;; oom_reaper
        memory cgroup out of memory ;; oomkilled !! false ;; oomkilling
        system oom encountered ;; systemd-oomd .. killed ;; killed due to memory pressure
        killed due to the node running low on memory ;; node was low on resource: memory
        exceeds the memory usage threshold ;; memory limit of .. exceeded
        ~ killed~ line \d{1,9}:\s{1,20}\d{1,9} killed\b
        model requires more system memory
    """),
    ("host_oom_killed", 90, r"""
        failed to allocate cpu buffer ;; unable to allocate cpu buffer
        ray-oom-prevention ;; address the out of memory issue ;; memory on the node (ip
        exceeded memory limit .. being killed
        sigkill !! root cause !! possib !! by oom killer
        ~signal~\bsignal[:= ]{1,2}9\b
        ~killed~^(?:\S{1,80} {0,20}\| )?killed(?: \W.{0,40})?$
        ~killed~\d{1,9} killed\s{1,60}\S
        ~killed~(?:^|[\]\s?|\"'])killed[.\s]{0,9}$
        memory allocation of .. bytes failed ;; defaultcpuallocator: .. allocate memory
        not enough memory: you tried to allocate ;; status=9/kill ;; code=killed, status=9
        exitcode: -9 ;; exitcode=-9 ;; exitcode : -9 ;; exit code: -9 ;; exit code -9
    """),
    ("host_oom_killed", 76, r"""
        ~137~\bexit(?:ed|code)?\b.{0,24}\b137\b
        ~137~\b(?:status|code|returned)\W{0,4}137\b
        cannot allocate memory !! cuda !! shared memory !! gpu ;; std::bad_alloc
        ~memoryerror~(?:^|[\s.])memoryerror\b
        unable to allocate .. for an array ;; too large swap space
    """),
    ("host_oom_killed", 60, r"""
        connection error code 2. end of file. there are som
        connection error code 2. end of file. some com
        by oom killer ;; by the oom killer ;; possible causes: .. out of memory
        ~oom~(?:cause|reason|likely|probabl|possib|perhaps|may|might).{0,80}\boom.?kill
        out of memory .. is one of the possible
    """),
    # --- shared memory and disks ------------------------------------------------------------
    ("shm_too_small", 103, r"""
        error while creating shared memory segment ;; /dev/shm .. no space left
        no space left .. /dev/shm ;; object store is using /tmp instead of /dev/shm
        /dev/shm has only ;; /dev/shm .. too small ;; /dev/shm .. is full
        /dev/shm .. not enough ;; /dev/shm .. insufficient ;; increase .. /dev/shm
        unable to write to file </torch ;; out of shared memory !! out of resource
        raise your shared memory limit ;; shared memory .. no space left ;; shm .. no space left
        no space left .. psm_ ;; no space left .. /sem.
        ~no space left~no space left.{0,60}/torch_\d
        sharedmemory(create=true ;; no space left .. shm ;; ncclshmopen ;; ncclshm .. failed
        no space left .. shared memory ;; unable to initialize shared memory key ;; sigbus
        bus error !! pcie bus error ;; exit code: -7 ;; exitcode: -7 ;; exitcode : -7
        insufficient shared memory ;; shared memory .. insufficient
        unable to open shared memory object .. no space ;; failed to resize shared memory
        increase .. shm ;; '--shm-size ;; passing .. --shm-size ;; use .. --shm-size
        shm .. too small ;; shm .. is full
    """),
    ("disk_full", 96, r"""
        no space left on device ;; errno 28 ;; os error 28 ;; enospc ;; disk quota exceeded
        not enough free disk space ;; not enough disk space ;; insufficient disk space
        not enough space on the disk ;; disk is full ;; disk full ;; out of disk space
        full, object creation will fail ;; diskpressure ;; disk-pressure ;; disk pressure
        low on resource: ephemeral-storage ;; insufficient ephemeral-storage
        usage exceeds the limit .. ephemeral ;; ephemeral .. exceeds
        emptydir .. exceeds the limit ;; available disk space ;; low disk space
        freediskspacefailed
        ~over 9~is over 9\d% full
    """),
)  # fmt: skip
