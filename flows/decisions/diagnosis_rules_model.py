"""Rules: the model's files, hub access, quantisation, tokenizer and limits."""

from flows.decisions.diagnosis_rules import Table

MODEL: Table = (
    ("quantization_mismatch", 99, r"""
        quantization method specified in the model config .. does not match
        does not match the quantization method ;; unknown quantization method
        cannot find the config file for
        ~quant~is not divisible by weight quantization
        is not aligned with the quantized weight shape
        no compressed-tensors compatible scheme
        ~quant~(?:quantization|quant_method|quant method|quantized|quant_algo
        +|quantize).{0,80}(?:not supported|unsupported|does not match|doesn't match|mismatch
        +|is invalid|not found in|is not compatible|not yet supported|must be one of|unknown
        +|not recognized|not quantized|conflict)
        ~quant~(?:unsupported|unknown|invalid|unrecognized|not support|n't support|mismatched?
        +|incompatible|found unknown|conflicting|inconsistent) .{0,50}(?:quantization|quant_method
        +|quant_type|quant type|quant_algo|quantized|quant config)
        bitsandbytes load format ;; bitsandbytes quantization .. load
        qlora adapter only support ;; prequant bitsandbytes
        ~quant~only .{0,20}-?bits?.{0,40}quantization is supported
        currently, only 4-bit weight ;; weight quantization block ;; divisible by block_size
        min_thread_k
        min_thread_n ;; unsupported bits ;; is not a quantized model ;; model is not quantized
        is already quantized ;; already been quantized ;; group_size .. not
        group size .. not supported ;; group_size .. is not divisible
        not divisible by group_size ;; not divisible by group size ;; not divisible by .. group
        ~keyerror~keyerror.{0,120}(?:qweight|qzeros|g_idx|_scale\b|weight_scale|weight_packed
        +|absmax|quant_state|input_scale|\.scales|quant_map|quant_method|weight_shape
        +|weight_zero_point)
        ~no module or parameter named~(?:qweight|qzeros|scale|absmax|quant|packed|g_idx|nested
        +|qscales)
        ~attribute~has no attribute '(?:\w{0,20}scale\w{0,8}|qweight|qzeros|g_idx|weight_packed
        +|workspace|quant\w{0,20}|\w{0,12}zero_point|weight_shape|bnb\w{0,20})'
        modelopt currently only ;; modelopt .. not ;; marlin .. does not support
        marlin does not support ;; does not support .. quantization
        quantization config .. not found ;; quant config not found ;; gguf .. not supported
        weight_bits .. not ;; does not appear to be quantized ;; expected .. awq
        expected .. gptq ;; no quantization config ;; gptq .. does not support
        awq .. does not support ;; invalid weight bits
        ~not support~\b(?:awq|gptq|bitsandbytes|bnb|nvfp4|mxfp4|compressed-tensors|gguf|modelopt
        +|quark|hqq|aqlm)\b.{0,60}not support
        ~keyerror~keyerror.{0,120}(?:bitmask|packed|qscales|nested|_scale)
        ~quant~(?:error|not found|no such|missing|fail|unable|exception|cannot|can\'t|could not
        +|invalid).{0,120}(?:quantize_config\.json|quant_config\.json|hf_quant_config)
        ~quant~(?:quantize_config\.json|quant_config\.json|hf_quant_config).{0,120}(?:error
        +|not found|no such|missing|fail|unable|exception|cannot|can\'t|could not|invalid)
    """),
    ("quantization_mismatch", 66, r"""
        ~keyerror~keyerror: .{0,40}(?:layers|experts)\.\d
        ~load~(?:attempted|tried|trying|unable|failed) to load .{0,20}weights? .{0,80}(?:size
        +|shape|parameter)
        param_data.shape == loaded_weight.shape
        loaded_weight.shape == param ;; self.data.shape == loaded_weight.shape
        mixed precision is not supported .. quant
    """),
    ("model_gated", 103, r"""
        cannot access content at ;; gatedrepo ;; gated repo !! if you are trying to
        401 client error !! localhost
        403 client error !! localhost ;; is restricted and you are not in the authorized list
        is restricted. you must ;; you must be authenticated to access
        you must have access to it ;; make sure to have access to it
        awaiting a review from the repo ;; your request to access model
        invalid credentials in authorization header ;; invalid user token
        invalid username or password ;; user access token .. is invalid ;; cannot access gated
        ask for access
        ~huggingface~(?:401|403|unauthorized|forbidden).{0,80}huggingface\.co
        ~huggingface~huggingface\.co.{0,200}\b(?:401|403|unauthorized|forbidden)\b
        token is required ;; huggingface hub token ;; hf_token .. not set
        access to this model is restricted ;; access to model .. is restricted
        you need to be authenticated ;; authenticate with your huggingface
        unauthorized for url ;; forbidden for url ;; status code 401 .. hub
        an error occurred (403) ;; an error occurred (accessdenied)
    """),
    ("model_not_found", 97, r"""
        incorrect path_or_model_id ;; incorrect path or model id ;; repo id must be
        repo id must use ;; hfvalidationerror ;; does not appear to have a file named
        repositorynotfound ;; repository not found ;; entrynotfounderror ;; entry not found
        revisionnotfound ;; invalid rev id ;; localentrynotfound
        404 client error .. huggingface ;; is not a local folder and is not a valid model
        is not a valid model identifier
        ~model~model (?:path|directory|dir|file|folder|repository).{0,120}(?:does not exist
        +|doesn't exist|not exist|not found|no such file|is empty|is not a directory|missing)
        could not find base path ;; no models with name ;; /models .. not found
        model .. not found in .. store
        cannot find any model weights ;; no model weights found ;; no safetensors files found
        no safetensors weights found ;; no file named
        ~ find ~(?:could not|cannot|can't|couldn't|unable to|failed to) find
        + .{0,40}\bmodel\b !! class
        no files .. weights ;; couldn't connect to 'https://huggingface.co'
        couldn't find .. in the cached files ;; couldn't find it in the cached
        cannot find the requested files in the ;; cannot find an appropriate cached snapshot
        outgoing traffic has been disabled ;; offline mode is enabled
        invalid repository id or local directory ;; can't load the configuration of
        can't load config for
        ~no such file~no such file or directory.{0,200}(?:\.json|\.safetensors|\.gguf|\.bin\b
        +|\.pt\b|\.engine|\.model|models?[/-]|snapshots|/hub/|refs/main|huggingface)
        ~no such file~(?:\.json|\.safetensors|\.gguf|\.bin|\.engine|\.plan|models?/|snapshots
        +|/hub/|config).{0,200}no such file or directory
        failed to open .. gguf ;; gguf .. does not exist ;; failed to open gguf
        gguf_init_from_file: failed to open ;; failed to load model from file
        unable to find .. model ;; failed to stat file ;; unable to load model .. no version
        failed to poll model repository ;; at least one version must be available
        model not found ;; model .. not found, try pulling
        pull model manifest: file does not exist ;; is not a valid path ;; path does not exist
        cached_path .. not found ;; weights not found ;; /models .. is not a directory
        hostpath type check failed ;; nosuchkey ;; the specified key does not exist
        the specified bucket does not exist ;; modelscope .. not exist
        not found in modelscope ;; failed to download model ;; no model found
        we couldn't connect to ;; could not locate .. inside ;; no config.json
        config.json not found ;; checkpoint .. does not exist ;; checkpoint .. not found
        lora adapter .. does not exist ;; no lora adapter found
        loading lora .. failed: no adapter
        ~adapter_config~(?:error|not found|no such|missing|fail|unable|exception|cannot|can\'t
        +|could not|invalid).{0,120}adapter_config
    """),
    ("model_gated", 35, r"""
        private or gated repo ;; 403 forbidden !! http/1 ;; 401 unauthorized !! http/1
    """),
    ("model_not_found", 72, r"""
        ~config~(?:failed to|could not|cannot|can't|unable to) (?:load|find|read|open|locate).{0,40}
        +(?:config|params\.json)
        unrecognized model in ;; should have a `model_type` key
        ~filenotfounderror~filenotfounderror !! psm_ !! .so !! /dev/shm !! triton
        notadirectoryerror ;; max retries exceeded .. huggingface.co
        huggingface.co .. max retries exceeded ;; failed to resolve 'huggingface.co'
        huggingface.co .. timed out ;; huggingface.co .. connection
        cannot connect to host huggingface
    """),
    ("model_not_found", 40, r"""
        the model ` .. does not exist
        ~model~model ['\"`].{1,120}['\"`] (?:does not exist|not found)
        invalid model name passed ;; modelnotfounderror
    """),
    ("max_len_exceeds_model", 105, r"""
        is greater than the derived max_model_len !! extreme caution
        is greater than the derived context_length ;; is greater than the derived
        set the env var vllm_allow_long_max_model_len
        ~max_position_embeddings~(?:exceeds?|greater than|larger than|longer than|must be <=
        +|less than or equal to|above).{0,60}max_position_embeddings
        ~max_position_embeddings~(?:max_model_len|max_seq_len|max_total_tokens|max_input_length
        +|context).{0,100}(?:exceeds?|greater than|larger than|must be <=
        +|longer than).{0,60}max_position_embeddings
        sglang_allow_overwrite_longer_context_len
        larger than the model's maximum !! tokens !! input
        greater than the model's maximum !! tokens !! input
        exceeds the model's maximum !! tokens !! input ;; exceeds model's max !! tokens !! input
        model only supports context ;; max_model_len .. greater than .. sliding window
        max_seq_len .. exceeds .. max_position
    """),
    ("max_len_exceeds_model", 46, r"""
        vllm_allow_long_max_model_len must be used with ;; possible training context overflow
        n_ctx_train .. overflow
    """),
    ("tokenizer_error", 97, r"""
        tokenizer class .. does not exist ;; all_special_tokens_extended
        instantiate the backend tokenizer ;; did not match any variant of untagged enum
        cannot instantiate this tokenizer ;; failed to load the tokenizer
        failed to load tokenizer ;; can't load tokenizer ;; error loading tokenizer
        ~tokeniz~(?:attributeerror|typeerror|keyerror|importerror|valueerror|runtimeerror
        +|exception).{0,80}tokeniz
        ~tokeniz~tokeniz.{0,100}(?:has no attribute|not installed|is required|could not be
        +|cannot be loaded|unexpected|failed to|mismatch|no attribute|incompatible|invalid
        +|not found)
        sentencepiece .. not installed ;; converting from tiktoken
        ~sentencepiece~(?:error|failed|exception).{0,120}sentencepiece
        ~tiktoken~(?:error|failed|exception).{0,120}tiktoken
        requires the sentencepiece ;; requires sentencepiece ;; no module named 'sentencepiece'
        no module named 'tiktoken' ;; no module named 'transformers
        no module named 'tokenizers ;; no module named 'mistral_common ;; from 'transformers
        from 'tokenizers ;; requires transformers ;; transformers .. is required
        transformers does not recognize ;; does not recognize this architecture
        upgrade transformers ;; update transformers ;; upgrade to .. transformers
        `rope_scaling` must be a dictionary ;; rope_scaling .. must be a dictionary
        rope_scaling should have a ;; unable to load vocabulary
        default chat template is no longer ;; chat_template is not set
        does not have a chat template ;; already borrowed ;; model_max_length .. attribute
        unrecognized processing class ;; unrecognized .. processor in ;; pystring
        textinputsequence ;; textencodeinput ;; unrecognized configuration class
        ~keyerror~keyerror: '(?:qwen|llama|mistral|mixtral|gemma|phi|glm|chatglm|deepseek
        +|internlm|baichuan|minicpm|falcon|mpt|gpt|olmo|granite|cohere|command|exaone|nemotron
        +|jamba|mllama|pixtral|kimi|ernie)[\w.-]{0,24}'
        tokenizer .. stuck ;; tokenizer mismatch ;; error no tokenizer
        ~token~(?:error|not found|no such|missing|fail|unable|exception|cannot|can\'t|could not
        +|invalid).{0,120}(?:tokenizer_config\.json|special_tokens_map|added_tokens|vocab\.json
        +|merges\.txt|tokenizer\.json|mistral_common|mistraltokenizer)
        ~token~(?:tokenizer_config\.json|special_tokens_map|added_tokens|vocab\.json|merges\.txt
        +|tokenizer\.json|mistral_common|mistraltokenizer).{0,120}(?:error|not found|no such
        +|missing|fail|unable|exception|cannot|can\'t|could not|invalid)
        ~mistral~(?:error|not found|no such|missing|fail|unable|exception|cannot|can\'t|could not
        +|invalid).{0,120}mistral_?(?:common|tokenizer)
        ~.json~(?:error|not found|no such|missing|fail|unable|exception|cannot|can\'t|could not
        +|invalid).{0,120}(?:vocab\.json|merges\.txt)
        ~transformers~transformers[<>=]{1,2}.{0,40}(?:required|found|but)
    """),
    ("tokenizer_error", 66, r"""
        'vocab_size' ;; object has no attribute 'vocab ;; from_pretrained .. unexpected keyword
        ~architecture~\barchitecture \S{1,40} (?:is )?not (?:yet )?supported
        ~rope_~(?:assert|error|invalid|unknown|unsupported|missing).{0,80}rope_(?:scaling|type|theta|param)
        ~rope scaling~(?:error|invalid|unknown|unsupported).{0,60}rope scaling
        jinja2.exceptions ;; templateerror ;; templatesyntaxerror
        config_mapping[ ;; typeerror: not a string ;; model architectures .. are not supported
        failed to be inspected
        trust_remote_code .. tokenizer ;; please pass the argument `trust_remote_code=true`
        set the option `trust_remote_code=true`
        requires the following packages that were not found ;; object has no attribute 'rope
        configuration_utils.py .. attributeerror ;; processor .. has no attribute
        out of vocabulary
        ~config~(?:attributeerror|keyerror).{0,60}config\b
    """),
    ("corrupt_weights", 99, r"""
        safetensorerror !! no space !! storagefull ;; safetensor .. error while deserializing
        metadataincompletebuffer ;; error while deserializing header ;; headertoolarge
        header too large ;; headertoosmall ;; header too small ;; invalidheader
        invalid header ;; incompletemetadata ;; incomplete metadata ;; file not fully covered
        consistency check failed ;; file should be of size ;; pytorchstreamreader
        failed finding central directory
        ~mismatch~(?:checksum|sha-?256|md5|hash|digest|file ?size|etag
        +|size).{0,60}mismatch !! quant !! vocab
        ~mismatch~mismatch.{0,60}(?:checksum|sha-?256|md5|hash|digest)
        checksum .. failed ;; checksum does not match ;; unpicklingerror ;; invalid load key
        unable to load weights from pytorch checkpoint ;; is corrupted ;; model is corrupted
        corrupt !! incomplete data !! shared memory ;; not within the file bounds
        not within file bounds ;; invalid magic
        unknown (magic ;; is this really a gg
        ~incomplete~(?:safetensors|gguf|checkpoint|weights|\.bin).{0,80}incomplete
        bad magic ;; weights were not initialized from checkpoint
        weights are not initialized from checkpoint ;; missing key(s) in state_dict
        unexpected end of file ;; unexpected eof ;; ran out of input ;; size mismatch for
        file is incomplete ;; incomplete download ;; incomplete file ;; git-lfs ;; git lfs
        file signature not found ;; not a zip archive ;; failed to read tensor
        tensor .. not found in ;; missing tensor ;; wrong number of tensors ;; invalid data
        ~truncated~(?:file|tensor|gguf|safetensors|weights|download|shard).{0,60}truncated
    """),
)  # fmt: skip
