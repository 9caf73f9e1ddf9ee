"""Plans, with the warning an operator wants before an apply that cannot fit."""

import asyncio
import json
from pathlib import Path
from typing import Any

from blocks.models import ServingConfig
from flows.decisions.plan import Plan
from flows.decisions.sizing import fits, kv_shape
from flows.run import Run


def plan_only(run: Run) -> bool:
    """Whether this run may only plan: a dry run, or a service that is only observed."""
    return run.options.dry_run or run.target.service.policy.autonomy_of(run.procedure) == "observe"


def make_plan(
    run: Run,
    before: ServingConfig,
    after: ServingConfig,
    *,
    reason: str,
    procedure: str = "",
    **words: Any,
) -> Plan:
    """The plan of one change of this run's service.

    Args:
        run: whose service is changed.
        before: what is written down now.
        after: what is to be.
        reason: why, with its evidence.
        procedure: under whose autonomy and name it acts; default: the run's own.
        words: further fields of the plan.
    """
    return Plan(
        procedure=procedure or run.procedure,
        stack=run.target.stack,
        service=run.target.name,
        before=before,
        after=after,
        reason=reason,
        **words,
    )


async def sizing_warning(run: Run, config: ServingConfig) -> str:
    """Why `config` will probably not fit the service's GPU; empty when it does or is unknown.

    A warning only: the matrix and the arithmetic are estimates, the server's start decides.
    """
    service = run.target.service
    if service.gpu is None:
        return ""
    model = service.model
    name = (model.name if model else None) or config.model or config.served_model_name
    if name is None:
        return ""
    shape = None
    if model and model.config_json:
        try:
            text = await asyncio.to_thread(Path(model.config_json).read_text, encoding="utf-8")
            shape = kv_shape(json.loads(text))
        except (OSError, ValueError) as e:
            return f"{model.config_json} could not be read ({type(e).__name__}): size not checked"
    quantisation = (model.quantisation if model else None) or config.quantization
    fit = fits(name, quantisation, service.gpu, config=config, shape=shape)
    return fit.reason if fit.verdict in ("tight", "too-small") else ""
