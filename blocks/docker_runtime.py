"""The runtime of a service that is one container of a Docker Engine."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError

from blocks import docker_log, serving_file
from blocks import docker_recreate as recreate
from blocks import docker_restart as restart
from blocks.docker_host import Aborted, DockerHostSpec, Engine
from blocks.docker_inspect import is_up, name_of, refusal, state_of
from blocks.docker_successor import read_config
from blocks.errors import Permanent, Unsafe
from blocks.models import How, Receipt, ServiceState, ServingConfig
from blocks.service import ArgumentsSource, DockerRuntimeSpec, NoSource, ServingSource

T = TypeVar("T")
_log = logging.getLogger(__name__)


class DockerRuntime:
    """Implements `blocks.runtime.Runtime` for one container (source: Docker Engine API >= 1.25).

    Numbers in the arguments are changed by a new container in the old one's place
    (`blocks.docker_recreate`), numbers in a file by an edit and a restart of the same container.
    Two changes of one service at once must be kept apart by the caller's lock; where the lock
    failed, the second one is refused with `Unsafe("locked")` wherever it can be seen.
    """

    def __init__(
        self, service: str, spec: DockerRuntimeSpec, source: ServingSource, host: DockerHostSpec
    ) -> None:
        self.service = service
        self.spec = spec
        self.source = source
        self.host = host

    async def state(self) -> ServiceState:
        """As the engine reports it; `missing` when there is no container of this name.

        Raises:
            Transient, Permanent: the engine does not answer, or refuses.
        """
        return await self._run(self._state)

    async def read_config(self) -> ServingConfig:
        """The numbers where they are written: arguments and environment, or the file.

        Raises:
            Permanent: no such container or file, or a value that cannot be understood.
            Transient: the engine does not answer.
        """
        return await self._run(self._read_config)

    async def read_log(
        self, max_bytes: int = 4 * 1024 * 1024, since: datetime | None = None
    ) -> bytes:
        """The last `max_bytes` of what the latest start wrote, stdout and stderr as they came.

        With `since`, of what every start wrote since then. Works on a stopped container too.
        Holds about `max_bytes` in memory.

        Raises:
            Permanent: no such container, or its log driver cannot be read.
            Transient: the engine does not answer.
        """
        return await self._run(lambda engine: self._read_log(engine, max_bytes, since))

    async def leftovers(self) -> list[str]:
        """Names of containers that an unfinished change of this service left behind."""
        return await self._run(self._leftovers)

    async def image(self) -> str:
        """The image as the container was created from it, e.g. `vllm/vllm-openai:v0.9.2`.

        Raises:
            Permanent: no such container. Transient: the engine does not answer.
        """
        return await self._run(
            lambda engine: str(engine.inspect(self.spec.container)["Config"].get("Image") or "")
        )

    async def prepare(self, after: ServingConfig, run_id: str, how: How = "apply") -> Receipt:
        """Check that `after` can be applied and undone; back a file up; change nothing else.

        Raises:
            Unsafe: `blast-radius` (Compose, Swarm or Kubernetes own the container, --rm, another
                container lives in its network), `locked` (left-overs of another change).
            Permanent: paused or dead, image deleted, arguments or file not editable.
            Transient: the engine does not answer.
        """
        return await self._run(lambda engine: self._prepare(engine, after, run_id, how))

    async def act(self, receipt: Receipt) -> None:
        """Apply `receipt.after` and start the service; its health is not waited for.

        Raises:
            Unsafe: `locked` or `drifted`; nothing was changed.
            Permanent, Transient: cut short; `restore` is due.
        """
        await self._run(lambda engine: self._act(engine, receipt))

    async def commit(self, receipt: Receipt) -> None:
        """Remove the old container (a file's backup stays). Idempotent.

        Raises:
            Permanent: the new container is not on stage, so the old one is kept.
            Transient: the engine does not answer.
        """
        note = _note(receipt)
        if isinstance(note, recreate.RecreateNote):
            await self._run(lambda engine: recreate.commit(engine, note))

    async def restore(self, receipt: Receipt) -> None:
        """Bring back the same old container, or the file's bytes, and the run state. Idempotent.

        Raises:
            Unsafe: `locked` (another change holds the stage), `drifted` (the file was edited
                since by somebody).
            Permanent: the old container or the backup is gone.
            Transient: the engine does not answer; restore again.
        """
        await self._run(lambda engine: self._restore(engine, receipt))

    async def applied(self, receipt: Receipt) -> bool:
        """True when what is on stage was started by `act` from this receipt."""
        return await self._run(lambda engine: self._applied(engine, receipt))

    async def _run(self, work: Callable[[Engine], T]) -> T:
        """Do blocking work with one connection in a thread.

        When cancelled, it waits for the call to the engine that is under way, and no further one
        is made: an undo that follows never races with the act it undoes.
        """
        engine = Engine(self.host)

        def connected() -> T:
            with engine:
                return work(engine)

        thread = asyncio.ensure_future(asyncio.to_thread(connected))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            engine.abort()
            while not thread.done():
                try:
                    await asyncio.wait([thread])
                except asyncio.CancelledError:
                    continue
            if not thread.cancelled() and (error := thread.exception()):
                if not isinstance(error, Aborted):
                    _log.warning("%s: cancelled, and: %s", self.service, error)
            raise

    def _state(self, engine: Engine) -> ServiceState:
        doc = engine.find(self.spec.container)
        if doc:
            return state_of(doc)
        left = self._leftovers(engine)
        detail = f"unfinished change: {', '.join(left)}" if left else ""
        return ServiceState(phase="missing", detail=detail)

    def _read_config(self, engine: Engine) -> ServingConfig:
        if isinstance(self.source, ArgumentsSource):
            return read_config(engine.inspect(self.spec.container), self.source)
        return serving_file.read_file(self.source)

    def _read_log(self, engine: Engine, max_bytes: int, since: datetime | None) -> bytes:
        doc = engine.inspect(self.spec.container)
        begin = f"{since.timestamp():.9f}" if since else docker_log.since(doc)
        if begin is None:
            return b""
        try:
            chunks = engine.logs(doc["Id"], begin, docker_log.lines_for(max_bytes))
            return docker_log.tail(docker_log.plain(doc, chunks), max_bytes)
        except Permanent as e:
            if "does not support reading" not in str(e):
                raise
            driver = doc["HostConfig"]["LogConfig"]["Type"]
            raise Permanent(
                f"the log of container {name_of(doc)} cannot be read back: its log driver is "
                f"{driver!r}; use json-file or local, or read it where the driver sends it"
            ) from e

    def _leftovers(self, engine: Engine) -> list[str]:
        mine = {f"/{self.spec.container}.runbooks-{which}" for which in ("new", "old")}
        found = {name for item in engine.containers() for name in item.get("Names") or []}
        return sorted(name.lstrip("/") for name in mine & found)

    def _prepare(self, engine: Engine, after: ServingConfig, run_id: str, how: How) -> Receipt:
        doc = engine.inspect(self.spec.container)
        source, name = self.source, name_of(doc)
        anew = isinstance(source, ArgumentsSource) and how != "restart"
        if how == "recreate" and not anew:
            raise Permanent(f"{self.service}: its numbers are in a file; a restart reads them anew")
        if error := refusal(doc, recreate=anew):
            raise error
        if left := self._leftovers(engine):
            raise Unsafe(
                "locked",
                f"an earlier change of container {name} was cut short and left {', '.join(left)}; "
                f"look: docker inspect {left[0]}; where no journal entry explains it, remove it",
            )
        note: recreate.RecreateNote | restart.RestartNote
        before = self._read_config(engine)
        if how == "apply" and before == after:
            raise Permanent(f"{self.service}: it is so already; nothing to change")
        if how != "apply" and before != after:
            raise Unsafe("drifted", f"the numbers of {name} changed since the plan; plan again")
        if isinstance(source, ArgumentsSource) and anew:
            note = recreate.prepare(engine, doc, source, before, after, run_id)
        else:
            file = NoSource(kind="none") if isinstance(source, ArgumentsSource) else source
            note = restart.prepare(doc, file, before, after, run_id)
        return Receipt(
            runtime="docker",
            service=self.service,
            before=before,
            after=after,
            was_running=is_up(doc),
            data=note.model_dump(),
        )

    def _act(self, engine: Engine, receipt: Receipt) -> None:
        note, wait = _note(receipt), self.spec.stop_timeout_s
        before, after = receipt.before, receipt.after
        if isinstance(note, recreate.RecreateNote):
            recreate.act(engine, note, self._arguments(), before, after, wait)
        else:
            restart.act(engine, note, self._file(note), before, after, wait)
        _log.info("%s: container %s started with %s", self.service, note.name, before.diff(after))

    def _restore(self, engine: Engine, receipt: Receipt) -> None:
        note, wait = _note(receipt), self.spec.stop_timeout_s
        if isinstance(note, recreate.RecreateNote):
            recreate.restore(engine, note, receipt.was_running, wait)
        else:
            restart.restore(engine, note, self._file(note), receipt.was_running, wait)
        _log.info(
            "%s: container %s is back as it was, %s",
            self.service,
            note.name,
            "up" if receipt.was_running else "down",
        )

    def _applied(self, engine: Engine, receipt: Receipt) -> bool:
        note = _note(receipt)
        if isinstance(note, recreate.RecreateNote):
            return recreate.on_stage(engine, note)
        return restart.applied(engine, note, self._file(note))

    def _arguments(self) -> ArgumentsSource:
        if isinstance(self.source, ArgumentsSource):
            return self.source
        raise Permanent(_MOVED.format(service=self.service, was="arguments", now=self.source.kind))

    def _file(self, note: restart.RestartNote) -> serving_file.FileSource:
        if not note.backup:  # a pure restart: no file was touched
            return NoSource(kind="none")
        if not isinstance(self.source, ArgumentsSource):
            return self.source
        raise Permanent(_MOVED.format(service=self.service, was="a file", now="arguments"))


_MOVED = (
    "{service}: this change was made when the numbers were in {was}; the inventory now says "
    "{now}: put that back to undo it"
)


def _note(receipt: Receipt) -> recreate.RecreateNote | restart.RestartNote:
    """The journalled note. Raises Permanent when it is no note of this runtime."""
    kinds: dict[str, type[recreate.RecreateNote] | type[restart.RestartNote]]
    kinds = {"recreate": recreate.RecreateNote, "restart": restart.RestartNote}
    try:
        return kinds[receipt.data["kind"]].model_validate(receipt.data)
    except (KeyError, ValidationError) as e:
        raise Permanent(
            f"{receipt.service}: the journal's receipt is none of the docker runtime "
            f"({receipt.runtime}); undo by hand"
        ) from e
