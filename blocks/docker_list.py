"""Everything a Docker Engine runs or ran: read only."""

import asyncio
from typing import Any

from blocks.docker_host import DockerHostSpec, Engine


async def read_containers(host: DockerHostSpec) -> list[dict[str, Any]]:
    """The inspect document of every container, stopped ones too, sorted by name.

    A container that is removed while it is looked at is left out.

    Raises:
        Transient: the engine does not answer. Permanent: it refuses, or the socket does.
    """
    return await asyncio.to_thread(_read, host)


def _read(host: DockerHostSpec) -> list[dict[str, Any]]:
    with Engine(host) as engine:
        docs = [engine.find(str(item["Id"])) for item in engine.containers()]
    return sorted((d for d in docs if d), key=lambda d: str(d.get("Name", "")))
