"""The GPU driver of a host, held against the CUDA build (handbooks 000 section 2.3, 004)."""

from flows.decisions.check_hosts import driver_problem
from flows.run import Run
from tasks.host_reads import read_host_task


async def note_driver(run: Run) -> None:
    """Note what is wrong with the driver of the service's host; silent when it is fine."""
    name = run.target.service.host
    if name is None:
        run.notes.append("the GPU driver was not looked at: the service names no host")
        return
    reading = await read_host_task(name, run.spec.hosts[name], run.spec.prometheus)
    if problem := driver_problem(reading.driver_version, reading.cuda_version):
        run.notes.append(f"driver of {name}: {problem}")
