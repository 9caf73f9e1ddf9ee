"""Random crashes: a server that runs, dies and runs again (handbook 004, "Random Crashes")."""

import asyncio
from datetime import UTC, datetime, timedelta

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.journal import Verdict
from flows.broken import diagnosed, on_broken
from flows.decisions.crash import REPEATED, crash_step
from flows.decisions.diagnosis import Diagnosis, diagnose
from flows.driver_check import note_driver
from flows.planning import plan_only
from flows.procedure import perform, state_of
from flows.report import Options, Report
from flows.run import Run
from flows.stepping import Choose, step_down
from tasks.reads import Observation, read_log

HISTORY_H = 24


@flow(name="remediate-crash", flow_run_name="remediate-crash {service}")
async def remediate_crash(stack: str, service: str, options: Options = Options()) -> State[Report]:  # noqa: B008
    """End the instability of a vLLM server that keeps crashing, and prove that it decodes.

    Counts its crashes and diagnoses the last one, also when it happens to be up between two.
    Repeated illegal memory accesses turn an fp8 KV cache off, with the context cut to what then
    fits in the same plan; then fewer sequences. One crash alone changes nothing. The host's
    driver is held against the CUDA build and named. What does not help is undone.

    Args:
        stack: Registered stack, or the path of its YAML file.
        service: Service in that stack.
        options: Dry run, approval, actor, source.
    """
    return state_of(await perform("remediate-crash", stack, service, options, _remediate))


async def _remediate(run: Run) -> Report:
    return await on_broken(run, _broken, unstable=_between_crashes)


async def _broken(run: Run, seen: Observation) -> Report:
    if report := await diagnosed(run, seen):
        return report
    return await _treat(run, seen, await crashes_of(run, seen))


async def _between_crashes(run: Run, seen: Observation) -> Report:
    """Up, but it restarted by itself: the crash is in the log before the present start."""
    run.diagnosis = await _history(run)
    crashes = await crashes_of(run, seen)
    if run.diagnosis.label == "healthy_noise" or crashes < REPEATED:
        done: Verdict = "planned" if plan_only(run) else "passed"
        return run.report(
            done,
            f"no action: it is healthy, and the log of the last {HISTORY_H} h shows {crashes} "
            f"crash(es) ({run.diagnosis.label})",
        )
    return await _treat(run, seen, crashes)


async def _treat(run: Run, seen: Observation, crashes: int) -> Report:
    assert run.diagnosis is not None  # noqa: S101 - both callers diagnosed
    await note_driver(run)
    return await step_down(run, seen.config, run.diagnosis, choose_for_crash(run, crashes))


async def crashes_of(run: Run, seen: Observation) -> int:
    """How often it crashed lately (count): what both its log and its restart count bear out.

    The runtime counts since the container was made, which may be months ago.
    """
    ended = seen.state.phase in ("exited", "restarting")
    counted = seen.state.restarts + ended
    if not seen.state.restarts:
        return counted  # whatever a day's log says
    return min(counted, max((await _history(run)).crashes, ended))


async def _history(run: Run) -> Diagnosis:
    log = await read_log(run.target, datetime.now(UTC) - timedelta(hours=HISTORY_H))
    return await asyncio.to_thread(diagnose, log)


def choose_for_crash(run: Run, crashes: int) -> Choose:
    """The rule of this procedure, for the service of the run."""
    ladder = run.target.service.ladder
    return lambda config, cause, tried: crash_step(
        config, cause, ladder, crashes=crashes, tried=tried
    )
