"""The worker of `runbooks up`: Prefect's process worker, and it can be told that a run waits.

`python -P -m deployments.warm_worker [--pool POOL] [--name NAME]`. It polls every second like any
other worker; on a nudge (`deployments.nudge`, a datagram on a socket of this home) it polls and
submits at once. It starts each run by the pool's own command, `deployments.launch`, which asks
the zygote for a fork: a run is a process of its own, whatever started it.

To Prefect its pool and its type are `process`. A pool of a type of its own would make the plain
worker, which must be able to take over on the same pool, warn of a mismatch on every start; would
need a second pool, and deployments that name one pool would leave the other without work; and
would change nothing, for both start a run the same way. `warm` is the name under which it is
registered on Prefect's worker base class.

Everything that decides stays Prefect's: the poll, the transitions, limits, cancellation, crash
reports. What is left out or put off is listed at `WarmWorker`.
"""

import argparse
import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.settings import get_current_settings
from prefect.utilities.processutils import setup_signal_handlers_worker
from prefect.workers.process import ProcessWorker

from blocks.journal import home
from deployments.connection import POOL
from deployments.nudge import nudge_path
from deployments.sockets import private_folder

MAX_DATAGRAM = 64
LABELS_AFTER_S = 5
"""A remediation has acted by then."""


class WarmWorker(ProcessWorker):
    """A process worker that polls at once when it is nudged.

    Polls come one after the other, so no run is submitted twice; nudges that come during a poll
    make one more together. Two writes of the base class stand between a run and its start and
    are not waited for:

    - its labels (the worker's name and pool) are written some seconds later. That PATCH reads and
      then writes in one deferred transaction, which SQLite refuses at once when another writer
      came between (503), and Prefect's client then sleeps 2 s: the usual cause of a late start.
    - the state Submitting, a Pending by another name, which nothing decides by.
    """

    _display_name = "Warm process"

    def __init__(self, *args: Any, folder: Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._nudges = nudge_path(folder or home())
        self._one_poll = asyncio.Lock()

    @classmethod
    def __dispatch_key__(cls) -> str:
        """Its name among the worker types; `type`, which pools are matched by, stays `process`."""
        return "warm"

    async def start(self, *args: Any, **kwargs: Any) -> None:
        """Run until cancelled, as the base class does, and heed nudges meanwhile."""
        async with anyio.create_task_group() as listening:
            listening.start_soon(self._heed)
            await super().start(*args, **kwargs)
            listening.cancel_scope.cancel()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """One poll; never two at once: the second could see a run that the first has submitted."""
        async with self._one_poll:
            return await super().get_and_submit_flow_runs()

    async def _propose_submitting_state(self, flow_run: FlowRun) -> None:
        """Pending goes to Running without it."""

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        await self._schedule_task(LABELS_AFTER_S, self._label, flow_run_id)

    async def _label(self, flow_run_id: UUID) -> None:
        try:
            await super()._give_worker_labels_to_flow_run(flow_run_id)
        except Exception as e:  # noqa: BLE001 - a label must not end the worker, nor its runs
            self._logger.debug("run %s got no labels: %s", flow_run_id, e)

    async def _heed(self) -> None:
        """Poll at each nudge; whatever fails here, the regular poll goes on."""
        try:
            with _listener(self._nudges) as end:
                loop = asyncio.get_running_loop()
                while True:
                    await loop.sock_recv(end, MAX_DATAGRAM)
                    _empty(end)  # those that came since mean the same
                    await self._poll_now()
        except OSError as e:
            self._logger.warning("nudges are not heard, runs wait for the next poll: %s", e)

    async def _poll_now(self) -> None:
        if not self.is_setup:
            return
        try:
            await self.get_and_submit_flow_runs()
        except httpx.HTTPError as e:
            self._logger.debug("the poll after a nudge failed: %s", e)


@contextlib.contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    """A datagram socket there, for this user alone.

    Raises:
        OSError: the folder is not private, or another worker listens there.
    """
    private_folder(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.setblocking(False)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            end.connect(str(path))
            raise OSError(f"another worker of this home listens on {path}")
        path.unlink(missing_ok=True)  # of one that was killed
        end.bind(str(path))
        path.chmod(0o600)
        inode = path.stat().st_ino
        try:
            yield end
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # a successor may listen there already
                    path.unlink()


def _empty(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while end.recv(MAX_DATAGRAM):
            pass


async def run(pool: str, name: str) -> None:
    """Work until a signal: SIGTERM and SIGINT end the runs and report them, as Prefect's do."""
    setup_signal_handlers_worker(os.getpid(), "the warm worker", print)
    worker = WarmWorker(
        name=name,
        work_pool_name=pool,
        heartbeat_interval_seconds=int(get_current_settings().worker.heartbeat_seconds),
    )
    try:
        await worker.start(printer=lambda words: print(words, flush=True))
    except asyncio.CancelledError:
        print(f"worker {worker.name!r} stopped", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="deployments.warm_worker", description=__doc__)
    parser.add_argument("--pool", default=POOL)
    parser.add_argument("--name", default="local")
    args = parser.parse_args()
    asyncio.run(run(args.pool, args.name))


if __name__ == "__main__":
    main()
