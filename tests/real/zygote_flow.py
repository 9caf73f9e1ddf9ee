"""What the zygote's tests and its benchmark run: a flow that reports about its process."""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from prefect import flow
from prefect.settings import get_current_settings

LOADED = time.time()


@flow
def probe(out: str, mode: str = "end", seconds: float = 0) -> None:
    """Say what this process is, then end in the way that is asked for."""
    body = time.time()
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    said = {
        "body": body,
        "loaded": LOADED,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "api": get_current_settings().api.url,
        "level": str(get_current_settings().logging.level),
        "mark": os.environ.get("ZYGOTE_TEST_MARK"),
        "random": random.random(),
        "fds": fds,
        "modules": len(sys.modules),
        "matplotlib": "matplotlib" in sys.modules,
        "forked": "deployments.zygote" in sys.modules or "deployments.launch" in sys.modules,
        "threads": [t.name for t in threading.enumerate()],
    }
    path = Path(out)
    path.with_suffix(".part").write_text(json.dumps(said))
    path.with_suffix(".part").rename(path)
    print(f"printed by {os.getpid()}", flush=True)
    try:
        time.sleep(seconds)
    finally:
        path.with_suffix(".undone").write_text(str(time.time()))
    if mode == "fail":
        raise ValueError("as asked")
    if mode == "exit":
        os._exit(7)
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
