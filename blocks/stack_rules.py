"""What an inventory must not contradict: names, references, one thing under two locks. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from posixpath import normpath
from typing import Any
from urllib.parse import urlsplit

from blocks.docker_host import DockerHostSpec
from blocks.escalation import EscalationSpec, disagreements
from blocks.people import PeopleSpec
from blocks.service import Service

_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?")
Faults = list[tuple[tuple[Any, ...], str]]


def is_slug(value: str) -> bool:
    """Whether it may name a stack, a service or a Docker host."""
    return bool(_SLUG.fullmatch(value)) and "--" not in value


def slug(value: str) -> str:
    """The name as it is, where it may name a Prefect block, a lock and a folder."""
    if not is_slug(value):
        suggestion = re.sub(r"[^a-z0-9]+", "-", value.lower())[:62].strip("-") or "my-platform"
        raise ValueError(
            f"{value[:80]!r} is no name here: lower-case letters, digits and single dashes, at "
            f"most 62; try {suggestion!r}"
        )
    return value


def contradictions(
    services: Mapping[str, Service],
    docker_hosts: Mapping[str, DockerHostSpec],
    hosts: Iterable[str] = (),
) -> Faults:
    """What no single value shows, as (path, what is wrong)."""
    found: Faults = [*_names("services", services), *_names("docker_hosts", docker_hosts)]
    found += _names("hosts", hosts)
    if not services:
        found.append((("services",), "at least one service is needed"))
    known = ["local", *docker_hosts]
    for name, host in docker_hosts.items():
        if urlsplit(host.base_url).password:
            words = "has a password in it; use ssh keys or TLS files"
            found.append((("docker_hosts", name, "base_url"), words))
    for name, service in services.items():
        if service.runtime.kind == "docker" and service.runtime.host not in known:
            words = f"{service.runtime.host!r} is not under docker_hosts"
            words += f" (known: {', '.join(known)})"
            found.append((("services", name, "runtime", "host"), words))
        if service.host and service.host not in hosts:
            words = f"{service.host!r} is not under hosts (known: {', '.join(hosts) or 'none'})"
            found.append((("services", name, "host"), words))
        for model, backend in service.routes.items():
            if backend not in services:
                words = f"{backend!r} is no service here (known: {', '.join(services)})"
                found.append((("services", name, "routes", model), words))
    return found + _shared(services, docker_hosts)


def unreachable(
    escalation: EscalationSpec | None, people: PeopleSpec, *, has_slack: bool
) -> Faults:
    """Roles, people and ways of the escalation that the inventory does not have."""
    if escalation is None:
        return []
    return list(disagreements(escalation, people.members, has_slack=has_slack))


def _names(section: str, things: Iterable[str]) -> Faults:
    found: Faults = []
    for name in things:
        try:
            slug(name)
        except ValueError as e:
            found.append(((section, name), str(e)))
    return found


def _shared(services: Mapping[str, Service], docker_hosts: Mapping[str, DockerHostSpec]) -> Faults:
    """Two services that are one thing: a change of each would hold a lock of its own."""
    found: Faults = []
    seen: dict[tuple[str, ...], str] = {}
    for name, service in services.items():
        for key, what, target in _targets(service, docker_hosts):
            other = seen.setdefault(target, name)
            if other != name:
                path = ("services", name, *key)
                words = f"the same {what} as services.{other}: one thing under two locks; "
                found.append((path, words + "describe it once"))
    return found


def _targets(
    service: Service, docker_hosts: Mapping[str, DockerHostSpec]
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """What a change of the service touches: nothing of it may stand under two locks.

    A file, a socket and a loopback address are those of the worker's host, which the work
    queue stands for: two hosts may well use the same path.
    """
    queue = service.work_queue
    url = urlsplit(service.url)
    here = queue if url.hostname in ("localhost", "127.0.0.1", "::1") else ""
    port = url.port or (443 if url.scheme == "https" else 80)
    yield ("url",), "server", ("url", here, str(url.hostname), str(port), url.path)
    if service.runtime.kind == "docker":
        address = (docker_hosts.get(service.runtime.host) or DockerHostSpec()).base_url.rstrip("/")
        engine = f"{queue} {address}" if address.startswith("unix://") else address
        container = service.runtime.container
        yield ("runtime", "container"), "container", ("container", engine, container)
    if hasattr(service.serving, "path"):
        yield ("serving", "path"), "file", ("file", queue, normpath(service.serving.path))
