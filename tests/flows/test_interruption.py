"""Ctrl-C, SIGTERM and a Prefect cancellation in the middle of a verification undo the change."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.scenarios import SERVICE
from tests.conftest import PrefectServer
from tests.flows.conftest import Build
from tests.flows.support import Scene, until


def local_run(scene: Scene, home: Path, server: PrefectServer) -> subprocess.Popen[str]:
    """`runbooks run apply-serving ... --local`, which then watches for a minute."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(server.folder / "prefect.db") as old:  # saves the migrations
        with sqlite3.connect(folder / "prefect.db") as new:
            old.backup(new)
        new.close()
    old.close()
    file = home / "stack.yaml"
    file.write_text(json.dumps(scene.spec.model_dump(mode="json", exclude_none=True)))
    argv = [sys.executable, "-m", "deployments.cli", "run", "apply-serving", "--local", "--yes"]
    argv += ["--stack", str(file), "--service", SERVICE, "-p", "max_model_len=4096"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return subprocess.Popen(
        argv,
        env={**env, "RUNBOOKS_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("ends", ["serving", "exited"], ids=["was-up", "was-down"])
async def test_an_interrupted_local_run_undoes_its_change(
    build: Build, home: Path, prefect_server: PrefectServer, number: int, ends: str
) -> None:
    scene = await build(until=ends, policy={"stabilisation_s": 60})
    before = scene.config.read_bytes()
    process = local_run(scene, home, prefect_server)
    try:
        await until(lambda: scene.config.read_bytes() != before or process.poll(), 90)
        await until(lambda: scene.pid or process.poll())
        time.sleep(1)  # into the verification
        began = time.monotonic()
        os.kill(process.pid, number)
        said, _ = process.communicate(timeout=45)
        took = time.monotonic() - began
    finally:
        process.kill()
    assert process.returncode != 0, said
    scene.as_before(before)
    assert took < 40, said
    if ends == "serving":
        assert await scene.health() == "healthy"
    else:
        assert scene.pid is None
    assert [a.verdict for a in scene.journal.acts()] == ["error"]
    assert "interrupted" in said
