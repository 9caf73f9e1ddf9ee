"""One kind of GPU of a host, as an inventory declares it. No I/O here."""

from pydantic import Field

from blocks.models import Frozen


class Gpu(Frozen):
    """The GPUs one service may use: `count` equal devices of `vram_gib` each.

    Source: the inventory; the sizes to compare with are in handbook 000, section 1.
    """

    name: str
    vram_gib: float = Field(gt=0, allow_inf_nan=False, description="Memory of one device, GiB")
    count: int = Field(default=1, ge=1, description="Equal devices the service may use")
