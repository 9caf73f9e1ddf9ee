"""Check: processors, memory, disks and GPUs of every machine."""

from blocks.gpu_host import GpuHostSpec, read_host
from blocks.host_reading import HostReading
from flows.checks.platform_view import Platform
from flows.decisions.check_hosts import judge_host
from flows.decisions.finding import Finding
from tasks.check_reads import Read, Unread


async def run(platform: Platform) -> list[Finding]:
    """The findings of every machine of the inventory."""

    def reads(spec: GpuHostSpec) -> Read[HostReading]:
        return lambda: read_host(spec, platform.spec.prometheus)

    hosts = platform.spec.hosts
    found = await platform.read("hosts", {name: reads(spec) for name, spec in hosts.items()})
    findings: list[Finding] = []
    for name, reading in found.items():
        if isinstance(reading, Unread):
            subject = f"host {name}"
            findings.append(
                Finding(check="reading", subject=subject, status="unknown", evidence=reading.reason)
            )
            continue
        findings += judge_host(name, reading, hosts[name], platform.policy)
    return findings
