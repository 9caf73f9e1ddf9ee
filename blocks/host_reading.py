"""What one look at a machine found. `None` = could not be measured, never zero. No I/O here."""

from typing import Annotated

from pydantic import ConfigDict, Field

from blocks.models import Frozen

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Reading(Frozen):
    # Another machine's `runbooks reading` may be newer and say more.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class DiskReading(_Reading):
    """One file system."""

    path: str
    used_share: Share | None = None
    """As `df`: of what an ordinary user can fill."""
    free_gib: Amount | None = None


class GpuProcess(_Reading):
    """One process that holds memory of a GPU."""

    pid: int
    name: str = ""
    """Empty where the process is another container's."""
    memory_gib: Amount | None = None


class GpuReading(_Reading):
    """One GPU."""

    index: int | None = None
    """As `nvidia-smi` counts; None: the driver does not list it (any more)."""
    name: str = ""
    uuid: str = ""
    bus_id: str = ""
    memory_used_gib: Amount | None = None
    memory_total_gib: Amount | None = None
    utilization: Share | None = None
    temperature_c: Number | None = None
    power_w: Amount | None = None
    ecc_uncorrected: Count | None = None
    """Uncorrected memory errors since the driver was loaded (count)."""
    xid: Count | None = None
    """The last Xid error. 0: looked for, and none was seen. None: nobody looked, so nothing is
    known; it must not pass for 0."""
    xid_age_s: Amount | None = None
    """Seconds since `xid`; None: not known."""
    xid_reaches_s: Amount | None = None
    """How far back was looked for an Xid, seconds; None: not known. A 0 says nothing of before."""
    lost: bool = False
    """It fell off the bus, or hangs until it is reset."""
    unsupported: tuple[str, ...] = ()
    """Fields that are None because this GPU has no such thing (a GeForce has no ECC memory)."""
    problem: str = ""
    processes: tuple[GpuProcess, ...] = ()

    @property
    def label(self) -> str:
        """`gpu 0`, or where it was plugged in."""
        return f"gpu {self.index}" if self.index is not None else f"gpu at {self.bus_id or '?'}"

    @property
    def memory_share(self) -> float | None:
        """Used share of its memory, 0..1."""
        if self.memory_used_gib is None or not self.memory_total_gib:
            return None
        return min(1.0, self.memory_used_gib / self.memory_total_gib)


class HostReading(_Reading):
    """One machine at one instant.

    Each problem begins with what it is about, then a colon: `host`, `cpu`, `memory`, `disk PATH`,
    `gpus`, `gpu 0`, `xid`; `about` finds them.
    """

    cpu_share: Share | None = None
    """Busy share of all CPUs; waiting for a disk is not busy."""
    memory_share: Share | None = None
    """Share of the memory that cannot be had any more (without swapping)."""
    disks: tuple[DiskReading, ...] = ()
    gpus: tuple[GpuReading, ...] | None = None
    """None: could not be measured. Empty: the driver answered, and lists none."""
    driver_version: str | None = None
    cuda_version: str | None = None
    """The newest CUDA that this driver runs, e.g. `12.4`."""
    problems: tuple[str, ...] = ()

    def about(self, *fields: str) -> str:
        """What is known of why these could not be measured; `host` says it of everything."""
        found = [p for p in self.problems for f in (*fields, "host") if p.startswith(f"{f}: ")]
        return "; ".join(dict.fromkeys(found))


def nothing(why: str) -> HostReading:
    """A reading that measured nothing at all."""
    return HostReading(problems=(f"host: {why}",))
