"""How long requests take just now: two looks at a server's own histogram."""

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE

from blocks.metric_values import MetricsPage
from blocks.metrics_page import scrape
from blocks.target import Target


@task(
    name="read-traffic",
    task_run_name="watch the traffic of {target.name}",
    cache_policy=NO_CACHE,
    retries=0,
)
async def read_traffic(target: Target, window_s: float) -> tuple[MetricsPage, MetricsPage]:
    """The service's `/metrics` now and `window_s` seconds later."""
    before = await scrape(target.service)
    if not before.problem:
        await asyncio.sleep(window_s)
    return before, await scrape(target.service)
