"""Run one argv list: no shell, bounded output, its own process group, a hard time-out."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import Permanent, Transient

OUTPUT_CAP = 16 * 1024 * 1024
_GRACE_S = 2.0
_DRAIN_S = 0.5


@dataclass(frozen=True)
class Completed:
    """How a command ended and the last bytes of what it wrote."""

    code: int
    out: bytes
    err: bytes


async def capture(
    argv: Sequence[str],
    *,
    cwd: str | None,
    timeout_s: float,
    max_bytes: int = 1024 * 1024,
    merge: bool = False,
) -> Completed:
    """Run a command that reports something and return the last `max_bytes` of each output.

    Args:
        argv: the words; the first is looked up in PATH.
        cwd: working directory; None: the worker's.
        timeout_s: seconds; then the whole process group is killed.
        max_bytes: more than that is dropped while it is read, the oldest first.
        merge: write stderr into `out`, in the order it came.

    Raises:
        Transient: it did not end in time.
        Permanent: it cannot be started.
    """
    pipes = [_Pipe(max_bytes) for _ in range(1 if merge else 2)]
    try:
        for pipe in pipes:
            await pipe.open()
        process = await _start(argv, cwd, pipes[0].write_end, pipes[-1].write_end)
        for pipe in pipes:
            pipe.close_write_end()
        await _end(process, argv, timeout_s)
        # A child left in the background may hold a pipe open for ever: do not wait for it.
        await asyncio.wait([p.reading for p in pipes], timeout=_DRAIN_S)
    finally:
        for pipe in pipes:
            pipe.close()
    kept = [bytes(p.kept[-max_bytes:]) for p in pipes]
    return Completed(process.returncode or 0, kept[0], b"" if merge else kept[1])


class _Pipe(asyncio.Protocol):
    """The last bytes of what a child writes.

    Not `asyncio.subprocess.PIPE`: with it some Python 3.11 and 3.12 releases let `wait()` wait
    for the pipe's end too, which a grandchild in the background can put off for ever.
    """

    def __init__(self, max_bytes: int) -> None:
        self.kept = bytearray()
        self._max_bytes = max_bytes
        self.reading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write_end = -1
        self._transport: asyncio.ReadTransport | None = None

    async def open(self) -> None:
        read_end, self.write_end = os.pipe()
        file = os.fdopen(read_end, "rb", buffering=0)
        try:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.connect_read_pipe(lambda: self, file)
        except BaseException:
            file.close()
            raise

    def data_received(self, data: bytes) -> None:
        self.kept += data
        if len(self.kept) > 2 * self._max_bytes + 65536:
            del self.kept[: -self._max_bytes]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.reading.done():
            self.reading.set_result(None)

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.close_write_end()
        if self._transport:
            self._transport.close()


async def perform(
    argv: Sequence[str], *, cwd: str | None, timeout_s: float, output: Path
) -> Completed:
    """Run a command that changes something; both its outputs go to the file `output` (0600).

    A file and not a pipe: a server that a script leaves in the background inherits the output,
    and would die of a closed pipe at its next line.

    Raises:
        Transient: it did not end in time, or wrote more than 16 MiB; its group was killed.
        Permanent: it cannot be started, or `output` cannot be written.
    """
    handle = _open_new(output)
    try:
        process = await _start(argv, cwd, handle, handle)
        watcher = asyncio.create_task(_watch_size(process, handle))
        try:
            await _end(process, argv, timeout_s)
        finally:
            watcher.cancel()
        size = os.fstat(handle).st_size
        if size > OUTPUT_CAP and process.returncode:
            raise Transient(f"{argv[0]} wrote more than {OUTPUT_CAP} bytes and was killed")
        tail = os.pread(handle, 4096, max(0, size - 4096))
        return Completed(process.returncode or 0, tail, b"")
    finally:
        os.close(handle)


async def _start(
    argv: Sequence[str], cwd: str | None, out: int, err: int
) -> asyncio.subprocess.Process:
    _check_directory(cwd)
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as e:
        raise Permanent(
            f"{argv[0]} cannot be started: {getattr(e, 'strerror', None) or 'bad argument'}; "
            "check the command in the inventory and PATH of the worker"
        ) from e


async def _end(process: asyncio.subprocess.Process, argv: Sequence[str], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError as e:
        await _kill(process)
        raise Transient(
            f"{' '.join(argv)[:200]} did not end within {timeout_s:g} s and was killed; "
            "it must end by itself (no -f, no pager); else raise runtime.timeout_s"
        ) from e
    except asyncio.CancelledError:
        await _kill(process)
        raise


async def _kill(process: asyncio.subprocess.Process) -> None:
    """TERM to the group, KILL after 2 s to what is left of it."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()


async def _watch_size(process: asyncio.subprocess.Process, handle: int) -> None:
    while os.fstat(handle).st_size <= OUTPUT_CAP:  # noqa: ASYNC110  a file gives no event
        await asyncio.sleep(0.2)
    await _kill(process)


def _check_directory(cwd: str | None) -> None:
    if cwd and not os.path.isdir(cwd):
        raise Permanent(f"{cwd} is no directory on this worker; correct runtime.cwd")


def _open_new(output: Path) -> int:
    try:
        output.parent.mkdir(mode=0o700, exist_ok=True)
        output.unlink(missing_ok=True)
        return os.open(output, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError as e:
        raise Permanent(f"{output} cannot be written: {e.strerror}; check its directory") from e
