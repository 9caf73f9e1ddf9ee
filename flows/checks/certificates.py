"""Check: which certificates expire soon."""

from blocks.certificate import Certificate, endpoints_of, read_certificate
from flows.checks.platform_view import Platform
from flows.decisions.check_certificates import judge_certificates
from flows.decisions.finding import Finding
from tasks.check_reads import Read, Unread


async def run(platform: Platform) -> list[Finding]:
    """One finding for each endpoint and file."""

    def reads(where: str) -> Read[Certificate]:
        return lambda: read_certificate(where)

    wanted = {where: reads(where) for where in endpoints_of(platform.spec)}
    found = await platform.read("certificates", wanted)
    certificates = [
        Certificate(where=where, problem=one.reason) if isinstance(one, Unread) else one
        for where, one in found.items()
    ]
    return judge_certificates(certificates, platform.policy, platform.now)
