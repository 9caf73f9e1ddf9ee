"""The body that creates a container's successor: the same in all but the serving numbers. Pure.

It is built from the raw inspect document, so that what this product does not know survives.
Fidelity (source: Docker Engine API, moby daemon/create.go and runconfig): a hostname that is
the id's start, and the alias of the same form, are not copied; what an entrypoint or a shared
network forbids is left out; anonymous volumes are carried over by name.
"""

from posixpath import normpath
from typing import Any

from blocks.docker_inspect import (
    CHANGE_LABEL,
    Doc,
    argv_of,
    declared_endpoint,
    env_of,
    labels_of,
    links_of,
    volume_at,
)
from blocks.models import ServingConfig
from blocks.service import ArgumentsSource
from blocks.serving_arguments import edit_arguments, read_arguments

NO_RESTART: dict[str, Any] = {"Name": "no", "MaximumRetryCount": 0}
_NETWORKS_AT_CREATE = (1, 44)
"""First API version that takes several networks, and hardware addresses, when creating."""


def read_config(doc: Doc, source: ArgumentsSource) -> ServingConfig:
    """The serving config in a container's entrypoint, command and environment."""
    return read_arguments(argv_of(doc), env_of(doc), source)


def edited(
    doc: Doc, source: ArgumentsSource, before: ServingConfig, after: ServingConfig
) -> dict[str, Any]:
    """Entrypoint, Cmd and Env of the container as they would be with `after`.

    What is executed is entrypoint + command, so the flags may stand in either. The edited words
    are divided again where they were: at the entrypoint's end, or before an unchanged command.

    Raises:
        Unsafe: `drifted`. Permanent: not editable (see `edit_arguments`).
    """
    entrypoint, command = doc["Config"].get("Entrypoint") or [], doc["Config"].get("Cmd") or []
    env = env_of(doc)
    argv, new_env = edit_arguments([*entrypoint, *command], env, source, before, after)
    at = len(entrypoint)
    if argv[:at] != entrypoint and command and argv[-len(command) :] == command:
        at = len(argv) - len(command)
    entries = [
        f"{key}={new_env[key]}" if eq and new_env[key] != env[key] else entry
        for entry in doc["Config"].get("Env") or []
        for key, eq, _ in [entry.partition("=")]
        if not eq or key in new_env
    ]
    entries += [f"{key}={value}" for key, value in new_env.items() if key not in env]
    return {
        # An empty entrypoint in a request means "the image's"; [""] means "none".
        "Entrypoint": argv[:at] or [""],
        "Cmd": argv[at:],
        "Env": entries,
    }


def new_body(
    old: Doc, change: dict[str, Any], mark: str, image: str, api_version: tuple[int, int]
) -> dict[str, Any]:
    """The body that creates the old container's successor: raw, so that unknown fields survive.

    Args:
        old: the old container's inspect document.
        change: fields of Config that differ, from `edited`.
        mark: label value.
        image: the tag if it still stands for the old container's image, else the image's id.
        api_version: of the engine.
    """
    mode = old["HostConfig"].get("NetworkMode") or "default"
    config = {
        **old["Config"],
        **change,
        "Image": image,
        "Labels": {**labels_of(old), CHANGE_LABEL: mark},
    }
    shares = mode.startswith("container:")
    if shares or old["HostConfig"].get("UTSMode") == "host" or _generated_hostname(old):
        config.pop("Hostname", None)
    if shares:
        for key in ("Domainname", "ExposedPorts", "MacAddress"):
            config.pop(key, None)
    host = {**old["HostConfig"], "RestartPolicy": NO_RESTART, "Links": links_of(old) or None}
    host |= _storage(old)
    endpoints = {} if shares or mode in ("host", "none") else endpoints_of(old, api_version)
    if api_version < _NETWORKS_AT_CREATE:
        primary = _primary(old, mode)
        endpoints = {n: e for n, e in endpoints.items() if n == primary}
    return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}


def _storage(doc: Doc) -> dict[str, Any]:
    """Binds and Mounts, with anonymous volumes named: their data belongs to the service."""
    host = doc["HostConfig"]
    mounts = [
        {**m, "Source": volume_at(doc, m["Target"])}
        if m.get("Type") == "volume" and not m.get("Source")
        else m
        for m in host.get("Mounts") or []
    ]
    binds = [bind for bind in host.get("Binds") or [] if ":" in bind]
    declared = {normpath(m["Target"]) for m in mounts}
    declared |= {normpath(bind.split(":")[1]) for bind in binds}
    binds += [
        f"{m['Name']}:{m['Destination']}:{'nocopy' if m.get('RW') else 'ro,nocopy'}"
        for m in doc.get("Mounts") or []
        if m.get("Type") == "volume" and m["Destination"] not in declared
    ]
    return {"Binds": binds or None, "Mounts": mounts or None}


def _generated_hostname(doc: Doc) -> bool:
    return bool(doc["Config"].get("Hostname") == doc["Id"][:12])


def _primary(doc: Doc, mode: str) -> str:
    """The network that NetworkMode names, by its name, its id or the start of its id."""
    if mode == "default":
        return "bridge"
    networks = doc["NetworkSettings"].get("Networks") or {}
    if mode in networks:
        return mode
    ids = (n for n, e in networks.items() if str(e.get("NetworkID") or "").startswith(mode))
    return next(ids, mode)


def endpoints_of(doc: Doc, api_version: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Declared endpoint settings of every network, with a hardware address where one was set.

    An address that Docker derived from the IP address (02:42 and its four bytes) is left out:
    pinned, it would collide with the container that gets this IP address next.
    """
    found = {}
    for name, endpoint in (doc["NetworkSettings"].get("Networks") or {}).items():
        found[name] = declared_endpoint(doc, endpoint)
        mac, ip = endpoint.get("MacAddress"), endpoint.get("IPAddress") or ""
        derived = ":".join(["02", "42", *(f"{int(b):02x}" for b in ip.split(".") if b)])
        if mac and mac != derived and api_version >= _NETWORKS_AT_CREATE:
            found[name]["MacAddress"] = mac
    return found
