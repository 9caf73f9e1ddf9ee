"""Rules: starts and their ends, ports, arguments, requests, proxies, TLS, and benign lines."""

from flows.decisions.diagnosis_rules import Table

SERVING: Table = (
    ("banner", 0, r"""
        vllm api server version
        ~version~[█▀▄] +version \d
        server_args=serverargs( ;; launching .. text-generation-inference
    """),
    ("ready", 0, r"""
        application startup complete ;; uvicorn running on ;; the server is fired up
        server is listening on ;; started httpservice
    """),
    ("benign", 0, r"""
        custom allreduce is disabled ;; destroy_process_group() was not called
        using default moe config ;; performance might be sub-optimal
        cannot use flashattention ;; cannot use flash attention ;; if out-of-memory error occurs
        if you are running out of memory, consider ;; possibly too large swap space
        trying port ;; falling back to ;; fall back to ;; falls back to ;; will fall back
        using kv cache scaling factor ;; weight-only fp8 compression
        weight-only fp4 compression ;; does not have native support for fp
        leaked shared_memory ;; leaked semaphore ;; resource_tracker: there appear
        deprecationwarning ;; futurewarning ;; insecurerequestwarning ;; found ulimit
        is not fully optimized yet ;; but not yet optimized ;; not fully supported yet
        failed to get the ip address ;; special tokens have been added
        the current process just got forked ;; mps is not available ;; triton not installed
        triton is not installed ;; kv cache scaling factor ;; casting torch.
        model can run with ;; model is convertible ;; failed to import from amdsmi
        using fp8 data type to store kv cache ;; to silence this warning ;; non-default args
        unauthenticated requests to the hf hub ;; can be ignored ;; can be safely ignored
        ignored exception ;; api server exited gracefully ;; gai error ;; failed to import ray
        symmmemcommunicator ;; failed to load nccl library ;; exception ignored in
        c10d .. errno: 97 ;; libnccl-net
    """),
    ("setting", 0, r"""
        non-default args ;; llm engine (v ;; an llm engine with config ;; using max model len
        kv cache size ;; vllm api server version ;; total_gpu_memory (
        ~version~[█▀▄] +version \d
        ~model~[█▀▄] +model
    """),
    # Seen before the message it explains; it decides nothing itself.
    ("errorish", 0, r"""
        error !! error_rate !! errors: 0 !! 0 errors ;; exception
        traceback (most recent call last) ;; fatal ;; panic ;; failed ;; assertion ;; aborted
    """),
    ("port_in_use", 100, r"""
        address already in use ;; address in use ;; eaddrinuse ;; errno 98 ;; errno 48
        os error 98 ;; port is already allocated
        ~port~\bport \d{1,5} is (?:already )?(?:in use|allocated|occupied|taken)
        failed: port is ;; ports are not available ;; only one usage of each socket address
        didn't have free ports ;; error while attempting to bind ;; failed to bind
        could not bind ;; couldn't bind ;; cannot bind ;; unable to bind ;; bind failed
        cannot assign requested address ;; address not available ;; errno 99
        ~port~\bport\b.{0,60}(?:already in use|is not available|is occupied)
    """),
    ("tls_certificate", 101, r"""
        certificate_verify_failed ;; certificate verify failed ;; certificate has expired
        cert_has_expired ;; self-signed cert ;; self signed cert ;; depth_zero_self_signed_cert
        unable_to_verify_leaf ;; err_tls_cert ;; unable to get local issuer ;; x509:
        hostname mismatch ;; doesn't match .. certificate
        ~hostname~hostname .{1,120} doesn't match
        altnames ;; no alternative certificate subject name ;; certificate signed by unknown
        sslcertverificationerror ;; unknown ca ;; bad certificate ;; certificate unknown
        certificate is not yet valid ;; certificate is not valid ;; certificate expired
        tls ca certificate bundle ;; invalid peer certificate ;; unknownissuer
        notvalidforname ;; sslv3 alert ;; key values mismatch ;; key_values_mismatch
        curl: (60) ;; ssl certificate problem ;; unable to load certificate
        cannot load certificate ;; certificate chain ;; pem_read ;; ca cert .. not
    """),
    ("tls_certificate", 98, r"""
        sslerror !! eof !! timed out !! reset ;; ssl handshake ;; tls handshake !! timeout
        wrong_version_number ;; wrong version number ;; [ssl: !! eof ;; tlsv1 alert ;; ssl_error
    """),
    ("bad_cli_argument", 103, r"""
        ~error: argument~error: argument -\S{1,60}: (?:invalid|expected|not allowed|value|unknown)
        ~choice~invalid choice: .{0,300}choose from
    """),
    ("bad_cli_argument", 95, r"""
        ~ from~(?:unsupported|unknown|invalid|unrecognized|not recognized).{0,120}cho{1,2}se from
        unrecognized argument ;; unrecognised argument ;; error: argument ;; invalid choice
        following arguments are required ;; expected one argument
        expected at least one argument ;; no such option ;; unknown argument
        unknown engine arg ;; unknown engine_arg ;; error while handling argument
        unkown value for ;; unknown value for -- ;; unknown option ;; unknown flag
        unknown shorthand flag ;; unexpected argument ' ;; invalid argument: -
        flag provided but not defined ;; for '-- .. invalid ;; invalid value for '-
        invalid value ' ;; is not a valid choice ;; gpu memory utilization must be
        gpu_memory_utilization must be ;; is smaller than max_model_len
        must be greater than or equal to max_num_seqs ;; must be less than 1.0
        validation .. enginearg ;; invalid tool call parser ;; invalid reasoning parser
        --enable-auto-tool-choice requires ;; looks like a file path, but it failed
        mutually exclusive ;; not allowed with argument ;; ambiguous option
        executable file not found in $path !! nvidia ;; max_input_tokens .. must be <
        max_input_length .. must be < ;; must be >= .. max_input ;; argumentvalidation
        cannot be converted using ;; invalid loads value ;; unknown attention backend
        extra_forbidden ;; extra inputs are not permitted ;; unsupported option
        invalid option ;; expected a .. argument ;; conflicting .. arguments
        ~is not supported with~(?:vllm_|--).{0,60}is not supported with
        is not a valid backend ;; is not a valid value ;; vllm_ .. is not a valid
        cannot be used with ;; cannot be used together ;; option .. requires an argument
    """),
    ("bad_cli_argument", 73, r"""
        got an unexpected keyword argument ;; validation error for ;; usage: vllm
        usage: api_server ;; unknown vllm environment variable ;; invalid value for
        invalid literal for int ;; must be non-negative ;; must be between ;; must be in [
        must be in the range ;; must be greater than 0 ;; must be at least 1 !! got -
        must be one of ;; must be positive
        is deprecated and has been removed
    """),
    ("engine_dead", 50, r"""
        process exited unexpectedly ;; exited unexpectedly ;; unexpectedly exit
        ~died~\b(?:engine|worker|process|scheduler|server|executor|core)\b.{0,60}\bdied\b
        engine core initialization failed ;; enginedead ;; asyncenginedead
        engine process failed to start ;; enginecore failed to start ;; enginecore encountered
        hit an exception ;; enginecore hit ;; engine core encountered ;; engine core proc .. died
        got fatal signal ;; fatal signal from worker ;; engine is dead ;; engine dead
        died unexpectedly ;; background loop has errored ;; background loop is stopped
        background loop stopped ;; background loop is not running
        background task is not running ;; task finished unexpectedly ;; engine loop .. dead
        engine loop is not running ;; engine loop has died ;; workerproc initialization failed
        worker .. died ;; worker .. is dead ;; workers died ;; worker process .. exited
        shard .. failed to start ;; shardcannotstart ;; shard .. terminated
        shard process was signaled ;; webserver crashed ;; scheduler hit an exception
        scheduler is dead ;; scheduler .. died ;; received sigquit from a child
        detokenizer .. died ;; segmentation fault ;; segfault ;; sigsegv ;; core dumped
        terminate called ;; sigabrt
        ~exit~exit(?:ed)?(?: with)?(?: code|code| status)?\W{0,3}(?:1|134|139|-6|-11)\b
        rpc call to .. timed out ;; timed out .. rpc ;; back-off restarting failed
        crashloopbackoff ;; actor died ;; actordiederror ;; actor is dead
        actor .. unexpectedly ;; engine iteration timed out ;; stub process .. not healthy
        unhealthy .. stub ;; failed core proc ;; engine .. stopped unexpectedly
        child process .. died ;; server process .. exited ;; api server .. died
        process .. terminated unexpectedly ;; engine .. crashed ;; mqllmengine .. dead
        shutting down .. engine .. error ;; health check failed ;; output_handler failed
        workerproc failed ;; workerproc hit
        ~start~(?:engine|core|proc|worker|scheduler|executor|stage|orchestrator|replica|server)s?\b
        +.{0,24}(?:did not|didn't|failed to|could not|never) start
        ~initiali~(?:engine|core|proc|worker|scheduler|executor|stage|orchestrator|replica|server)s?\b
        +.{0,24}(?:initiali[sz]ation failed|(?:failed to|could not|did not) initiali[sz]e)
    """),
    ("engine_dead", 46, r"""
        crashed container ;; container .. crashed
        ~process ~\bprocess (?:enginecore|spawnprocess|forkprocess|vllmworker)\S{0,20}:$
        process enginecore ;; application startup failed
        liveness probe failed ;; readiness probe failed ;; startup probe failed
    """),
    ("kv_preemption", 45, r"""
        is preempted by ;; preemptionmode
        ~preemption~num_cumulative_preemption\W{0,3}[1-9]
        ~preemption~preemptions?[=: ]{1,2}[1-9]
        ~preemptions~preemptions\w{0,8}\{[^}]{0,300}\} [1-9] !! # help
        ~swap~(?:lack of|not enough|insufficient|out of|no free).{0,20}swap space
        ~preempt~preempt(?:ed|ing).{0,80}(?:kv|cache|block|request|seq) !! # help !! # type
        ~preempt~(?:request|sequence|seq_group).{0,78}(?<!-)preempt
        + !! # help !! # type !! preemptions_
        not enough kv cache space ;; insufficient kv cache space ;; kv cache pool is full
        retract ;; pausing .. kv cache ;; failed to find free space in the kv cache
        failed to find a memory slot ;; no free block ;; out of kv cache blocks
        kv cache is full ;; kv cache full ;; recomput .. kv cache
        ~kv cache usage~kv cache usage: (?:100(?:\.0)?|99\.\d{1,3})%
    """),
    ("request_too_long", 49, r"""
        context_length_exceeded ;; contextwindowexceeded ;; maximum context length is .. tokens
    """),
    ("request_too_long", 42, r"""
        must be at least 1, got - ;; max_tokens: - ;; max_tokens=- ;; max_tokens (-
        max_tokens to -
        maximum context length is ;; maximum context length of ;; maximum model length
        maximum context
        ~inputs~`inputs` (?:must have|tokens)
        longer than the model's context length ;; longer than the maximum
        context window exceeded ;; contextwindowexceeded ;; context_length_exceeded
        context length exceeded ;; exceed context limit ;; exceeds context
        ~context ~\b(?:prompt|input|request|message)s?\b.{0,60}\btokens?\b.{0,60}context
        + (?:window|length|size|limit)
        exceeds the context ;; exceeds the available context ;; exceed_context_size
        exceeds the model's context ;; exceeds the model's maximum context ;; prompt is too long
        prompt too long ;; input is too long ;; input too long ;; is too long and exceeds limit
        too long and exceeds ;; cannot be greater than max_model_len
        `max_tokens` is too large ;; max_tokens is too large ;; max_tokens .. too large
        reduce the length of the ;; token indices sequence length is longer
        exceeds maximum input length ;; exceeds max sequence length ;; exceeds the maximum
        prompt length .. exceed ;; input length .. exceed ;; input tokens .. exceed
        requested token count exceeds ;; too many tokens ;; the decoder prompt .. longer
        must be at most .. tokens ;; exceeds limit of ;; too large to process ;; too long to fit
        requested token count
    """),
    ("rate_limited_429", 41, r"""
        ratelimit !! x-ratelimit ;; rate limit ;; rate_limit ;; too many requests
        ~429~(?:error|http|status|code|response|returned|got|exception|client|occured|occurred
        +|-)[^0-9a-z]{0,12}(?:code|error|response)?\W{0,4}429\b
        ~429~\b429\b.{0,20}(?:error|too many|client|rate|litellm)
        ~429~(?:^|\W{2})429(?:\W{2}|$)
        crossed tpm ;; max parallel request limit ;; no deployments available ;; over tpm
        over rpm ;; tpm limit ;; budget has been exceeded ;; exceededbudget
        model is overloaded ;; throttl ;; quota exceeded ;; concurrency limit ;; queue is full
        retry after ;; try again in .. second
    """),
    ("rate_limited_429", 60, "429 client error"),
    ("proxy_backend_unreachable", 48, r"""
        cannot connect to host ;; connection refused !! probe failed
        all connection attempts failed ;; apiconnectionerror ;; connect call failed
        connecterror ;; connection error ;; newconnectionerror
        failed to establish a new connection ;; bad gateway
        ~50[234]~\b50[234]\b.{0,12}(?:bad gateway|service|gateway|temporarily)
        service unavailable ;; serviceunavailable ;; gateway time ;; server disconnected
        remote end closed ;; remoteprotocolerror ;; name or service not known
        nodename nor servname ;; temporary failure in name resolution ;; getaddrinfo failed
        no such host ;; no route to host ;; host is unreachable ;; network is unreachable
        connecttimeout ;; connect timeout ;; readtimeout ;; litellm.timeout ;; apitimeouterror
        dial tcp .. refused !! probe failed
        i/o timeout ;; backend .. unreachable ;; connecting to backend
        connecting to upstream ;; error connecting to ;; backend .. unavailable ;; no healthy
        connection reset by peer ;; connection aborted ;; can't reach database
        clientconnectorerror ;; unable to connect ;; could not connect ;; failed to connect
        econnrefused ;; econnreset
        ~enotfound~\benotfound\b
        unhealthy .. endpoint !! unhealthy_endpoints":[] !! unhealthy_count":0
        endpoints .. unhealthy !! unhealthy_endpoints":[] !! unhealthy_count":0
        ~backend~\bbackend\b.{0,40}\bdown\b
        ~upstream~\bupstream\b.{0,120}(?:error|fail|timed|timeout|refused|unavail|prematurely
        +|reset|connecting|unhealthy)
        ~upstream~(?:error|fail|timed out|timeout|refused|unavail|bad gateway
        +|50[234]).{0,80}\bupstream\b
    """),
)  # fmt: skip
