"""Frozen readings: what adapters return and decisions take. No I/O here."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of every value that travels between layers: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ServingConfig(Frozen):
    """The numbers of a server that procedures read and change.

    `None` means "not set": vLLM's own default applies. `max_model_len` of `auto` or -1
    is read as `None`. Names are vLLM's engine arguments in snake_case. A LiteLLM proxy has
    `limits` only, and every other service nothing at all.
    """

    max_model_len: int | None = None
    """Context length, tokens."""
    gpu_memory_utilization: float | None = None
    """Share of the device's memory, 0..1."""
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str | None = None
    enforce_eager: bool | None = None
    tensor_parallel_size: int | None = None
    quantization: str | None = None
    dtype: str | None = None
    model: str | None = None
    served_model_name: str | None = None
    limits: dict[str, int] = {}
    """LiteLLM: `MODEL.max_input_tokens`, `.max_output_tokens`, `.tpm`, `.rpm` -> value; the
    second deployment of one model name is `MODEL#2`."""

    def changed(self, **values: Any) -> "ServingConfig":
        """A copy with the given fields replaced."""
        return ServingConfig(**{**self.model_dump(), **values})

    def diff(self, after: "ServingConfig") -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name -> (before, after); a limit by its own name."""
        mine, theirs = self._flat(), after._flat()
        names = [*mine, *(k for k in theirs if k not in mine)]
        return {k: (mine.get(k), theirs.get(k)) for k in names if mine.get(k) != theirs.get(k)}

    def _flat(self) -> dict[str, Any]:
        values = self.model_dump()
        return {**{k: v for k, v in values.items() if k != "limits"}, **values["limits"]}


SERVING_FIELDS = tuple(name for name in ServingConfig.model_fields if name != "limits")
"""vLLM's engine arguments among them, as they stand in a file or on a command line."""

Phase = Literal["running", "restarting", "starting", "exited", "missing", "unknown"]


class ServiceState(Frozen):
    """What the runtime says of one service's process or container, at one instant."""

    phase: Phase
    exit_code: int | None = None
    oom_killed: bool = False
    restarts: int = 0
    """Automatic restarts since this instance was created (count)."""
    restarts_known: bool = True
    """False: its runtime does not tell how many; `restarts` is then 0 and means nothing."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    instance: str = ""
    """Container id or pid: another value means it was replaced."""
    image: str = ""
    """As its container names it, e.g. `vllm/vllm-openai:v0.9.2`; empty where it is not told."""
    detail: str = ""

    @property
    def running(self) -> bool:
        """True only for a process that is up; never for one that is being restarted."""
        return self.phase == "running"


class Serving(Frozen):
    """What one vLLM server answered at one instant. `None` = could not be measured."""

    reachable: bool
    health_status: int | None = None
    """HTTP status of /health."""
    model_id: str | None = None
    max_model_len: int | None = None
    """Tokens, as /v1/models reports it."""
    model_ids: tuple[str, ...] = ()
    decoded: bool | None = None
    """A one-token completion answered with a token."""
    decode_s: float | None = None
    problem: str = ""


How = Literal["apply", "restart", "recreate"]
"""apply: put other numbers in place; restart: the same process or container, started anew;
recreate: a new container from the old one's configuration."""


class Receipt(Frozen):
    """What a runtime needs, in another process after a kill -9, to undo or to finish one act.

    Written to the journal *before* the act. `data` holds plain JSON and never a secret.
    """

    runtime: str
    service: str
    before: ServingConfig
    after: ServingConfig
    was_running: bool
    data: dict[str, Any] = {}
