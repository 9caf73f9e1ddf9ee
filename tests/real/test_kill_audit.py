"""kill -9 in the middle of an export: the next one completes it, and the chain is whole."""

import multiprocessing
import os
import signal
from typing import Any

import pytest

from blocks.audit_log import AuditLog
from tests.conftest import PrefectServer
from tests.flows.test_export_audit import added, ended, export, records, registered_stack, stack
from tests.real import audit_child

pytestmark = pytest.mark.real
__all__ = ["registered_stack", "stack"]


def killed(server: PrefectServer, point: str, stack: str) -> None:
    """An export that must have died at its point."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.real.driver", "tests.real.preload"])
    environment = {
        "RUNBOOKS_HOME": os.environ["RUNBOOKS_HOME"],
        "PREFECT_API_URL": server.url,
        "PREFECT_HOME": str(server.folder),
    }
    child = context.Process(target=audit_child.child, args=(environment, point, stack), daemon=True)
    child.start()
    child.join(120)
    code = child.exitcode
    child.kill()
    assert code == -signal.SIGKILL, f"{point}: exit code {code}"


@pytest.mark.parametrize("point", ["half-written", "before-head", "between-pages", "before-proof"])
async def test_the_next_export_completes_a_killed_one(
    registered_stack: Any, prefect_server: PrefectServer, point: str
) -> None:
    runs = [await ended(registered_stack.name) for _ in range(7)]
    killed(prefect_server, point, registered_stack.name)
    log = AuditLog()
    left = log.verify()
    assert left.first_broken is None and left.records > 0
    assert left.torn == (point == "half-written")

    report = await export(registered_stack.name)
    assert report.verdict == "passed", report.message
    assert set(runs) <= set(records()), "each once"
    after = log.verify()
    assert after.first_broken is None and not after.torn
    kinds = [r["kind"] for r in log.records()]
    assert kinds.count("repair") == (point == "half-written")
    assert added(await export(registered_stack.name)) == 0
