"""What one inspect document tells without asking the server: kind, addresses, files. Pure."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from posixpath import join, normpath
from typing import Any

from blocks.docker_inspect import Doc, argv_of, env_of, labels_of, name_of
from deployments.discover_found import DEFAULT_PORT, Address, Compose, Kind

MAX_PORTS = 4
"""Of one container that are asked; a service has one or two."""
_IMAGES: tuple[tuple[Kind, str], ...] = (
    ("vllm", r"(.*/)?vllm-openai[^/]*|(.*/)?vllm"),
    ("litellm", r".*litellm[^/]*"),
    ("qdrant", r"(.*/)?qdrant/qdrant[^/]*|qdrant"),
    ("open-webui", r".*open-?webui[^/]*"),
    ("node-exporter", r"(.*/)?node[-_]exporter"),
    ("dcgm-exporter", r"(.*/)?dcgm-exporter"),
    ("alertmanager", r"(.*/)?(prom/)?alertmanager"),
    ("prometheus", r"(.*/)?(prom|bitnami|ubuntu|prometheus)/prometheus|prometheus"),
)
_PROGRAMS: dict[str, Kind] = {
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "qdrant": "qdrant",
    "node_exporter": "node-exporter",
    "dcgm-exporter": "dcgm-exporter",
}
_PROJECTS: tuple[tuple[Kind, str], ...] = (
    ("vllm", r"(.*/vllm-project/)?vllm(-openai)?"),
    ("litellm", r"(.*/BerriAI/)?litellm"),
    ("qdrant", r"(.*/qdrant/)?qdrant"),
    ("open-webui", r"(.*/open-webui/)?open[- ]webui"),
    ("prometheus", r"(.*/prometheus/)?prometheus"),
    ("alertmanager", r"(.*/prometheus/)?alertmanager"),
    ("node-exporter", r"(.*/prometheus/)?node[-_]exporter"),
)
_TITLES = tuple(f"org.opencontainers.image.{x}" for x in ("title", "source", "url"))
_VLLM = re.compile(r"(?:^|[\s/;&|(])vllm\s+serve(?:\s|$)|vllm\.entrypoints\.[\w.]*api_server")


def guess(doc: Doc) -> tuple[Kind, str]:
    """What a container is by its command, image or labels, and how that is known; else `other`."""
    argv, image = words_of(doc), str(doc["Config"].get("Image") or "")
    line = " ".join(argv)
    if match := _VLLM.search(line):
        return "vllm", f"command {match[0].strip(' /;&|(').replace('  ', ' ')}"
    programs = [PurePosixPath(w).name for w in argv]
    if "litellm" in programs and has_flag(doc, "--config", "-c"):
        return "litellm", "command litellm --config"
    if programs and (kind := _PROGRAMS.get(programs[0])):
        return kind, f"command {programs[0]}"
    repository = re.sub(r"(:[^/:]*)?(@.*)?$", "", image)
    for kind, pattern in _IMAGES:
        if re.fullmatch(pattern, repository, re.IGNORECASE):
            return kind, f"image {repository}"
    labels = labels_of(doc)
    for title in _TITLES:
        value = labels.get(title, "").rstrip("/").removesuffix(".git")
        for kind, pattern in _PROJECTS:
            if value and re.fullmatch(pattern, value, re.IGNORECASE):
                return kind, f"label {title}"
    return "other", ""


def words_of(doc: Doc) -> list[str]:
    """Entrypoint and command as single words, those of a shell string too."""
    words: list[str] = []
    for word in map(str, argv_of(doc)):
        if not re.search(r"\s", word):
            words.append(word)
            continue
        try:
            words += shlex.split(word)
        except ValueError:
            words += word.split()
    return words


def has_flag(doc: Doc, *names: str) -> bool:
    """Whether one of these flags is among the arguments."""
    return any(w.partition("=")[0] in names for w in words_of(doc))


def flag_value(doc: Doc, *names: str) -> str | None:
    """The value of the last of these flags among the arguments; None without one."""
    return _flag(words_of(doc), *names)


def starts_vllm(doc: Doc) -> bool:
    """Whether the command itself starts vLLM, and no script in between."""
    return bool(_VLLM.search(" ".join(words_of(doc))))


def _flag(words: Sequence[str], *names: str) -> str | None:
    """The value of the last of these flags."""
    found = None
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else (words[at + 1] if at + 1 < len(words) else None)
    return found


def port_of(doc: Doc, kind: Kind) -> int | None:
    """The port its server listens on: its flag, else the usual one; None for `other`."""
    words = words_of(doc)
    text = _flag(words, "--port") or _flag(words, "--web.listen-address") or ""
    port = text.rpartition(":")[2]
    if port.isdecimal() and 0 < int(port) < 65536:
        return int(port)
    return DEFAULT_PORT.get(kind)


def addresses(doc: Doc, kind: Kind, engine: str, local: bool) -> list[Address]:
    """The ways to its TCP ports from this machine, the likeliest first; at most `MAX_PORTS`.

    Args:
        doc: inspect document.
        kind: what it was taken for.
        engine: host name of the engine's machine, as its address has it.
        local: whether that is this machine.
    """
    wanted = port_of(doc, kind)
    scheme = "https" if has_flag(doc, "--ssl-certfile", "--ssl_certfile_path") else "http"
    here = "127.0.0.1" if local else engine
    config, running = doc["HostConfig"], bool(doc["State"].get("Running"))
    network = str(config.get("NetworkMode") or "")
    found: list[Address] = []

    def add(host: str, port: int, inside: int, note: str = "") -> None:
        shown = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{shown}:{port}"
        if url not in [a.url for a in found]:
            found.append(Address(url=url, inside=inside, note=note))

    exposed = [p for p in map(_tcp, doc["Config"].get("ExposedPorts") or {}) if p]
    if network == "host":
        for port in [wanted] if wanted else exposed:
            add(here, port, port, "on the host's network")
    elif not network.startswith("container:"):
        for inside, host, port in published(doc):
            if host in ("", "0.0.0.0", "::"):  # noqa: S104 - what Docker writes, nothing is bound
                add(here, port, inside)
            elif local or not host.startswith(("127.", "::1")):
                add(host, port, inside)
            else:
                add(here, port, inside, f"published on {host} of that machine only: not from here")
        if not found and running and local and (ip := _ip(doc)):
            note = "not published: the container's own address, gone when it is made anew"
            for port in [wanted] if wanted else exposed:
                add(ip, port, port, note)
    found.sort(key=lambda a: a.inside != wanted)
    return found[:MAX_PORTS]


def published(doc: Doc) -> list[tuple[int, str, int]]:
    """(port inside, host address, port outside) of every published TCP port, down or up."""
    live = (doc.get("NetworkSettings") or {}).get("Ports") or {}
    declared = doc["HostConfig"].get("PortBindings") or {}
    rows: list[tuple[int, str, int]] = []
    for name, bindings in (live if any(live.values()) else declared).items():
        inside = _tcp(name)
        for binding in bindings or []:
            port = str(binding.get("HostPort") or "")
            if inside and port.isdecimal() and 0 < int(port) < 65536:
                rows.append((inside, str(binding.get("HostIp") or ""), int(port)))
    # The same port on IPv4 and IPv6 is one way to it.
    return sorted(rows, key=lambda r: (r[0], ":" in r[1], r))


def names_of(doc: Doc, machine: str, inside: int | None) -> tuple[str, ...]:
    """`host:port` under which others know the server at this port of the container."""
    if inside is None:
        return ()
    hosts = {name_of(doc), str(doc["Id"])[:12], str(doc["Config"].get("Hostname") or "")}
    compose = compose_of(doc)
    hosts |= {compose.service} if compose else set()
    outer = {(p, i) for i, _, p in published(doc)}
    on_host = doc["HostConfig"].get("NetworkMode") == "host"
    outer |= {(inside, inside)} if on_host else set()
    around = {"127.0.0.1", "localhost", "host.docker.internal", "172.17.0.1", machine.lower()}
    networks = (doc.get("NetworkSettings") or {}).get("Networks") or {}
    for endpoint in networks.values():
        hosts |= {str(a) for a in (endpoint or {}).get("Aliases") or []}
        hosts |= {str((endpoint or {}).get("IPAddress") or "")}
        around |= {str((endpoint or {}).get("Gateway") or "")}
    known = {f"{h.lower()}:{inside}" for h in hosts if h and not on_host}
    known |= {f"{h}:{port}" for h in around if h for port, i in outer if i == inside}
    return tuple(sorted(known))


def compose_of(doc: Doc) -> Compose | None:
    """Docker Compose's labels, or None."""
    labels, prefix = labels_of(doc), "com.docker.compose."
    project, service = labels.get(prefix + "project"), labels.get(prefix + "service")
    if not project or not service:
        return None
    files = labels.get(prefix + "project.config_files", "")
    return Compose(
        project=project,
        service=service,
        directory=labels.get(prefix + "project.working_dir", ""),
        files=tuple(f for f in files.split(",") if f),
    )


def config_file(doc: Doc) -> tuple[str | None, str]:
    """The `--config` file's path on the engine's host, or None and why, if it has one."""
    words = words_of(doc)
    programs = [PurePosixPath(w).name for w in words]
    # `-c` is LiteLLM's; before that word it is a shell's, and what follows it is a script.
    mine = words[programs.index("litellm") :] if "litellm" in programs else []
    inside = _flag(words, "--config") or _flag(mine, "-c")
    if not inside:
        return None, ""
    inside = normpath(join(str(doc["Config"].get("WorkingDir") or "/"), inside))
    best: tuple[str, str] | None = None
    for mount in doc.get("Mounts") or []:
        at = normpath(str(mount.get("Destination") or "/"))
        covers = inside == at or inside.startswith(at.rstrip("/") + "/")
        if mount.get("Type") == "bind" and covers and (best is None or len(at) > len(best[0])):
            best = (at, str(mount.get("Source") or ""))
    if not best or not best[1]:
        return None, "its --config file is inside the container, not bind-mounted"
    rest = inside[len(best[0].rstrip("/")) :] if inside != best[0] else ""
    return normpath(best[1].rstrip("/") + rest), ""


def named_in(doc: Doc, *names: str) -> str | None:
    """The first of these variables that the container has a value for; never the value."""
    env = env_of(doc)
    return next((n for n in names if env.get(n)), None)


def _tcp(name: str) -> int | None:
    port, _, protocol = name.partition("/")
    return int(port) if port.isdecimal() and protocol in ("", "tcp") else None


def _ip(doc: Doc) -> str:
    networks: dict[str, Any] = (doc.get("NetworkSettings") or {}).get("Networks") or {}
    found = [str((e or {}).get("IPAddress") or "") for e in networks.values()]
    return next((ip for ip in found if ip), "")
