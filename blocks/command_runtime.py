"""A service that commands start and stop, with its serving config in a file (systemd, scripts).

Way back: the backup of the file that `prepare` made. Only the file that `act` wrote, to the
byte, is ever overwritten by `restore`: a file that a person edited since is copied to the
backups, left as it is, and `Unsafe("drifted")` is raised for that person to settle.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from blocks.command import capture, perform
from blocks.command_status import image_in, process_in, read_status
from blocks.errors import Permanent, RunbookError, Transient, Unsafe
from blocks.journal import home
from blocks.models import Frozen, How, Receipt, ServiceState, ServingConfig
from blocks.safe_file import directory_of
from blocks.service import CommandRuntimeSpec, NoSource
from blocks.serving_file import (
    FileSource,
    backup_directory,
    backup_file,
    edit_file,
    list_backups,
    preview_file,
    prune_backups,
    read_file,
    restore_file,
    sha256_file,
)

_SOURCE: TypeAdapter[FileSource] = TypeAdapter(FileSource)
_LAST_OUTPUT = "last-command.log"


class _Undo(Frozen):
    """`Receipt.data` of this runtime."""

    source: dict[str, Any]
    backup: str
    sha256_before: str
    sha256_after: str
    instance: str
    """The process at `prepare` (`process_in`); empty when the status does not tell one."""

    def file(self) -> FileSource:
        return _SOURCE.validate_python(self.source)


class CommandRuntime:
    """The `Runtime` of a service with `runtime.kind: command` (see blocks/runtime.py).

    Args:
        service: `<stack>/<name>`, for errors and the receipt.
        spec: the argv lists; run without a shell in the worker's environment.
        source: the file that holds the serving config, on this worker's host.
    """

    def __init__(self, service: str, spec: CommandRuntimeSpec, source: FileSource) -> None:
        self.service = service
        self.spec = spec
        self.source = source

    async def state(self) -> ServiceState:
        """What the status command says; `unknown` with the reason when it fails. Never raises."""
        try:
            done = await capture(self.spec.status, cwd=self.spec.cwd, timeout_s=self.spec.timeout_s)
        except RunbookError as e:
            return ServiceState(phase="unknown", detail=str(e)[:500])
        return read_status(self.spec.status_format, done.code, done.out, done.err)

    async def read_config(self) -> ServingConfig:
        """The serving config in the file. Raises Permanent as `read_file`."""
        return await asyncio.to_thread(read_file, self.source)

    async def read_log(
        self, max_bytes: int = 4 * 1024 * 1024, since: datetime | None = None
    ) -> bytes:
        """The last `max_bytes` of what the logs command prints, stdout and stderr in order.

        It may hold several starts: the diagnosis tells them apart. How far back it goes is the
        command's business, `since` or not.

        Raises:
            Transient: the command did not end in time.
            Permanent: it cannot be started or failed.
        """
        done = await capture(
            self.spec.logs,
            cwd=self.spec.cwd,
            timeout_s=self.spec.timeout_s,
            max_bytes=max_bytes,
            merge=True,
        )
        if done.code:
            raise Permanent(self._failed("logs", self.spec.logs, done.code, done.out))
        return done.out

    async def image(self) -> str:
        """The image that its status tells; empty: no container. Raises as `image_in`."""
        return image_in(await self.state(), self.spec.status_format)

    async def prepare(self, after: ServingConfig, run_id: str, how: How = "apply") -> Receipt:
        """Check that the file can be edited and the commands exist; back the file up.

        Raises:
            Permanent: nothing to change, a command that is not there, or a file that cannot be
                edited safely.
            Transient: the state is unknown, so the way back is.
            Unsafe: `drifted`, the file changes while it is looked at.
        """
        for argv in (self.spec.restart, self.spec.stop, self.spec.status):
            self._check_command(argv)
        before = await self.read_config()
        self._check_change(before, after, how)
        old, new = await asyncio.to_thread(preview_file, self.source, before, after)
        state = await self.state()
        if state.phase == "unknown":
            raise Transient(
                f"{self.service}: cannot tell whether it runs ({state.detail}), so it could not "
                "be brought back to that; repair runtime.status"
            )
        backup = await asyncio.to_thread(backup_file, self.source, run_id)
        if await asyncio.to_thread(sha256_file, self.source) != old:
            raise Unsafe("drifted", f"{self._path} changed while it was read; plan again")
        undo = _Undo(
            source=self.source.model_dump(mode="json"),
            backup=backup,
            sha256_before=old,
            sha256_after=new,
            instance=process_in(state, self.spec.status_format) if state.running else "",
        )
        return Receipt(
            runtime=self.spec.kind,
            service=self.service,
            before=before,
            after=after,
            was_running=state.phase in ("running", "starting", "restarting"),
            data=undo.model_dump(mode="json"),
        )

    async def act(self, receipt: Receipt) -> None:
        """Edit the file and restart. An edit that an earlier, killed call made is not repeated.

        Raises:
            Unsafe: `drifted`, the file is neither what was prepared nor what the edit makes.
            Permanent: the restart command failed (its output: `last-command.log` by the backups).
            Transient: it did not end in time and was killed.
        """
        undo = self._undo(receipt)
        source = undo.file()
        if await asyncio.to_thread(sha256_file, source) != undo.sha256_after:
            await asyncio.to_thread(
                edit_file,
                source,
                receipt.before,
                receipt.after,
                expected_sha256=undo.sha256_before,
            )
        await self._perform("restart", self.spec.restart, source)

    async def commit(self, receipt: Receipt) -> None:
        """Keep the change; of the file's backups the newest 20 stay."""
        await asyncio.to_thread(prune_backups, self._undo(receipt).file())

    async def restore(self, receipt: Receipt) -> None:
        """Bring back the file, to the byte, then up (restart) or down (stop) as it was.

        Idempotent, and right wherever `act` stopped. After an edit the restart is always done: a
        killed `act` may have started the server from the edited file.

        Raises:
            Unsafe: `drifted`, somebody edited the file after `act`: their version is copied to
                the backups as `drifted-...` and left in place; nothing is restarted.
            Permanent: the backup is gone or damaged, or a command failed.
            Transient: the command did not end in time.
        """
        undo = self._undo(receipt)
        source = undo.file()
        edited = undo.sha256_before != undo.sha256_after
        if edited and not isinstance(source, NoSource):
            exists = await asyncio.to_thread(os.path.exists, source.path)
            if exists:
                now = await asyncio.to_thread(sha256_file, source)
                if now not in (undo.sha256_before, undo.sha256_after):
                    await self._keep_foreign(source, now)
            await asyncio.to_thread(
                restore_file,
                source,
                undo.backup,
                sha256_of_backup=undo.sha256_before,
                expected_sha256=undo.sha256_after if exists else None,
            )
        if not edited:
            await self._bring_up(receipt, source)
        elif receipt.was_running:
            await self._perform("restart", self.spec.restart, source)
        else:
            await self._perform("stop", self.spec.stop, source)

    async def _bring_up(self, receipt: Receipt, source: FileSource) -> None:
        """Undo a pure restart: what was up is up; what came up of it is not taken down again."""
        state = await self.state()
        if state.phase == "unknown":
            raise Transient(f"{self.service}: cannot tell what runs: {state.detail}")
        if receipt.was_running and state.phase in ("exited", "missing"):
            await self._perform("restart", self.spec.restart, source)

    async def applied(self, receipt: Receipt) -> bool:
        """True when the file holds `after` and the server is not the process of `prepare`.

        A process that is still the same was not restarted since: it runs the config of before.
        Where the status tells no pid, the file alone decides.

        Raises:
            Transient: the state is unknown.
            Permanent: the file cannot be read.
        """
        undo = self._undo(receipt)
        now = await asyncio.to_thread(read_file, undo.file())
        planned = receipt.before.diff(receipt.after)
        if planned.keys() & now.diff(receipt.after).keys():
            return False
        if not undo.instance:
            return True
        state = await self.state()
        if state.phase == "unknown":
            raise Transient(f"{self.service}: cannot tell what runs: {state.detail}")
        return process_in(state, self.spec.status_format) != undo.instance

    def _undo(self, receipt: Receipt) -> _Undo:
        if receipt.runtime != self.spec.kind or receipt.service != self.service:
            raise Permanent(
                f"{self.service}: the receipt is of {receipt.service} ({receipt.runtime})"
            )
        try:
            return _Undo.model_validate(receipt.data)
        except ValidationError as e:
            raise Permanent(
                f"{self.service}: the journalled receipt is damaged ({e.error_count()} errors); "
                f"bring {self._path or 'it'} back by hand"
            ) from None

    @property
    def _path(self) -> str:
        return "" if isinstance(self.source, NoSource) else self.source.path

    def _check_change(self, before: ServingConfig, after: ServingConfig, how: How) -> None:
        if how == "recreate":
            raise Permanent(f"{self.service}: a command cannot recreate it, only restart it")
        if how == "restart":
            if before != after:
                raise Unsafe("drifted", f"{self._path} changed since the plan; plan again")
            return
        if before == after:
            what = f"{self._path} is so already" if self._path else "it has no numbers"
            raise Permanent(f"{self.service}: {what}; nothing to change")
        if not os.access(directory_of(self._path), os.W_OK):
            raise Permanent(
                f"{self.service}: {directory_of(self._path)} is not writable for the "
                "worker's user; the file is replaced there by rename"
            )

    def _check_command(self, argv: Sequence[str]) -> None:
        name = argv[0]
        # As the child does: a path with a slash is relative to its working directory.
        path = os.path.join(self.spec.cwd, name) if self.spec.cwd and "/" in name else name
        if shutil.which(path) is None:
            raise Permanent(
                f"{self.service}: command {name!r} is not found or not executable on this worker; "
                "correct runtime in the inventory or PATH"
            )

    async def _keep_foreign(self, source: FileSource, sha256: str) -> None:
        backups = await asyncio.to_thread(list_backups, source)
        kept = next((b.path for b in backups if b.sha256 == sha256), None)
        kept = kept or await asyncio.to_thread(backup_file, source, f"drifted-{sha256[:12]}")
        raise Unsafe(
            "drifted",
            f"{self.service}: {self._path} was edited by somebody after the change; it is left as "
            f"it is (copy: {kept}); settle it by hand, then restart the service",
        )

    async def _perform(self, what: str, argv: Sequence[str], source: FileSource) -> None:
        # Without a file there are no backups to lay it by; the journal's folder is there by then.
        beside = home() / "services" / self.service if isinstance(source, NoSource) else None
        output = (beside or backup_directory(source)) / _LAST_OUTPUT
        done = await perform(argv, cwd=self.spec.cwd, timeout_s=self.spec.timeout_s, output=output)
        if done.code:
            raise Permanent(self._failed(what, argv, done.code, done.out) + f" (all: {output})")

    def _failed(self, what: str, argv: Sequence[str], code: int, out: bytes) -> str:
        lines = out.decode("utf-8", errors="replace").strip().splitlines() or ["no output"]
        how = f"was killed by signal {-code}" if code < 0 else f"exited {code}"
        return f"{self.service}: {what} command {argv[0]} {how}: {lines[-1][:200]}"
