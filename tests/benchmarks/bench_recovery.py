"""From a dead server to a healthy one, against what the server itself needs for its start.

The stand-in loads for START_S, once healthy and once under the procedure, in the same run: the
difference is ours. On a real GPU the load takes minutes and our part stays what it is here.
"""

import asyncio
import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

START_S = 3.0
SERVICE = "wintermute"
POLICY = {
    "autonomy": "auto",
    "attempts": 20,
    "cooldown_s": 0,
    "start_timeout_s": 60,
    "stabilisation_s": 2,
    "decode_timeout_s": 2,
    "poll_s": 0.2,
}
LADDER = {"max_model_len": [16384, 12288, 8192]}
FAILS, FITS = 16384, 8192

Rows = list[dict[str, Any]]
Start = Callable[[int], Awaitable[None]]


@contextlib.asynccontextmanager
async def local_process() -> AsyncIterator[tuple[dict[str, Any], Start]]:
    """A supervised process on this host: (its entry in a stack, how to start it with a length)."""
    from deployments.sandbox.local import Sandbox

    box = Sandbox.create(tempfile.mkdtemp(prefix="runbooks-bench-"))
    serving = {"max_model_len": FITS}
    made = box.add_vllm(SERVICE, serving=serving, params={"startup_s": START_S})

    async def start(length: int) -> None:
        await asyncio.to_thread(box.stop, SERVICE)
        assert made.config is not None
        text = made.config.read_text()
        for n in (FAILS, FITS):
            text = text.replace(str(n), str(length))
        made.config.write_text(text)
        await asyncio.to_thread(box.start, SERVICE)
        if length == FAILS:
            await asyncio.to_thread(box.wait_exited, SERVICE, 30)

    try:
        yield made.fragment(), start
    finally:
        await asyncio.to_thread(box.stop_all)


@contextlib.asynccontextmanager
async def docker_container() -> AsyncIterator[tuple[dict[str, Any], Start]]:
    """A container; its numbers are its arguments."""
    import docker

    from deployments.sandbox import docker_image
    from deployments.sandbox.local import free_port

    client = docker.from_env(timeout=30)
    client.ping()
    name, port = f"bench-{os.getpid()}-{uuid.uuid4().hex[:6]}", free_port()

    def begin(length: int) -> None:
        docker_image.remove_all(client, name)
        container = docker_image.run_container(
            client,
            name,
            ["--model", "/models/wintermute-tiny", "--served-model-name", SERVICE]
            + ["--max-num-seqs", "8", "--max-model-len", str(length)],
            port=port,
            env={"SANDBOX_STARTUP_S": str(START_S)},
        )
        if length == FAILS:
            container.wait(timeout=60)

    runtime = {"kind": "docker", "container": name, "stop_timeout_s": 10}
    try:
        yield (
            {"url": f"http://127.0.0.1:{port}", "runtime": runtime},
            lambda length: asyncio.to_thread(begin, length),
        )
    finally:
        docker_image.remove_all(client, name)
        client.close()


async def _first_token(url: str) -> float:
    """Seconds until it decodes."""
    began = time.monotonic()
    body = {"model": SERVICE, "prompt": "hello", "max_tokens": 1}
    async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
        while time.monotonic() - began < 60:
            with contextlib.suppress(httpx.TransportError):
                if (await client.post("/v1/completions", json=body)).status_code == 200:
                    return time.monotonic() - began
            await asyncio.sleep(0.02)
    raise AssertionError(f"{url} does not decode")


async def _measure(name: str, platform: Any) -> Rows:
    from blocks.stack import StackSpec
    from deployments.bootstrap import register
    from deployments.running import Request, run_here
    from flows.report import Options

    async with platform() as (entry, start):
        began = time.monotonic()
        await start(FITS)
        await _first_token(entry["url"])
        own = time.monotonic() - began
        await start(FAILS)
        service = {**entry, "served_model_name": SERVICE, "ladder": LADDER, "policy": POLICY}
        spec = StackSpec.model_validate(
            {"name": f"bench-{uuid.uuid4().hex[:6]}", "services": {SERVICE: service}}
        )
        await register(spec)
        options = Options(actor="bench", source="cli")
        began = time.monotonic()
        report = await run_here(Request("remediate-oom", spec.name, SERVICE, (), options))
        whole = time.monotonic() - began
    assert report.verdict == "passed", report.headline
    done = report.attempts[-1]
    token = (report.first_act_s or 0) + done.act_s + (done.verification.first_token_s or 0)
    watched = POLICY["stabilisation_s"]

    def row(what: str, value: float, unit: str, note: str) -> dict[str, Any]:
        return {
            "name": f"recovery {name}: {what}",
            "value": round(value, 2),
            "unit": unit,
            "note": note,
        }

    return [
        row("server's own start", own, "s", "started by hand with what fits, until it decodes"),
        row(
            "until the first token", token, "s", "from the flow's start: look, diagnose, act, load"
        ),
        row("against its own start", token / own, "x", "1.0 would be a person who knew the answer"),
        row(
            "until the verdict",
            report.duration_s,
            "s",
            f"with {watched:g} s of watching it stay up",
        ),
        row("until the record is out", whole, "s", "page, chart, data, event; Prefect's own end"),
    ]


async def _both() -> Rows:
    rows = await _measure("local process", local_process)
    try:
        rows += await _measure("docker", docker_container)
    except Exception as e:  # noqa: BLE001 - no engine, or one that cannot run the stand-in
        rows.append(
            {
                "name": "recovery docker",
                "value": None,
                "unit": "",
                "note": f"skipped: {type(e).__name__}: {str(e)[:90]}",
            }
        )
    return rows


def run() -> Rows:
    """Rows {name, value, unit, note}."""
    from deployments import connection

    with tempfile.TemporaryDirectory(prefix="runbooks-bench-", ignore_cleanup_errors=True) as home:
        os.environ["RUNBOOKS_HOME"] = home
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
        connection.use_this_process()
        return asyncio.run(_both())


if __name__ == "__main__":
    print(run())
