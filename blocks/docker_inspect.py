"""Pure readings of one `docker inspect` document (Docker Engine API `GET /containers/{id}/json`).

No I/O: every function takes the document as a dict and may be tested with a capture.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from posixpath import normpath
from typing import Any

from blocks.errors import Permanent, RunbookError, Unsafe
from blocks.models import Phase, ServiceState

Doc = Mapping[str, Any]
CHANGE_LABEL = "llm-runbooks.change"
"""Label of a container this product made; its value names the change (run id, random part)."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_PHASES: dict[str, Phase] = {
    "running": "running",
    "restarting": "restarting",
    "exited": "exited",
    "created": "exited",
    "dead": "exited",
}


def name_of(doc: Doc) -> str:
    """The container's name without Docker's leading slash."""
    return str(doc["Name"]).lstrip("/")


def labels_of(doc: Doc) -> dict[str, str]:
    """Labels; empty when there are none."""
    return dict(doc["Config"].get("Labels") or {})


def is_up(doc: Doc) -> bool:
    """True while it runs or its restart policy is about to start it again."""
    state = doc["State"]
    return bool(state.get("Running") or state.get("Restarting"))


def policy_of(doc: Doc) -> dict[str, Any]:
    """The restart policy as {"Name", "MaximumRetryCount"}; Docker's "" is read as "no"."""
    policy = doc["HostConfig"].get("RestartPolicy") or {}
    return {
        "Name": policy.get("Name") or "no",
        "MaximumRetryCount": policy.get("MaximumRetryCount") or 0,
    }


def argv_of(doc: Doc) -> list[str]:
    """What is executed: the entrypoint's words, then the command's."""
    return [*(doc["Config"].get("Entrypoint") or []), *(doc["Config"].get("Cmd") or [])]


def env_of(doc: Doc) -> dict[str, str]:
    """The environment; an entry without `=` is left out."""
    entries = doc["Config"].get("Env") or []
    return {k: v for k, eq, v in (e.partition("=") for e in entries) if eq}


def time_of(text: str | None) -> datetime | None:
    """Docker's RFC 3339 time with nanoseconds, cut to microseconds; its year 1 means never."""
    match = _TIME.fullmatch(text or "")
    if not match or match[1].startswith("0001-"):
        return None
    return datetime.fromisoformat(f"{match[1]}{(match[2] or '')[:7]}{match[3]}")


def state_of(doc: Doc) -> ServiceState:
    """What the engine says of one container.

    A health check that has not passed yet is no phase of its own: the phase is `running` and
    `detail` says so. `exit_code` is None while it runs; while it is being restarted it is the
    last one. A paused container is `unknown`: it is there, it does nothing.
    """
    state = doc["State"]
    status = str(state.get("Status", ""))
    phase = _PHASES.get(status, "unknown")
    details = [str(state["Error"])] if state.get("Error") else []
    if status not in ("running", "exited", "restarting"):
        details.append({"created": "created, never started"}.get(status, status))
    health = (state.get("Health") or {}).get("Status")
    if phase == "running" and health not in (None, "none"):
        details.append(f"health: {health}")
    started = time_of(state.get("StartedAt"))
    finished = time_of(state.get("FinishedAt"))
    ended = phase != "running" and bool(started or state.get("Error"))
    return ServiceState(
        phase=phase,
        exit_code=state.get("ExitCode") if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        restarts=int(doc.get("RestartCount") or 0),
        started_at=started,
        finished_at=finished,
        instance=str(doc["Id"]),
        detail="; ".join(details),
    )


def refusal(doc: Doc, recreate: bool) -> RunbookError | None:
    """Why this container must not be changed, or None.

    `Unsafe("blast-radius")` where acting would lose the way back or work against the tool
    that owns the container; `Permanent` where an operator has to bring it into a state first.

    Args:
        doc: the container's inspect document.
        recreate: True for a new container in its place, False for a restart of the same one.
    """
    name, labels = name_of(doc), labels_of(doc)
    config, state = doc["HostConfig"], doc["State"]
    for label, owner in (
        ("com.docker.swarm.task.id", "Docker Swarm: use docker service update"),
        ("io.kubernetes.pod.name", "Kubernetes: change its Deployment"),
    ):
        if label in labels:
            return Unsafe("blast-radius", f"container {name} belongs to {owner}")
    if recreate and (project := labels.get("com.docker.compose.project")):
        return Unsafe(
            "blast-radius",
            f"container {name} is managed by Docker Compose (project {project}), which would put "
            "its own version back: use the compose runtime, which arrives with the Changes "
            "release; or change the compose file",
        )
    if config.get("AutoRemove"):
        return Unsafe(
            "blast-radius",
            f"container {name} was started with --rm: stopping it deletes it, and with it the way "
            "back; start it again without --rm",
        )
    if state.get("Paused"):
        return Permanent(f"container {name} is paused; look why, then: docker unpause {name}")
    if state.get("Dead") or state.get("Status") in ("dead", "removing"):
        return Permanent(
            f"container {name} is {state.get('Status')}: the engine could not remove it; "
            f"finish that first: docker rm {name}"
        )
    return None


def sharing_network(doc: Doc, others: Sequence[Doc]) -> list[str]:
    """Names of containers that live in this one's network namespace and would lose it.

    Args:
        doc: the container's inspect document.
        others: items of `GET /containers/json?all=1`.
    """
    mine = {f"container:{doc['Id']}", f"container:{name_of(doc)}"}
    return sorted(
        str(other["Names"][0]).lstrip("/")
        for other in others
        if (other.get("HostConfig") or {}).get("NetworkMode") in mine and other.get("Names")
    )


def declared_endpoint(doc: Doc, endpoint: Doc) -> dict[str, Any]:
    """What an operator set on one network endpoint; the rest is assigned by the engine.

    Left out: the alias that is the container's own short id, and empty values.
    """
    declared = {
        "IPAMConfig": endpoint.get("IPAMConfig"),
        "Links": endpoint.get("Links"),
        "Aliases": [a for a in endpoint.get("Aliases") or [] if a != doc["Id"][:12]],
        "DriverOpts": endpoint.get("DriverOpts"),
        "GwPriority": endpoint.get("GwPriority"),
    }
    return {k: v for k, v in declared.items() if v}


def networks_of(doc: Doc) -> dict[str, dict[str, Any]]:
    """Network name -> declared endpoint settings."""
    networks = (doc.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: declared_endpoint(doc, ep or {}) for name, ep in networks.items()}


def links_of(doc: Doc) -> list[str]:
    """Legacy links as they are declared: Docker shows "/db:/vllm/alias", it takes "db:alias"."""
    pairs = (link.split(":", 1) for link in doc["HostConfig"].get("Links") or [])
    return sorted(f"{target.lstrip('/')}:{path.rsplit('/', 1)[-1]}" for target, path in pairs)


def volume_at(doc: Doc, target: str) -> str | None:
    """Name of the volume mounted at `target`, or None."""
    for mount in doc.get("Mounts") or []:
        if mount.get("Type") == "volume" and mount.get("Destination") == normpath(target):
            return str(mount["Name"])
    return None


def settings_diff(before: Doc, after: Doc) -> dict[str, tuple[Any, Any]]:
    """What an operator set and what differs between two inspect documents.

    Compared: the image, Config, HostConfig, the mounts and the declared endpoint settings of
    every network. Ignored: ids, times, run state, addresses the engine assigned, the generated
    hostname, this product's own label, and whether a volume is named in Binds or was anonymous
    (the volume itself is compared).

    Returns:
        Dotted name -> (before, after), None for absent; empty when nothing differs. Values of
        arguments and variables whose name speaks of a secret are masked.
    """
    mine, theirs = _settings(before), _settings(after)
    return {
        key: (_masked(key, mine.get(key)), _masked(key, theirs.get(key)))
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    }


_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_COUNTS = re.compile(r"tokens|tokenizer|max[-_]|num[-_]", re.IGNORECASE)
_NOT_COMPARED = {"Hostname", "Env", "Labels", "Binds", "Mounts", "Links", "RestartPolicy"}


def _settings(doc: Doc) -> dict[str, Any]:
    """Dotted name -> value, with what two equal containers may write differently made equal."""
    config, host = doc["Config"], doc["HostConfig"]
    flat: dict[str, Any] = {"Image": doc.get("Image")}
    for part, values in (("Config", config), ("HostConfig", host)):
        flat |= {f"{part}.{k}": v for k, v in values.items() if k not in _NOT_COMPARED}
    if config.get("Hostname") != doc["Id"][:12]:
        flat["Config.Hostname"] = config.get("Hostname")
    for entry in config.get("Env") or []:
        name, _, value = entry.partition("=")
        flat[f"Config.Env.{name}"] = value
    for name, value in labels_of(doc).items():
        if name != CHANGE_LABEL:
            flat[f"Config.Labels.{name}"] = value
    flat["HostConfig.RestartPolicy"] = policy_of(doc)
    flat["HostConfig.Links"] = links_of(doc)
    for mount in doc.get("Mounts") or []:
        source = mount.get("Name") or mount.get("Source")
        modes = set(str(mount.get("Mode") or "").split(",")) - {"", "rw", "ro"}
        if mount.get("Type") == "volume":
            modes -= {"z", "nocopy"}  # what Docker writes by itself, what a pinned volume has
        flat[f"Mounts.{mount['Destination']}"] = [
            mount.get("Type"),
            source,
            bool(mount.get("RW")),
            mount.get("Propagation"),
            *sorted(modes),
        ]
    for mount in host.get("Mounts") or []:
        options = {k: v for k, v in mount.items() if k.endswith("Options") or k == "Consistency"}
        flat[f"HostConfig.Mounts.{mount.get('Target')}"] = options
    for name, endpoint in networks_of(doc).items():
        flat[f"Networks.{name}"] = {"connected": True, **endpoint}
    return {k: v for k, v in flat.items() if v is not None and v not in ("", [], {})}


def _masked(key: str, value: Any) -> Any:
    """The value, with what follows a secret's name replaced by ***."""
    if key.startswith(("Config.Env.", "Config.Labels.")):
        return "***" if value is not None and _is_secret(key.split(".", 2)[2]) else value
    if isinstance(value, list) and key in ("Config.Cmd", "Config.Entrypoint"):
        return masked_words(value)
    return value


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _COUNTS.search(name)


def masked_words(words: Sequence[str]) -> list[str]:
    """Arguments with the values of secret-looking flags replaced by ***.

    Inside a shell string (`sh -c "..."`) the same is done word by word.
    """
    out: list[str] = []
    hide = False
    for word in words:
        if " " in word.strip():
            parts = re.split(r"(\s+)", word)
            shown = masked_words([p for p in parts[::2]])
            out.append("".join(a + b for a, b in zip(shown, [*parts[1::2], ""], strict=True)))
            hide = False
            continue
        flag, eq, _ = word.partition("=")
        if hide and not word.startswith("-"):
            out.append("***")
        elif eq and _is_secret(flag):
            out.append(f"{flag}=***")
        else:
            out.append(word)
        # --api-key takes several values; the last of them may be followed by a flag only.
        hide = (
            word.startswith("-")
            and not eq
            and _is_secret(word)
            or (hide and not word.startswith("-"))
        )
    return out
