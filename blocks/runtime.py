"""The one small protocol behind every way to run a service."""

from datetime import datetime
from typing import Protocol

from blocks.models import How, Receipt, ServiceState, ServingConfig


class Runtime(Protocol):
    """Status, log and reversible application of a serving config.

    `prepare` has no effect on the service. `act`, `commit` and `restore` may each be cut
    short by a kill -9; `commit` and `restore` are idempotent and work from the journalled
    receipt alone, in another process, wherever `act` stopped. After `restore` the service
    has the config and the run state (up or down) that `prepare` recorded. Never do two
    instances of the service run at once.

    Errors: `Transient` (engine does not answer), `Permanent` (no such container, edit
    impossible), `Unsafe` (acting would lose the way back).
    """

    async def state(self) -> ServiceState:
        """Whether it runs, how it ended, how often it was restarted."""
        ...

    async def read_config(self) -> ServingConfig:
        """The serving config as written down where it lives (not as the server reports it)."""
        ...

    async def read_log(
        self, max_bytes: int = 4 * 1024 * 1024, since: datetime | None = None
    ) -> bytes:
        """The last `max_bytes` of the log of the latest start; with `since`, of all since then."""
        ...

    async def image(self) -> str:
        """The image as its container names it, e.g. `vllm/vllm-openai:v0.9.2`; else empty."""
        ...

    async def prepare(self, after: ServingConfig, run_id: str, how: How = "apply") -> Receipt:
        """Check that `after` can be applied and undone; make the backup; change nothing else.

        `restart` and `recreate` take the config as it is: `after` equals what is written down.

        Raises:
            Permanent: nothing to change, or this runtime has no such way (`recreate`).
        """
        ...

    async def act(self, receipt: Receipt) -> None:
        """Apply `receipt.after` and start the service; returns without waiting for health.

        Raises:
            Unsafe: `locked` or `drifted`, before anything was touched: nothing is to be undone.
            Permanent, Transient: it may have been done in part; `restore` is due.
        """
        ...

    async def commit(self, receipt: Receipt) -> None:
        """Give up the way back: the change stays."""
        ...

    async def restore(self, receipt: Receipt) -> None:
        """Bring back `receipt.before` and the recorded run state."""
        ...

    async def applied(self, receipt: Receipt) -> bool:
        """True when the service on stage is the one `act` made from this receipt."""
        ...
