"""A scenario's platform: built from stand-ins, made to fail, kept busy while it is remedied."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from ruamel.yaml import YAML

from blocks.stack import StackSpec, parse_stack
from deployments.sandbox.local import Sandbox
from deployments.scenarios import SERVICE, Scenario

PROXY = "motoko"
POLICY = {
    "autonomy": "auto",
    "cooldown_s": 0,
    "start_timeout_s": 20,
    "stabilisation_s": 1,
    "decode_timeout_s": 2,
    "poll_s": 0.3,
}
"""Of every service here, unless the scenario says otherwise."""


def inventory(scenario: Scenario, box: Sandbox, **sections: Any) -> StackSpec:
    """The stack of a scenario's platform, as a user would write it; also written to a file.

    Args:
        scenario: what its own sections say wins.
        box: its stand-ins.
        sections: further ones.
    """
    platform = scenario.platform
    document = box.stack("sandbox")
    policy = {**POLICY, **platform.policy}
    for entry in document["services"].values():
        entry["policy"] = policy
    document["services"][SERVICE] |= {
        "served_model_name": SERVICE,
        "gpu": {"name": "stand-in RTX 3060", "vram_gib": 12},
        "ladder": platform.ladder.model_dump(mode="json"),
        "slo": platform.slo,
    }
    if platform.model_link:
        model = {"name": SERVICE, "link": str(_link(box))}
        document["services"][SERVICE]["model"] = model
    document |= sections
    for name, own in scenario.stack.items():
        both = isinstance(own, dict) and isinstance(document.get(name), dict)
        document[name] = {**document[name], **own} if both else own
    text = io.StringIO()
    YAML().dump(document, text)
    (box.dir / "stack.yaml").write_text(text.getvalue(), encoding="utf-8")
    return parse_stack(text.getvalue())


def _link(box: Sandbox) -> Any:
    return box.dir / "models" / "current_model"


async def stage(scenario: Scenario, box: Sandbox, **sections: Any) -> StackSpec:
    """Build the platform and let it fail; further `sections` of its inventory."""
    platform, trigger = scenario.platform, scenario.trigger
    serving = dict(platform.serving)
    if platform.model_link:
        link = _link(box)
        (link.parent / "tiny-v1").mkdir(parents=True)
        link.symlink_to("tiny-v1")
        serving["model"] = str(link)
    box.add_vllm(
        SERVICE,
        style=platform.style,
        preset=platform.preset,
        serving=serving,
        params=platform.params,
        restart=platform.restart,
    )
    await asyncio.to_thread(box.start, SERVICE)
    if trigger.requests or trigger.until == "serving":
        await asyncio.to_thread(box.wait_serving, SERVICE, 20)
    if proxy := platform.proxy:
        box.add_litellm(
            PROXY,
            {SERVICE: {"backend": SERVICE, **proxy.limits}},
            params=proxy.params,
            allowed_fails=proxy.allowed_fails,
            cooldown_time=proxy.cooldown_s,
        )
        await asyncio.to_thread(box.start, PROXY, ready_s=20)
    await _fail(scenario, box)
    return inventory(scenario, box, **sections)


async def _fail(scenario: Scenario, box: Sandbox) -> None:
    trigger = scenario.trigger
    url = box.services[SERVICE].url
    await _send(url, trigger.requests, lambda: box.status(SERVICE)["phase"] == "exited")
    if trigger.stop:
        os.kill(box.status(SERVICE)["pid"], signal.SIGKILL)
    if trigger.until == "exited" or trigger.stop:
        await asyncio.to_thread(box.wait_exited, SERVICE, 20)
    if trigger.faults:
        await asyncio.to_thread(lambda: box.fault(SERVICE, **trigger.faults))
    if trigger.passing_faults:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/sandbox/faults", json=trigger.passing_faults)
            answer.raise_for_status()
    if trigger.break_link:
        (_link(box).parent / "tiny-v1").rmdir()
    if trigger.proxy_requests:
        await _send(box.services[PROXY].url, trigger.proxy_requests)


async def _send(url: str, count: int, ended: Callable[[], bool] = lambda: False) -> None:
    """Requests that may well kill it, again and again, until it has `ended` for good."""
    async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
        for _ in range(count):
            try:
                await client.post("/v1/completions", json=_completion(4))
            except httpx.HTTPError:
                if await asyncio.to_thread(ended):
                    return
                await asyncio.sleep(0.1)  # its policy starts it anew


def _completion(tokens: int) -> dict[str, Any]:
    return {"model": SERVICE, "prompt": "hello", "max_tokens": tokens}


@contextlib.asynccontextmanager
async def traffic(scenario: Scenario, box: Sandbox) -> AsyncIterator[None]:
    """Clients that ask again and again, through a restart too, until the block ends."""

    async def client() -> None:
        url = box.services[SERVICE].url
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await http.post("/v1/completions", json=_completion(24))
                await asyncio.sleep(0.02)

    clients = [asyncio.ensure_future(client()) for _ in range(scenario.trigger.traffic)]
    try:
        if clients:
            await asyncio.sleep(1)  # the histogram has some requests by then
        yield
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
