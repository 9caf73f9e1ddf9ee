"""`runbooks reading`: this machine as JSON, for a stack's hosts of kind `command`.

Imports no Prefect: it is started over ssh for every reading.
"""

from collections.abc import Sequence

from blocks.local_host import read_local


def reading(disks: Sequence[str] = ("/",), *, gpus: bool = True, timeout_s: float = 12) -> str:
    """CPU, memory, disks and GPUs of this machine as one line of JSON (`HostReading`).

    Args:
        disks: paths on the file systems to look at.
        gpus: whether to ask NVML.
        timeout_s: less than the 15 s that a stack waits by default, so that a hung driver is told
            as such.
    """
    return read_local(disks, gpus=gpus, timeout_s=timeout_s).model_dump_json()
