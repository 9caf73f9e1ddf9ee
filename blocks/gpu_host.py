"""A machine of the platform: where the readings of its GPUs, processors and disks come from."""

from typing import Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, model_validator

from blocks.models import Frozen


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
