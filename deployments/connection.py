"""Where the product keeps its state and where its Prefect server is. Imports no Prefect.

Prefect reads its settings when it is imported, so `use_server` and `use_this_process` must
run before the first import of a flow.
"""

import errno
import json
import os
import socket
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from blocks.journal import home, write_atomically
from blocks.prefect_models import POOL as POOL

LEASES = "prefect.server.concurrency.lease_storage.filesystem"

SETTINGS = {
    # kill -9 of a lock's holder plus a server restart leaks a slot kept in memory for good.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    # How often expired leases are looked for; the default of 15 s adds to the wait for a lock.
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "2",
    # Without heartbeats nothing notices an orphaned run: the automation needs them.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    # A server that restarts takes seconds: a run must outlive that.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


@dataclass(frozen=True)
class Up:
    """What a running `runbooks up` wrote about itself."""

    pid: int
    url: str
    children: dict[str, int]
    gateway: str = ""
    """URL of its gateway, e.g. http://127.0.0.1:4300; one that listens everywhere is named so."""


def up_file() -> Path:
    """Where `runbooks up` says that it runs."""
    return home() / "up.json"


def read_up() -> Up | None:
    """What the last `runbooks up` wrote; it need not live any more."""
    try:
        return Up(**json.loads(up_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_up(up: Up) -> None:
    """Say that this process serves."""
    write_atomically(up_file(), json.dumps(asdict(up)))


def answers(url: str, timeout_s: float = 3) -> bool:
    """Whether a Prefect server answers under its API url."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout_s) as got:  # noqa: S310
            return bool(got.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def prefect_home() -> Path:
    """Prefect's folder; it must exist before a server opens its database there."""
    folder = home() / "prefect"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def child_environment(url: str) -> dict[str, str]:
    """The environment of the server, the worker and every run they start."""
    return {
        **os.environ,
        **{k: os.environ.get(k, v) for k, v in SETTINGS.items()},
        "PREFECT_LOGGING_LEVEL": "INFO",  # ours is quieter, but a run's log is its story
        "PREFECT_HOME": str(prefect_home()),
        "PREFECT_API_URL": url,
        "RUNBOOKS_HOME": str(home()),
    }


def find_server() -> str | None:
    """The API url to use: `PREFECT_API_URL` where it is set, else the running `runbooks up`."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url.rstrip("/")
    return running_up()


def running_up() -> str | None:
    """The API url of the `runbooks up` that serves this home now."""
    up = read_up()
    return up.url if up and answers(up.url) else None


def use_server(url: str) -> None:
    """Point this process at a server."""
    os.environ.update({k: v for k, v in SETTINGS.items() if k not in os.environ})
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_HOME", str(prefect_home()))


def use_this_process() -> None:
    """Run flows here, on Prefect's ephemeral server over the same database as `runbooks up`.

    The locks live in that database and their leases beside it, so a local run and a worker
    of the same home exclude each other.
    """
    os.environ.update({k: v for k, v in SETTINGS.items() if k not in os.environ})
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_HOME"] = str(prefect_home())
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "60")


def free_port(preferred: int) -> int:
    """`preferred` on loopback, or the next free one above it."""
    with bound("127.0.0.1", preferred) as s:
        return int(s.getsockname()[1])


def bound(host: str, preferred: int, backlog: int = 0, avoid: int = 0) -> socket.socket:
    """A TCP socket on `preferred`, or on the next free port above it; with a backlog it listens.

    Args:
        host: address of this machine.
        preferred: the first port that is tried.
        backlog: of the queue (count); 0: it does not listen.
        avoid: a port that somebody is about to take.

    Raises:
        OSError: no such address on this machine, or none of 200 ports is free.
    """
    for port in range(preferred, preferred + 200):
        if port == avoid:
            continue
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
            if backlog:  # only one of two that bound it at once can listen
                s.listen(backlog)
        except OSError as e:
            s.close()
            if e.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise
        return s
    raise OSError(f"no free port in {preferred}..{preferred + 199} on {host}")


def url_of(listening: socket.socket | None) -> str:
    """The http URL of a listening socket; empty without one."""
    if listening is None:
        return ""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
