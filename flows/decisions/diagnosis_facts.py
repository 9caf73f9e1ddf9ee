"""Numbers and names parsed from the lines that decided; units are in the names."""

import re
from collections.abc import Iterable
from typing import Protocol

from flows.decisions.diagnosis_text import redact

Facts = dict[str, int | float | str]


class _Line(Protocol):
    @property
    def text(self) -> str: ...


_N = r"(-?\d[\d,]{0,18}(?:\.\d{1,9})?)"
_GIB = r"(-?\d{1,9}(?:\.\d{1,9})?) {0,2}([KMGT]i?B|bytes)"

_NUMBERS: tuple[tuple[str, str], ...] = (
    ("requested_max_model_len", rf"model's max seq len \({_N}\)"),
    ("requested_max_model_len", rf"user-specified max_model_len \({_N}\)"),
    ("requested_max_model_len", rf"user-specified context_length \({_N}\)"),
    ("estimated_max_model_len", rf"estimated maximum model length is {_N}"),
    ("kv_cache_tokens", rf"(?:tokens that can be )?stored in kv cache \({_N}\)"),
    ("kv_cache_tokens", rf"kv cache size: {_N} tokens"),
    ("gpu_blocks", rf"# ?(?:gpu|cuda|xpu|npu|hpu|tpu) blocks: {_N}"),
    ("derived_max_model_len", rf"derived max_model_len \((?:[a-z_]{{3,40}}=)?{_N}"),
    ("derived_max_model_len", rf"derived context_length \({_N}"),
    ("derived_max_model_len", rf"max_position_embeddings={_N}"),
    ("gpu_memory_utilization", rf"gpu memory utilization \({_N}"),
    ("gpu_memory_utilization", rf"gpu_memory_utilization \({_N}\)"),
    ("gpu_memory_utilization", rf"gpu_memory_utilization['\"]{{0,2}}[=:] ?{_N}"),
    ("max_num_seqs", rf"max_num_seqs['\"]{{0,2}}[=:] ?{_N}"),
    ("configured_max_model_len", rf"max_model_len['\"]{{0,2}}[=:] ?{_N}"),
    ("configured_max_model_len", rf"using max model len {_N}"),
    ("tensor_parallel_size", rf"tensor[_ ]parallel[_ ]size['\"]{{0,2}}(?:[=:] ?| \(){_N}"),
    ("attention_heads", rf"attention heads \({_N}\)"),
    ("required_capability", rf"(?:minimum capability: |capability of at least )sm_?{_N}"),
    ("required_capability", rf"(?:minimum capability:? |capability (?:of at least|>=) ){_N}"),
    ("gpu_capability", rf"current capability: {_N}"),
    ("gpu_capability", rf"compute capability {_N}"),
    ("context_limit_tokens", rf"maximum context length (?:is|of) {_N}"),
    ("context_limit_tokens", rf"max_model_len={_N}"),
    ("context_limit_tokens", rf"max input tokens={_N}"),
    ("context_limit_tokens", rf"must have less than {_N} tokens"),
    ("context_limit_tokens", rf"must be <= {_N}"),
    ("context_limit_tokens", rf"exceeds limit of {_N}"),
    ("context_limit_tokens", rf"maximum model length of {_N}"),
    ("context_limit_tokens", rf"context length \({_N}"),
    ("requested_tokens", rf"(?:you )?requested (?:about )?{_N} (?:output )?tokens"),
    ("requested_tokens", rf"contains at least {_N} input tokens"),
    ("requested_tokens", rf"max_tokens=['\"]?{_N}"),
    ("requested_tokens", rf"\bgot={_N}"),
    ("requested_tokens", rf"given: {_N}"),
    ("requested_tokens", rf"\(length {_N}\)"),
    ("requested_tokens", rf"prompt \({_N} tokens\)"),
    ("requested_tokens", rf"input \({_N} tokens\)"),
    ("port", r"(?:0\.0\.0\.0|127\.0\.0\.1|\[?::\]?|localhost)['\"]?(?:, |:)(\d{2,5})\b"),
    ("port", r"\bport[ =:]{1,2}(\d{2,5})\b"),
    ("xid", r"\bxid\b\W{0,4}(?:\(pci:[^)]{1,40}\)\W{0,3})?(\d{1,3})\b"),
    ("driver_cuda_version", rf"found version {_N}"),
    ("cuda_error", r"\berror (80[234]|100|101)\b"),
    ("preemptions", rf"num_cumulative_preemption={_N}"),
    ("shm_bytes", rf"/dev/shm has only {_N} bytes"),  # noqa: S108
    ("shm_bytes", rf"to requested size \({_N} bytes\)"),
    ("rpm_limit", rf"rpm limit: {_N}"),
    ("tpm_limit", rf"tpm limit: {_N}"),
    ("current_tpm", rf"current tpm: {_N}"),
    ("retry_after_s", rf"try again in {_N} seconds"),
    ("blocks_needed_multiple", rf"weight quantization block_n = {_N}"),
)
_SIZES: tuple[tuple[str, str], ...] = (
    ("kv_needed_gib", rf"\(?{_GIB} kv cache is needed"),
    ("kv_available_gib", rf"available kv cache memory \({_GIB}\)"),
    ("kv_available_gib", rf"available kv cache memory: {_GIB}"),
    ("kv_available_gib", rf"reserved for kv cache is {_GIB}"),
    ("tried_gib", rf"tried to allocate {_GIB}"),
    ("gpu_total_gib", rf"total capacity of {_GIB}"),
    ("gpu_total_gib", rf"; {_GIB} total capacity"),
    ("gpu_total_gib", rf"total_gpu_memory \({_GIB}\)"),
    ("gpu_free_gib", rf"of which {_GIB} is free"),
    ("gpu_free_gib", rf"; {_GIB} free;"),
    ("own_process_gib", rf"this process has {_GIB}"),
    ("desired_gib", rf"gpu memory utilization \([\d.]{{1,8}}, {_GIB}\)"),
)
_WORDS: tuple[tuple[str, str], ...] = (
    ("vllm_version", r"(?:api server version|llm engine \(v|[█▀▄] +version) ?v?(\d[\w.+]{1,30})"),
    ("model", r"[█▀▄] +model +(\S{1,200})"),
    ("model", r"\bmodel='([^']{1,200})'"),
    ("model", r"repo_name': '([^']{1,200})'"),
    ("model", r"'model(?:_tag)?': '([^']{1,200})'"),
    ("model", r"huggingface\.co/(?:api/models/)?([\w.-]{1,96}/[\w.-]{1,96})"),
    ("model", r"(?i)the model `([^`]{1,200})` does not exist"),
    ("quantization", r"quantization method (\w{2,24}) is not supported"),
    ("quantization_in_config", r"model config \((\w{2,24})\)"),
    ("quantization_argument", r"argument \((\w{2,24})\)"),
    ("argument", r"unrecognized arguments?: (--?[\w-]{1,60})"),
    ("argument", r"(?:no such option|unexpected argument|invalid argument):? '?(--?[\w-]{1,60})"),
    ("argument", r"error: argument (--?[\w/-]{1,80})"),
    ("backend", r"(?i)cannot connect to host ([\w.-]{1,120}:\d{2,5})"),
    ("backend", r"connect call failed \('([^']{1,120}', \d{2,5})"),
    ("missing_library", r"(lib[\w.-]{2,60}\.so[\w.]{0,12}): cannot open"),
    ("gpu", r"(?i)your ([\w .-]{3,60}?) gpu has compute capability"),
)
_COMPILED = (
    [("n", name, re.compile(rx, re.I)) for name, rx in _NUMBERS]
    + [("g", name, re.compile(rx, re.I)) for name, rx in _SIZES]
    + [("w", name, re.compile(rx)) for name, rx in _WORDS]
)

_DEVICE = re.compile(
    r"free memory on device\D{0,12}(?:\d{1,3})?\)? ?\((-?[\d.]{1,9})/([\d.]{1,9}) gib\)", re.I
)
_PROCESS = re.compile(rf"(?<!this )\bprocess (\d{{1,10}}) has {_GIB} memory in use", re.I)
_OWN = re.compile(rf"this process has {_GIB}", re.I)
_TOTAL = re.compile(rf"total capacity of {_GIB}", re.I)
_UNITS = {"k": 1 / 1048576, "m": 1 / 1024, "g": 1.0, "t": 1024.0, "b": 1 / 1073741824}


def _number(text: str) -> int | float:
    plain = text.replace(",", "").rstrip(".")
    return float(plain) if "." in plain else int(plain)


def _gib(value: str, unit: str) -> float:
    return round(float(value) * _UNITS[unit[0].lower()], 4)


def held_by_others(line: str) -> bool:
    """True where an out-of-memory line shows that other processes hold most of the device."""
    total, own = _TOTAL.search(line), _OWN.search(line)
    if total is None or own is None:
        return False
    size = _gib(*total.groups())
    others = sum(_gib(value, unit) for _, value, unit in _PROCESS.findall(line))
    return others > size / 2 and _gib(*own.groups()) < size * 0.3


def facts_of(hits: Iterable[_Line], settings: Iterable[str]) -> Facts:
    """What the deciding lines state; what the settings lines state fills the gaps."""
    facts: Facts = {}
    for line in [hit.text for hit in hits][:16] + list(settings):
        _read(line, facts)
    if "configured_max_model_len" in facts:
        facts.setdefault("requested_max_model_len", facts.pop("configured_max_model_len"))
    return facts


def _read(line: str, facts: Facts) -> None:
    device = _DEVICE.search(line)
    if device:
        facts.setdefault("gpu_free_gib", float(device[1]))
        facts.setdefault("gpu_total_gib", float(device[2]))
    pids = list(dict.fromkeys(pid for pid, _, _ in _PROCESS.findall(line)))[:8]
    if pids:
        facts.setdefault("holder_pids", ",".join(pids))
    for kind, name, pattern in _COMPILED:
        if name in facts:
            continue
        match = pattern.search(line)
        if match is None:
            continue
        try:
            if kind == "n":
                facts[name] = _number(match[1])
            elif kind == "g":
                facts[name] = _gib(match[1], match[2])
            else:
                facts[name] = redact(match[1].replace("', ", ":"))
        except ValueError:
            continue
