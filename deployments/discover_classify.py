"""One container: its inspect document and what its ports answered -> `Found`. Pure."""

import json
import re
from collections.abc import Sequence
from typing import Any

from blocks.docker_inspect import Doc, env_of, name_of, refusal, state_of
from blocks.docker_successor import read_config
from blocks.errors import RunbookError
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource
from deployments import discover_static as static
from deployments.discover_found import Found, Kind, Probe

PATHS: dict[Kind, tuple[str, ...]] = {
    "vllm": ("/health", "/version", "/v1/models"),
    "litellm": ("/health/liveliness", "/v1/models"),
    "qdrant": ("/", "/readyz"),
    "open-webui": ("/health",),
    "prometheus": ("/-/ready", "/api/v1/status/buildinfo", "/api/v1/targets?state=active"),
    "alertmanager": ("/-/ready", "/api/v2/status"),
    "node-exporter": ("/",),
    "dcgm-exporter": ("/",),
    "other": (
        "/",
        "/version",
        "/v1/models",
        "/health/liveliness",
        "/readyz",
        "/api/v1/status/buildinfo",
        "/api/v1/targets?state=active",
        "/api/v2/status",
        "/api/config",
        "/metrics",
    ),
}
"""What is asked of a port, GET only: of the unknown ones everything that identifies a kind."""
_FIELDS = ("max_model_len", "gpu_memory_utilization", "max_num_seqs")
_MODEL = re.compile(r"[\w][\w.:+ -]*(/[\w.:+ -]+)*|(/[\w.:+ -]+)+")


def classify(doc: Doc, probes: Sequence[Probe], machine: str = "") -> Found:
    """What one container is, and all an inventory needs of it.

    Args:
        doc: `docker inspect` of it.
        probes: what its addresses answered, the likeliest first; for one that is down, its
            addresses with no replies.
        machine: host name of the engine's machine.
    """
    kind, how = static.guess(doc)
    running = bool(doc["State"].get("Running"))
    left = _left_over(doc)
    certain = kind != "other"
    chosen = probes[0] if probes else None
    for probe in probes:
        by_answer = identify(probe)
        if by_answer and by_answer[0] == kind or (by_answer and kind == "other"):
            chosen = probe
            kind, how = (kind, how) if certain else by_answer
            break
    if left:
        kind, how = "other", "left by a change that was cut short, or is under way"
    state, compose = state_of(doc), static.compose_of(doc)
    inside = chosen.address.inside if chosen else static.port_of(doc, kind)
    found = Found(
        container=name_of(doc),
        image=str(doc["Config"].get("Image") or ""),
        kind=kind,
        how=how,
        certain=certain,
        running=running,
        state=state.phase if state.exit_code is None else f"{state.phase} {state.exit_code}",
        address=chosen.address if chosen and kind != "other" else None,
        answered=bool(chosen.replies) if running and chosen else None,
        ports=tuple(f"{p}->{i}" for i, _, p in static.published(doc)),
        names=static.names_of(doc, machine, inside),
        compose=compose,
        refusal=_refusal(doc),
    )
    if kind == "vllm":
        return found.model_copy(update=_vllm(doc, chosen))
    if kind == "litellm":
        return found.model_copy(update=_litellm(doc, chosen))
    return found


def identify(probe: Probe) -> tuple[Kind, str] | None:
    """The kind that the answers of one address prove, and how; None where they prove none."""
    models, root = probe.ok("/v1/models"), probe.ok("/")
    owners = [m.get("owned_by") for m in _models(models)]
    if "vllm" in owners and _has(probe.ok("/version"), "version"):
        return "vllm", "answers /version, and /v1/models as vLLM"
    metrics = str(probe.ok("/metrics") or "")
    if "vllm:num_requests_running" in metrics:
        return "vllm", "answers /metrics as vLLM"
    alive = probe.ok("/health/liveliness")
    if isinstance(alive, str) and len(alive) < 100 and "alive" in alive.lower():
        return "litellm", "answers /health/liveliness"
    if _has(root, "title") and str(root["title"]).lower().startswith("qdrant"):
        return "qdrant", "answers / as Qdrant"
    if _has(probe.ok("/api/config"), "name") and "open webui" in str(
        probe.ok("/api/config")["name"]
    ).lower().replace("-", " "):
        return "open-webui", "answers /api/config as Open WebUI"
    build = probe.ok("/api/v1/status/buildinfo")
    if _has(build, "data") and _has(build["data"], "version"):
        return "prometheus", "answers /api/v1/status/buildinfo"
    if _has(status := probe.ok("/api/v2/status"), "versionInfo") and _has(status, "cluster"):
        return "alertmanager", "answers /api/v2/status"
    if "\nnode_cpu_seconds_total" in metrics:
        return "node-exporter", "answers /metrics as node_exporter"
    if "\nDCGM_FI_" in metrics:
        return "dcgm-exporter", "answers /metrics as dcgm-exporter"
    return None


def targets(probe: Probe) -> list[tuple[str, dict[str, str]]]:
    """(`host:port` that is scraped, {instance, job}) of a Prometheus's active targets."""
    body = probe.ok("/api/v1/targets?state=active")
    data = body.get("data") if isinstance(body, dict) else None
    rows: list[tuple[str, dict[str, str]]] = []
    active = data.get("activeTargets") if isinstance(data, dict) else None
    for target in active[:5000] if isinstance(active, list) else []:
        labels = target.get("labels") if isinstance(target, dict) else None
        url = str(target.get("scrapeUrl") or "") if isinstance(target, dict) else ""
        place = url.partition("://")[2].partition("/")[0].lower()
        if isinstance(labels, dict) and place:
            kept = {k: str(labels[k]) for k in ("instance", "job") if labels.get(k)}
            rows.append((place if ":" in place else f"{place}:80", kept))
    return rows


def _vllm(doc: Doc, probe: Probe | None) -> dict[str, Any]:
    """The fields of a vLLM server."""
    env, config, note = _variables(doc), ServingConfig(), ""
    try:
        config = read_config(doc, ArgumentsSource(env=env))
    except RunbookError:
        # Its text may repeat a word of the command line, and any of them may be a secret.
        note = "its arguments could not be read as vLLM's; `runbooks doctor` says why"
        env = {}
    models = _models(probe.ok("/v1/models")) if probe else []
    length = models[0].get("max_model_len") if models else None
    length = length if type(length) is int and length > 0 else None
    if length and config.max_model_len not in (None, length):
        env.pop("max_model_len", None)  # a variable that the server does not heed
        note = note or f"it serves max_model_len {length}, not what is written"
    served = _safe(config.served_model_name) or _safe(models[0].get("id") if models else None)
    file, file_note = static.config_file(doc)
    key = static.named_in(doc, "VLLM_API_KEY") or (
        "--api-key" if static.has_flag(doc, "--api-key") else None
    )
    why = f"it has {key}" if key else ""
    if probe and probe.status("/v1/models") in (401, 403):
        why = why or f"/v1/models answered {probe.status('/v1/models')}"
    return {
        "config": config.changed(
            model=_safe(config.model),
            served_model_name=served,
            quantization=_safe(config.quantization),
        ),
        "config_note": note,
        "env": env,
        "length": length,
        "served": served,
        "file": file,
        "file_note": file_note,
        "wants_key": bool(why),
        "key_why": why,
        "tls": bool(probe and probe.address.url.startswith("https:")),
    }


def _litellm(doc: Doc, probe: Probe | None) -> dict[str, Any]:
    """The fields of a LiteLLM proxy."""
    file, note = static.config_file(doc)
    key = static.named_in(doc, "LITELLM_MASTER_KEY")
    why = f"it has {key}" if key else ""
    if probe and probe.status("/v1/models") in (400, 401, 403):
        why = why or f"/v1/models answered {probe.status('/v1/models')}"
    return {"file": file, "file_note": note, "wants_key": bool(why), "key_why": why}


def _variables(doc: Doc) -> dict[str, str]:
    """Serving field -> variable that sets it: one in its flag's place, or one of a script's.

    A script that starts the server is taken to heed MAX_MODEL_LEN and its like; `vllm serve` in
    the command itself does not.
    """
    env, plain = env_of(doc), static.starts_vllm(doc)
    found: dict[str, str] = {}
    for field in _FIELDS:
        flag = static.flag_value(doc, "--" + field.replace("_", "-"), "--" + field)
        if flag is not None:
            if match := re.fullmatch(r"\$\{?([A-Za-z_]\w*)(:?-[^}]*)?\}?", flag):
                found[field] = match[1]
        elif not plain:
            names = (field.upper(), f"VLLM_{field.upper()}")
            given = [n for n in names if re.fullmatch(r"\d+(\.\d+)?", env.get(n, ""))]
            found |= {field: given[0]} if given else {}
    return found


def _left_over(doc: Doc) -> bool:
    return name_of(doc).endswith((".runbooks-new", ".runbooks-old"))


def _refusal(doc: Doc) -> str:
    error = refusal(doc, recreate=True)
    return str(error) if error else ""


def _models(body: Any) -> list[dict[str, Any]]:
    data = body.get("data") if isinstance(body, dict) else None
    return [m for m in data if isinstance(m, dict)] if isinstance(data, list) else []


def _has(body: Any, key: str) -> bool:
    return isinstance(body, dict) and key in body


def _safe(name: Any) -> str | None:
    """A model's name or path; None for what may hold a credential (URLs with @ or ?)."""
    if not isinstance(name, str) or len(name) > 200 or not _MODEL.fullmatch(name):
        return None
    return name


def body_of(raw: bytes) -> Any:
    """JSON where it is JSON, else the text."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode(errors="replace")
