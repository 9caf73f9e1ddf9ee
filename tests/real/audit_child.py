"""Exports the audit trail and dies at a chosen point, as kill -9 does."""

import asyncio
import os
from typing import Any

from tests.real.driver import die

SECOND = 2
"""The page whose writing is cut short."""


def child(environment: dict[str, str], point: str, stack: str) -> None:
    """Entry point in a forked process."""
    os.environ.update(environment)
    os.setsid()
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    url, home = environment["PREFECT_API_URL"], environment["PREFECT_HOME"]
    with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
        from flows.export_audit import export_audit
        from flows.report import Options

        arm(point)
        asyncio.run(export_audit(stack, "", Options(actor="driver", source="cli")))


def arm(point: str) -> None:
    """Patch the chosen point."""
    from blocks import prefect_runs
    from blocks.audit_log import AuditLog
    from flows import export_audit as module

    prefect_runs.PAGE = 2
    write, set_head, proof = AuditLog._write, AuditLog._set_head, module.verify_trail
    pages, proofs = list[int](), list[int]()

    def writes(self: Any, path: Any, data: bytes) -> None:
        pages.append(1)
        if len(pages) == SECOND and point == "half-written":
            real = os.write
            os.write = lambda to, view: (real(to, bytes(view)[:-40]), die())[0]  # type: ignore[assignment]
        write(self, path, data)

    def sets(self: Any, link: Any) -> None:
        if len(pages) == SECOND and point == "before-head":
            die()
        set_head(self, link)
        if len(pages) == SECOND and point == "between-pages":
            die()

    async def proves(each: Any) -> Any:
        proofs.append(1)
        if len(proofs) == SECOND and point == "before-proof":
            die()
        return await proof(each)

    AuditLog._write, AuditLog._set_head = writes, sets  # type: ignore[method-assign]
    module.verify_trail = proves  # type: ignore[assignment]
