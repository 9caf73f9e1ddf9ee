"""A machine of the platform: where the readings of its GPUs, processors and disks come from."""

import asyncio
import json
from typing import Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, ValidationError, model_validator

from blocks import prometheus_server
from blocks.command import capture
from blocks.errors import RunbookError, Transient
from blocks.host_metrics import folded, questions
from blocks.host_reading import HostReading, nothing
from blocks.local_host import read_local
from blocks.models import Frozen
from blocks.prometheus_server import PrometheusSpec

_COMMAND_BYTES = 4 * 1024 * 1024


class GpuHostSpec(Frozen):
    """How one machine is read."""

    kind: Literal["local", "command", "prometheus"] = Field(
        default="local",
        description="local: NVML and the kernel of the worker's own machine; command: a command "
        "that prints a reading as JSON (`ssh HOST runbooks reading`); prometheus: node_exporter "
        "and dcgm-exporter, through the stack's Prometheus",
    )
    argv: tuple[str, ...] = Field(
        default=(), description="kind command: the list of words; no shell is used"
    )
    labels: dict[str, str] = Field(
        default={}, description="kind prometheus: labels of its node_exporter's series"
    )
    gpu_labels: dict[str, str] = Field(
        default={}, description="kind prometheus: labels of its dcgm-exporter's; default: `labels`"
    )
    disks: tuple[str, ...] = Field(
        default=("/",), description="mount points that must not fill up, e.g. /, /models"
    )
    gpus: bool = Field(default=True, description="whether it has GPUs to look at")
    timeout_s: float = Field(default=15, gt=0, le=120, description="of one reading, seconds")

    @model_validator(mode="after")
    def _complete(self) -> "GpuHostSpec":
        if (self.kind == "command") != bool(self.argv):
            raise ValueError("argv belongs to kind command, which needs one; write a list of words")
        if (self.kind == "prometheus") != bool(self.labels):
            raise ValueError(
                "labels belong to kind prometheus, which needs them; e.g. {instance: motoko:9100}"
            )
        return self


class GpuHost(GpuHostSpec, Block):
    """A machine of the platform and how it is read."""

    model_config = ConfigDict(frozen=False)
    _block_type_name = "GPU host"
    _block_type_slug = "gpu-host"
    _description = "A machine with GPUs: read through NVML, a command or Prometheus."


async def read_host(spec: GpuHostSpec, prometheus: PrometheusSpec | None) -> HostReading:
    """One reading of one machine, within `spec.timeout_s` seconds. Never raises a RunbookError.

    What could not be measured is None, and `problems` says why; a machine that does not answer at
    all is a reading of nothing.

    Args:
        spec: the machine.
        prometheus: of its stack, for a machine of kind `prometheus`.
    """
    try:
        async with asyncio.timeout(spec.timeout_s + 1):  # each way has its own, more telling one
            if spec.kind == "local":
                return await asyncio.to_thread(
                    read_local, spec.disks, gpus=spec.gpus, timeout_s=spec.timeout_s
                )
            if spec.kind == "command":
                return await _by_command(spec)
            return await _by_prometheus(spec, prometheus)
    except TimeoutError:
        return nothing(f"no answer within {spec.timeout_s:g} s; raise timeout_s or look at it")
    except RunbookError as e:
        return nothing(str(e)[:300])


async def _by_command(spec: GpuHostSpec) -> HostReading:
    try:
        done = await capture(
            spec.argv, cwd=None, timeout_s=spec.timeout_s, max_bytes=_COMMAND_BYTES
        )
    except Transient:
        return nothing(
            f"`{spec.argv[0]}` did not end within {spec.timeout_s:g} s and was killed; "
            "is the machine up? else raise timeout_s"
        )
    if done.code:
        said = done.err.decode(errors="replace").strip().splitlines()
        return nothing(f"`{spec.argv[0]}` ended with {done.code}: {said[-1][:200] if said else ''}")
    return _parsed(done.out.decode(errors="replace"), spec.argv[0])


def _parsed(text: str, command: str) -> HostReading:
    """The reading in a command's output; a login banner may stand before it."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith("{")]
    for candidate in (text, *lines[-1:]):
        try:
            values = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict) or not {"cpu_share", "memory_share"} <= set(values):
            break
        try:
            return HostReading.model_validate_json(candidate)
        except ValidationError as e:
            first = e.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            return nothing(f"`{command}` printed a reading with a bad {where}: {first['msg']}")
    return nothing(f"`{command}` printed no reading; it must print what `runbooks reading` does")


async def _by_prometheus(spec: GpuHostSpec, prometheus: PrometheusSpec | None) -> HostReading:
    if prometheus is None:
        return nothing("the stack has no prometheus section; write prometheus: {url: ...}")
    try:
        asked = questions(spec.labels, spec.gpu_labels, spec.disks, prometheus.window, spec.gpus)
    except ValueError as e:
        return nothing(f"labels: {e}")
    answers = await prometheus_server.query_many(prometheus, asked)
    reading = folded(answers, spec.disks, spec.gpus)
    whys = {why for why in answers.values() if isinstance(why, str)}
    if len(whys) == 1 and all(isinstance(a, str) for a in answers.values()):
        return nothing(whys.pop())  # said once, and not of every number
    return reading
