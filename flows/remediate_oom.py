"""Out of memory: find which memory ran out, and take the one step that helps.

Handbooks: "OOM at Startup", "Out of Memory Errors", "OOM during compile", "High GPU memory".
"""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.broken import diagnosed, on_broken
from flows.decisions.step_down import next_step
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.run import Run
from flows.stepping import Choose, step_down
from tasks.reads import Observation


@flow(name="remediate-oom", flow_run_name="remediate-oom {service}")
async def remediate_oom(stack: str, service: str, options: Options = Options()) -> State[Report]:  # noqa: B008
    """Step a vLLM server that ran out of memory down to what fits, and prove that it decodes.

    Reads the log and the state, diagnoses the root cause, takes the smallest step on the
    service's ladder that the cause calls for (skipping rungs above vLLM's own estimate),
    restarts once per step, and verifies by decoding a token for the stabilisation window.
    What does not help is undone. Memory held by another process, host RAM, a missing model
    and the like are named and never stepped down.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack.
        options: Dry run, approval, actor, source.
    """
    return state_of(await perform("remediate-oom", stack, service, options, _remediate))


async def _remediate(run: Run) -> Report:
    return await on_broken(run, _step)


async def _step(run: Run, seen: Observation) -> Report:
    if report := await diagnosed(run, seen):
        return report
    assert run.diagnosis is not None  # noqa: S101 - it was just made
    return await step_down(run, seen.config, run.diagnosis, choose_for_memory(run))


def choose_for_memory(run: Run) -> Choose:
    """The rule of this procedure, for the service of the run."""
    ladder = run.target.service.ladder
    return lambda config, cause, tried: next_step(config, cause, ladder, tried=tried)
