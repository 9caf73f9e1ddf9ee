"""A real Prometheus and a real Alertmanager on free ports of this machine, thrown away."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import free_port, missing


class Monitor:
    """One started server."""

    def __init__(self, name: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, argv: list[str]) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2):
                    return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise AssertionError(f"{argv[0]} is not ready: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path: str) -> object:
        """JSON of one path."""
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)


def _binary(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing(names[0], f"apt-get install {names[0]}")
        raise AssertionError  # `missing` does not return
    return found


@contextmanager
def start_prometheus(
    tmp: Path,
    scrape: Mapping[str, Sequence[str]],
    rules: str | None = None,
    alertmanager: str | None = None,
    interval_s: float = 1,
) -> Iterator[Monitor]:
    """A Prometheus that scrapes `job -> HOST:PORT`s and evaluates rules, as often as it is told.

    Skips the test (or fails it, by RUNBOOKS_REQUIRE) where none is installed.

    Args:
        tmp: where it keeps its data; a folder of its own is made in it.
        scrape: job -> targets.
        rules: text of a rule file.
        alertmanager: url of the Alertmanager that is told.
        interval_s: between two scrapes, and two evaluations.
    """
    binary = _binary("prometheus")
    folder = tmp / f"prometheus-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    every = f"{max(1, round(interval_s * 1000))}ms"
    config: dict[str, object] = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]}
            for job, targets in scrape.items()
        ],
    }
    if rules is not None:
        (folder / "rules.yml").write_text(rules)
        config["rule_files"] = ["rules.yml"]
    if alertmanager is not None:
        target = {"targets": [urlsplit(alertmanager).netloc]}
        config["alerting"] = {"alertmanagers": [{"static_configs": [target]}]}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    server = Monitor("prometheus", folder)
    argv = [binary, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]
    # What fires before it has discovered its Alertmanager is lost, and said again a minute later.
    argv.append("--rules.alert.resend-delay=2s")
    server.start([*argv, f"--web.listen-address=127.0.0.1:{server.port}"])
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def start_alertmanager(tmp: Path, webhook: str = "", token: str = "") -> Iterator[Monitor]:
    """An Alertmanager; alerts, silences and inhibitions are its own.

    An alert `critical` inhibits a `warning` one of the same `service`.

    Args:
        tmp: where it keeps its data; a folder of its own is made in it.
        webhook: URL that is told at once, of resolved alerts too; empty: nobody is told.
        token: bearer token of the webhook.
    """
    binary = _binary("prometheus-alertmanager", "alertmanager")
    folder = tmp / f"alertmanager-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    receiver: dict[str, object] = {"name": "somebody"}
    if webhook:
        bearer = {"authorization": {"type": "Bearer", "credentials": token}}
        hook = {"url": webhook, "send_resolved": True, "http_config": bearer}
        receiver["webhook_configs"] = [hook]
    pauses = {"group_wait": "0s" if webhook else "1s", "group_interval": "1s"}
    config = {
        "route": {"receiver": "somebody", "group_by": ["..."], **pauses},
        "receivers": [receiver],
        "inhibit_rules": [
            {
                "source_matchers": ['severity="critical"'],
                "target_matchers": ['severity="warning"'],
                "equal": ["service"],
            }
        ],
    }
    (folder / "alertmanager.yml").write_text(json.dumps(config))
    server = Monitor("alertmanager", folder)
    argv = [binary, "--config.file=alertmanager.yml", "--storage.path=data", "--log.level=warn"]
    argv += ["--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{server.port}"]
    server.start(argv)
    try:
        yield server
    finally:
        server.stop()
