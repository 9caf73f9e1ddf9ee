"""Change a serving number on purpose (handbooks: "Deploy", "Configuration Management")."""

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from blocks.errors import Permanent
from blocks.models import Frozen
from flows.holding import holding
from flows.planning import plan_only
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.run import Run, observe
from flows.serving_change import change_to


class ServingChange(Frozen):
    """The numbers to change; what is left empty stays as it is."""

    max_model_len: int | None = Field(default=None, ge=1, description="context length, tokens")
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of the GPU's memory, 0..1"
    )
    max_num_seqs: int | None = Field(default=None, ge=1, description="sequences at once")
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    kv_cache_dtype: str | None = Field(
        default=None, pattern=r"^[a-z0-9_]+$", description="auto, fp8, fp8_e5m2, ..."
    )
    enforce_eager: bool | None = Field(
        default=None, description="no CUDA graphs: saves memory, costs speed"
    )
    tensor_parallel_size: int | None = Field(default=None, ge=1, description="GPUs per replica")


@flow(name="apply-serving", flow_run_name="apply-serving {service}")
async def apply_serving(
    stack: str,
    service: str,
    change: ServingChange,
    options: Options = Options(),  # noqa: B008
) -> State[Report]:
    """Apply new serving numbers to one vLLM server, verify that it decodes, undo if not.

    Backs the config up first, warns when the sizing matrix or the KV arithmetic says that
    it cannot fit, and keeps the old container or file until the new one has proved itself.
    Handbook: Configuration Management, Deploy.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack.
        change: The numbers to change.
        options: Dry run, approval, actor, source.
    """
    return state_of(
        await perform("apply-serving", stack, service, options, lambda run: _apply(run, change))
    )


async def _apply(run: Run, change: ServingChange) -> Report:
    if not (values := change.model_dump(exclude_none=True)):
        raise Permanent("change: names no field; give at least one, e.g. -p max_model_len=8192")
    if plan_only(run):
        return await _change(run, values)
    async with holding(run):
        return await _change(run, values)


async def _change(run: Run, values: dict[str, object]) -> Report:
    seen, _ = await observe(run)
    wanted = seen.config.changed(**values)
    return await change_to(run, seen.config, wanted, reason="asked for by the operator")
