"""Rules: drivers, devices, kernels, number formats, collectives and hardware."""

from flows.decisions.diagnosis_rules import Table

GPU: Table = (
    ("kv_fp8", 0, r"""
        data type to store kv cache ;; fp8 kv cache ;; kv cache type is f ;; kv_cache_dtype=fp8
        kv_cache_dtype': 'fp8 ;; kv_cache_dtype fp8 ;; kv-cache-dtype ;; triton_attn
        unified_attention ;; prefix_prefill ;; context_attention ;; reshape_and_cache
        paged_attn ;; _fwd_kernel ;; decode_attention ;; /attention/ ;; k_cache ;; v_cache
        key_cache ;; value_cache ;; k_scale ;; v_scale ;; attention kernel ;; mha_fwd
    """),
    ("fp8e4nv", 97, "fp8e4nv"),
    ("fp8e4nv", 97, r"""
        fp8e4b8 .. not supported ;; e4m3 .. not supported ;; e5m2 .. not supported
        float8 .. not supported
    """),
    ("fp8_kv_unsupported", 102, r"""
        fp8 kv cache is not supported
        ~kv~(?:fp8|float8|e5m2|e4m3|quantized).{0,60}kv.?cache.{0,120}(?:not support|unsupported
        +|only support|requires|require |cannot|n't support|not implemented|not compatible
        +|incompatible|not available)
        ~kv~(?:not support|unsupported|only support|n't support|not implemented|cannot
        +|incompatible|invalid|no support).{0,80}(?:fp8|float8|e5m2|e4m3|quantized).{0,30}kv.?cache
        ~kv~kv.?cache.?(?:data.?)?(?:d?type|quantization).{0,120}(?:not support|unsupported
        +|only support|n't support|not valid|invalid|must be|not compatible|incompatible
        +|not implemented|requires)
        ~kv~(?:not support|unsupported|n't support|not compatible|unknown|invalid
        +|unrecognized).{0,60}kv.?cache.?(?:data.?)?(?:d?type|quantization)
        ~kv~(?:requires?|needs?|required|only).{0,60}(?:for|with|to use).{0,20}
        +(?:fp8|float8|quantized) kv.?cache
        unsupported data type of kv cache ;; data type of kv cache
        flashattention .. with fp8 kv cache
        ~kv~notimplementederror.{0,120}fp8.{0,30}kv
        ~kv~kv[_ -](?:data[_ -]?type|dtype).{0,80}(?:not support|unsupported|n't support|invalid
        +|not valid|must be|not implemented)
        ~kv~(?:not support|unsupported|n't support|invalid|unknown).{0,60}kv[_ -](?:data[_ -]?type
        +|dtype)
        kv-cache is not supported with fp8 checkpoints ;; flash_attn .. does not support .. fp8
        fp8 kv cache .. notimplementederror ;; fp8_e5m2 .. kv .. checkpoint
        fp8 attention .. not supported ;; unsupported kv cache
        kv cache of type .. not supported ;; kv_cache .. fp8 .. not supported
    """),
    ("dtype_unsupported", 104, r"""
        bfloat16 is only supported on
        ~bf~\b(?:bfloat16|bf16)\b.{0,60}(?:not supported|unsupported|is only supported
        +|n't support|not support|requires|not available|not implemented)
        ~bf~(?:not support|n't support|unsupported|does not have support|cannot use
        +|lacks).{0,60}\b(?:bfloat16|bf16)\b !! supported dtypes !! supported types
        feature '.bf16' requires ;; use float16 instead by explicitly setting
        .bf16 .. requires .target ;; cvt.bf16 .. requires
    """),
    ("dtype_unsupported", 85, r"""
        not implemented for 'half' ;; not implemented for 'bfloat16' ;; does not support float16
        ~is not supported for quantization method~(?:bfloat16|float32|float16
        +|half) is not supported for quantization method
        unknown dtype ;; float16 is not supported
    """),
    ("gpu_arch_unsupported", 100, r"""
        minimum capability .. current capability ;; is not supported for the current gpu
        no kernel image is available ;; is not compatible with the current pytorch installation
        flashattention only supports ampere ;; only supports ampere gpus or newer
        ~capab~compute capability.{0,60}(?:not supported|unsupported|too low|is required
        +|or higher|or above|at least|>=|< )
        ~capab~(?:requires?|needs?|required|only supported|minimum|at least|lower than|below
        +|not support|unsupported).{0,80}(?:compute |cuda |device )?capability
        ~sm~(?:requires?|need|only supported|only support|only works|at least|not support
        +|unsupported).{0,50}\bsm[_ ]?\d{2,3}
        ~sm~\bsm[_ ]?\d{2,3}a?\b.{0,60}(?:not supported|unsupported|is required|not compatible
        +|or newer|or higher)
        is not defined for option 'gpu-name' ;; unsupported gpu architecture
        unable to find code object for all current devices ;; hiperrornobinaryforgpu
        unsupported gpu: gfx ;; invalid device function ;; device kernel image is invalid
        torch._scaled_mm is only supported ;; only supported on hopper
        only supported on blackwell ;; only supported on ampere
        ~required~(?:hopper|blackwell|ampere|ada|turing|volta|cdna|rdna).{0,30}required
        ~device capability~(?:error|exception).{0,160}device capability
        requires hopper ;; requires blackwell ;; gpu with cuda capability .. is not supported
        ~gfx~(?:not support|unsupported).{0,40}\bgfx\d
        invalid value for --gpu-architecture ;; out of resource: shared memory
        outofresources: .. shared memory ;; uses too much shared data
        failed to find a kernel that can implement ;; avx512 .. not
        no longer supports this gpu ;; gpu because it is too old
        this gpu .. is not supported ;; gpu is not supported ;; not supported on this gpu
        unsupported architecture for ;; arch .. not supported .. cuda
        ~support~kernels?\b.{0,60}(?:not support|n't support|unsupported).{0,40}(?:device|gpu|arch
        +|hardware)
        ~support~(?:not support|n't support|unsupported|incompatible).{0,40}\b(?:this|current|your)
        + (?:gpu|device|hardware|card)
        no supported .. kernel .. for this gpu ;; illegal instruction .. (core dumped)
        ~illegal instruction~(?:^|[\s:(])illegal instruction\s{0,40}(?:$|\(|\.)
    """),
    ("driver_cuda_mismatch", 100, r"""
        could not load library libcudnn ;; nvidia driver on your system is too old
        cuda driver version is insufficient ;; cuda runtime version .. insufficient ;; error 803
        error 804 ;; error 802 ;; unsupported display driver
        forward compatibility was attempted ;; driver/library version mismatch
        nvrm: api mismatch ;; compiled with an unsupported toolchain
        provided ptx was compiled ;; nvidia-container-cli: requirement error
        unsatisfied condition: cuda
        unsatisfied condition: driver ;; please update your gpu driver
        please update your nvidia driver ;; please upgrade .. driver
        mismatches the version that was used to compile ;; different cuda major versions
        cudnn version incompatibility ;; system not yet initialized
        cuda_error_system_not_ready ;; cudaerrorsystemnotready
        cudaerrorinsufficientdriver ;; cuda_error_system_driver_mismatch
        cuda_error_compat_not_supported ;; driver is too old ;; driver version .. is too old
        driver version .. is not supported ;; nvidia driver .. older than
        requires .. nvidia driver ;; incompatible .. driver ;; unsupported toolchain
        ~cuda>~cuda>=\d{1,3}\.\d{1,3}.{0,40}please update your driver
    """),
    ("driver_cuda_mismatch", 90, r"""
        ~cannot open shared object file~lib(?:cuda(?:rt|nn)|cudnn|cublas|cufft|curand|cusolver
        +|cusparse|cupti|nvrtc|nvjitlink|nccl|nvtoolsext|torch_cuda|c10_cuda|cufile|nvshmem|amdhip
        +|hip|rocm|nvinfer|nvonnx|mpi|cutensor)[\w.-]{0,40}: cannot open
        undefined symbol ;; libcudart .. not found ;; libcudnn .. not found
        could not load library libcudnn ;; unable to load any of {libcudnn
        cudnn_status_not_initialized ;; cuda_home .. not set
        torch not compiled with cuda enabled
        no module named 'vllm._c' !! failed to import from ;; glibcxx .. not found
        symbol not found in flat namespace ;; dll load failed ;; cuda version mismatch
    """),
    ("gpu_not_visible", 98, r"""
        -capable device is detected ;; no cuda gpus are available
        no cuda-capable device is detected ;; no hip gpus are available
        no xpu devices are available ;; cuda_error_no_device ;; cudaerrornodevice
        hiperrornodevice ;; found no nvidia driver ;; could not select device driver
        nvidia-container-cli: initialization error ;; nvidia-container-cli: device error
        nvidia-container-cli: detection error ;; nvidia-container-cli: container error
        nvidia-container-cli: mount error ;; nvidia-container-runtime .. no such file
        nvidia-container-runtime .. not found ;; unknown runtime specified nvidia
        unknown or invalid runtime name: nvidia ;; unresolvable cdi devices
        not have a cdi configuration ;; no cdi configuration ;; setting up cdi ;; cdi host device
        devices unavailable for .. gpu ;; no healthy devices present ;; allocate unhealthy devices
        unexpectedadmissionerror .. gpu
        failed to inject cdi ;; insufficient nvidia.com/gpu ;; insufficient amd.com/gpu
        insufficient gpu ;; no runtime for "nvidia" is configured
        couldn't communicate with the nvidia driver ;; nvml shared library not found
        nvml_error_library_not_found ;; nvmlerror_librarynotfound ;; nvmlerror_driver
        nvmlerror_uninit ;; libcuda.so .. cannot open shared object
        libnvidia-ml.so .. cannot open shared object ;; libnvidia-ml.so.1: .. no such file
        libcuda.so.1: .. no such file ;; could not load nvml ;; failed to initialize nvml
        can't initialize nvml ;; cannot initialize nvml ;; initialize nvml .. not found
        nvml .. driver not loaded ;; no platform detected ;; unspecifiedplatform
        failed to infer device type ;; device string must not be empty
        no devices found. waiting ;; if this is a gpu node ;; nvidia-smi: command not found
        nvidia-smi .. executable file not found ;; nvidia-smi: not found ;; no gpu detected
        no gpus detected ;; no gpu found ;; no gpus found ;; no nvidia gpu ;; no gpu available
        no gpus available ;; gpu not found ;; no usable gpu ;; gpu is not available
        cuda is not available !! falling back ;; cuda unavailable
        torch.cuda.is_available() .. false ;; cuda device is not available
        no devices were found ;; unable to find /dev/nvidia ;; /dev/nvidia .. no such file
        /dev/kfd .. no such ;; /dev/kfd .. permission
        no available node types can fulfill .. gpu ;; requested device .. not available
        not found: nvidia.com/gpu ;; no adapters were found ;; failed to detect a gpu
        cuda unknown error ;; available devices to be zero ;; cudaerrorunknown
        failed to discover gpu ;; unable to detect gpu
        ~ detect~no (?:supported|compatible|available|usable|valid|suitable|accelerator
        +|cuda).{0,20}(?:device|accelerator|gpu)s? (?:was |were |is |are )?detected
        ~no ~\bno (?:supported|compatible|usable|suitable) (?:cuda |gpu )?(?:device|accelerator
        +|gpu)s?\b !! kernel
    """),
    ("gpu_not_visible", 86, r"""
        unexpected error from cudagetdevicecount !! 803 !! 804 !! 802 ;; invalid device ordinal
        device < num_gpus ;; num_gpus=0 ;; device_count() .. 0 ;; found 0 gpu ;; found 0 cuda
        nvidia-container-cli ;; failed to get device context ;; cuda driver library failed
        error running prestart hook .. nvidia ;; cuda_visible_devices .. invalid
        cuda_visible_devices .. is set to empty
    """),
    ("cuda_illegal_access", 98, r"""
        illegal memory access ;; device-side assert !! to enable device-side
        cudaerrorillegaladdress
        cuda_error_illegal_address ;; cuda_error_assert ;; misaligned address
        cuda_error_misaligned ;; memory access fault by gpu
        ~block: [~assertion.{0,200}failed
        ~assertion~block: \[\d.{0,80}assertion
        illegal instruction was encountered ;; unspecified launch failure
        unspecified launch error ;; cudaerrorlaunchfailure ;; warp illegal address
        invalid __global__
    """),
    ("cuda_illegal_access", 79, r"""
        cublas_status_execution_failed ;; cublas_status_internal_error
        probability tensor contains either ;; cudnn_status_execution_failed
        cudnn_status_mapping_error ;; cudnn_status_internal_error
        cuda error: an internal error ;; an internal operation failed
    """),
    ("nccl_or_tp_failure", 100, r"""
        ~parallel~(?:tensor|pipeline)[ _]parallel[ _]size.{0,20}(?:exceeds|is larger
        +|is greater)
        required gpus exceeds the total number of available gpus
        number of required .. gpus .. exceeds
        ~c10d~c10d.{0,40}client socket.{0,40}(?:timed out|failed to connect) !! errno: 97
    """),
    ("nccl_or_tp_failure", 88, r"""
        placement group bundle cannot ;; placement group .. cannot be
        nccl error ;; ncclsystemerror ;; ncclunhandled ;; ncclinternalerror ;; ncclinvalidusage
        ncclinvalidargument ;; ncclremoteerror ;; rccl error ;; distbackenderror ;; disttimeout
        diststoreerror ;; distnetworkerror !! eaddrinuse !! address already in use
        some nccl operations have failed ;; watchdog caught collective
        collective operation timeout ;; collective timeout
        attention heads .. divisible by ;; must be divisible by .. tensor
        num_heads % ;; % tp_size ;; % self.tp_size ;; % tensor_ ;; % tensor_model_parallel
        % world_size == 0 ;; % self.world_size ;; heads % self.
        not divisible by .. tensor ;; divisible by .. tensor_parallel ;; not divisible by .. tp
        divisible by tp ;; divisible by world_size ;; not divisible by .. world size
        ~ is not divisible by ~\d is not divisible by \d
        ~not divisible~num_(?:kv_|key_value_|attention_)?heads.{0,60}not divisible
        tensor parallel size .. cannot be larger ;; tensor_parallel_size .. larger than
        tensor parallel size .. larger than ;; tensor_parallel_size .. greater than
        world size .. larger than .. gpus ;; world size .. greater than .. gpu
        tp_size .. greater than ;; connectfullmesh failed
        peer access is not supported ;; no socket interface found ;; nccl warn cuda failure
        nccl warn .. error ;; nccl warn .. failed ;; nccl warn .. timeout
        nccl warn .. timed out ;; unhandled system error ;; unhandled cuda error
        processgroupnccl .. timed out ;; watchdog got stuck ;; nccl .. hang
        processgroupnccl .. terminated ;; ibv_ ;; net/ib .. error ;; net/ib .. completion
        every node should have a unique ip ;; does not allocate any gpus on the driver
        custom_all_reduce.cuh ;; failed: cuda error .. all_reduce ;; tcpstore .. failed
        timed out after .. waiting for clients ;; the client socket has failed to connect
        the client socket has timed out ;; failed to connect to gcs
        tensor parallelism is not supported ;; does not support tensor parallel
        pipeline parallelism is not supported ;; placement group .. timed out
        cannot provide a placement group ;; nvshmem .. error ;; nvls .. fail
        duplicate gpu detected ;; heartbeat monitor timed out ;; ucx .. error ;; nixl .. error
        gloo .. timed out ;; gloo .. error ;; torch.distributed .. timed out
        deep_ep .. timeout ;; taking the entire process down
        ~processgroup~\[e[ \d.:]{0,40}processgroup\w{1,10}\.cpp
        ~ccl~\b(?:h|r|x|m|e|bk|one)ccl.{0,60}(?:error|fail|timeout|timed out|abort|exception)
        ~ccl~(?:error|fail|timeout|timed out|abort|exception).{0,60}\b(?:h|r|x|m|e|bk|one)ccl
        ~nccl~nccl (?:warn|info) .{0,60}\.cc:\d{1,5} -> [1-9]
    """),
    ("nccl_or_tp_failure", 72, r"""
        connection closed by peer ;; remote process exited or there was a network error
        rank .. connection reset ;; gloo .. connection ;; nccl .. connection closed
        nccl .. connection reset ;; socketprogress
    """),
    ("shm_wait", 0, "no available shared memory broadcast block"),
    ("shm_wait", 0, "no shared memory broadcast block"),
    ("xid_or_hw_fault", 101, r"""
        fallen off the bus ;; uncorrectable ecc ;; uncorrectable .. ecc ;; ecc .. uncorrectable
        double bit ecc ;; double-bit ecc
        ~dbe~\bdbe\b
        ecc error ;; cudaerroreccuncorrectable ;; rminitadapter ;; rm_init_adapter ;; row remap
        gpu is lost ;; gpuislost ;; gpu_is_lost ;; gpu has been lost ;; gpu requires reset
        gpu recovery action
        ~xid~\bxid\b(?: errors?)?\W{0,4}(?:\(pci:[^)]{1,40}\)\W{0,3})?(?!13\b|31\b|43\b
        +|45\b)\d{1,3}\b
        sxid ;; hardware error ;; machine check ;; mce: [ ;; pcie bus error ;; aer: .. error
        nvlink .. error ;; nvlink .. fatal ;; unable to determine the device handle
        amdgpu .. gpu reset ;; amdgpu .. ring .. timeout ;; gpu hang ;; hbm .. failure
        xid errors ;; gpu .. is unhealthy .. xid ;; rpc response from gpu
        rpc response from gsp ;; gsp .. timeout ;; hw slowdown ;; contained ecc ;; uncontained
        remapping .. pending ;; page retirement ;; nvml_error_gpu_is_lost ;; critical thermal
        gpu .. disappeared
    """),
    ("xid_or_hw_fault", 94, r"""
        ~xid~\bxid\b.{0,40}\b(?:13|31|43|45)\b
        nvrm: .. failed ;; nvrm: .. error ;; device_lost ;; device lost ;; device was lost
        device has been lost ;; devicelost ;; gpu lost ;; device removed
    """),
)  # fmt: skip
