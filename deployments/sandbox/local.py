"""A platform on this machine, made of stand-ins: directories, ports, configs, and their control.

Each call goes through the supervisor's command line, as the product's `command` runtime does,
so that a service outlives the process that started it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from deployments.sandbox.processes import write_json
from deployments.sandbox.vllm_settings import coerce

ConfigStyle = Literal["yaml", "env-file", "arguments"]
SERVER = Path(__file__).with_name("vllm_server.py")
SERVING: dict[str, Any] = {
    "model": "/models/wintermute-tiny",
    "served_model_name": "wintermute",
    "max_model_len": 8192,
    "gpu_memory_utilization": 0.92,
    "max_num_seqs": 8,
}
"""What a stand-in serves unless told otherwise."""
_VARIABLES = {"model": "MODEL_NAME"}


class SandboxError(RuntimeError):
    """The sandbox itself did not do as told."""


@dataclass(frozen=True)
class LocalService:
    """One stand-in and everything that reaches it."""

    name: str
    port: int
    directory: Path
    style: ConfigStyle
    config: Path | None
    """The file its numbers live in; None for `arguments`."""
    keys: dict[str, str] = field(default_factory=dict)
    """Serving field -> key or variable of the file."""

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    def argv(self, verb: str, *more: str) -> list[str]:
        """The supervisor's command line: start, stop, restart, status, logs or fault."""
        return [
            sys.executable,
            "-m",
            "deployments.sandbox.supervisor",
            "--dir",
            str(self.directory.parent),
            verb,
            self.name,
            *more,
        ]

    def fragment(self) -> dict[str, Any]:
        """Its entry under `services:` of a stack.yaml."""
        runtime: dict[str, Any] = {"kind": "command", "status_format": "json"}
        runtime |= {verb: self.argv(verb) for verb in ("restart", "stop", "status", "logs")}
        serving: dict[str, Any] = {"kind": self.style}
        if self.config:
            serving |= {"path": str(self.config), "key_map": self.keys}
        return {"url": self.url, "runtime": runtime, "serving": serving}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Sandbox:
    """Stand-ins under one directory; leaving the context stops them all."""

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.services: dict[str, LocalService] = {}
        self._own = False

    @classmethod
    def create(cls, directory: str | Path | None = None) -> Self:
        """A sandbox in `directory`, or in a temporary one that goes when it is closed."""
        box = cls(directory or tempfile.mkdtemp(prefix="runbooks-sandbox-"))
        box._own = directory is None
        return box

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()
        if self._own:
            shutil.rmtree(self.dir, ignore_errors=True)

    def add_vllm(
        self,
        name: str,
        *,
        style: ConfigStyle = "yaml",
        preset: str = "wintermute",
        serving: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        keys: Mapping[str, str] | None = None,
        port: int | None = None,
        restart: str = "no",
        arguments: tuple[str, ...] = (),
    ) -> LocalService:
        """Describe one stand-in vLLM server; it is not started.

        Args:
            name: directory and service name.
            style: where its numbers live.
            preset: hardware, one of `vllm_settings.PRESETS`.
            serving: vLLM's engine arguments in snake_case, over `SERVING`; None removes one.
            params: hardware, speed and faults, fields of `vllm_settings.Settings`.
            keys: yaml: serving field -> the file's own key, where it is not vLLM's.
            port: fixed port; else a free one.
            restart: `no` or `on-failure:N`.
            arguments: further flags, e.g. `--api-key secret`.
        """
        home = self.dir / name
        home.mkdir(parents=True, exist_ok=True)
        used = {s.port for s in self.services.values()}
        while not port or port in used:
            port = free_port()
        wanted = {k: v for k, v in {**SERVING, **(serving or {})}.items() if v is not None}
        flags = ["--host", "127.0.0.1", "--port", str(port), *arguments]
        env: dict[str, str] = {"SANDBOX_PRESET": preset}
        env |= {f"SANDBOX_{k.upper()}": _text(v) for k, v in coerce(params or {}).items()}
        spec: dict[str, Any] = {"port": port, "restart": restart, "cwd": str(home), "env": env}
        config: Path | None = None
        names: dict[str, str] = {}
        if style == "arguments":
            flags = [*_flags(wanted), *flags]
        elif style == "yaml":
            config = home / "config.yaml"
            names = {f: (keys or {}).get(f, f.replace("_", "-")) for f in wanted}
            config.write_text(
                "# vLLM server arguments\n"
                + "".join(f"{names[f]}: {_text(v)}\n" for f, v in wanted.items()),
                encoding="utf-8",
            )
            env["SANDBOX_CONFIG_KEYS"] = json.dumps({names[f]: f for f in wanted})
            flags = ["--config", str(config), *flags]
        else:
            config = home / ".env"
            names = {f: _VARIABLES.get(f, f.upper()) for f in wanted}
            config.write_text(
                "# vLLM server settings\n"
                + "".join(f"{names[f]}={_text(v)}\n" for f, v in wanted.items()),
                encoding="utf-8",
            )
            spec["env_file"] = str(config)
        spec["argv"] = [sys.executable, str(SERVER), *flags]
        write_json(home / "service.json", spec)
        service = LocalService(name, port, home, style, config, names)
        self.services[name] = service
        return service

    def stack(self, name: str = "sandbox") -> dict[str, Any]:
        """A stack.yaml of everything in here."""
        return {"name": name, "services": {n: s.fragment() for n, s in self.services.items()}}

    def run(self, name: str, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        """One supervisor command; its exit code is the caller's to judge."""
        return subprocess.run(
            self.services[name].argv(verb, *more),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def _do(self, name: str, verb: str, *more: str) -> str:
        done = self.run(name, verb, *more)
        if done.returncode:
            raise SandboxError(f"{verb} {name}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def start(self, name: str, *, ready_s: float = 0) -> None:
        """Start; with `ready_s`, wait so long for /health."""
        self._do(name, "start")
        if ready_s:
            self.wait_serving(name, ready_s)

    def stop(self, name: str) -> None:
        """Stop, the whole process group."""
        self._do(name, "stop")

    def restart(self, name: str, *, ready_s: float = 0) -> None:
        """Stop and start; with `ready_s`, wait so long for /health."""
        self._do(name, "restart")
        if ready_s:
            self.wait_serving(name, ready_s)

    def status(self, name: str) -> dict[str, Any]:
        """What `status` prints."""
        data: dict[str, Any] = json.loads(self.run(name, "status").stdout)
        return data

    def logs(self, name: str, *more: str) -> str:
        """The current start's log (`--all`, `--previous`, `--tail N`, `--since T`)."""
        return self._do(name, "logs", *more)

    def fault(self, name: str, *, clear: bool = False, **faults: Any) -> dict[str, Any]:
        """Set faults of a running or stopped stand-in; None removes one, `clear` all others."""
        coerce({k: v for k, v in faults.items() if v is not None and k != "preset"})
        values = [f"{k}={'' if v is None else json.dumps(v)}" for k, v in faults.items()]
        more = ["--clear"] if clear else []
        data: dict[str, Any] = json.loads(self._do(name, "fault", *more, *values))
        return data

    def wait_serving(self, name: str, timeout_s: float = 10) -> None:
        """Until /health answers 200; SandboxError when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.services[name].url}/health", timeout=1):  # noqa: S310 - our own URL
                    return
            except (urllib.error.URLError, OSError):
                if self.status(name)["phase"] == "exited":
                    raise SandboxError(f"{name} ended: {self.logs(name, '--tail', '3')}") from None
            time.sleep(0.02)
        raise SandboxError(f"{name} did not serve within {timeout_s} s")

    def wait_exited(self, name: str, timeout_s: float = 10) -> dict[str, Any]:
        """Until the process has ended for good; its status."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status(name))["phase"] != "exited":
            if time.monotonic() > deadline:
                raise SandboxError(f"{name} still runs after {timeout_s} s")
            time.sleep(0.02)
        return status

    def stop_all(self) -> None:
        """Stop every service, at the same time."""
        running = [
            subprocess.Popen(s.argv("stop"), stderr=subprocess.DEVNULL)
            for s in self.services.values()
        ]
        for process in running:
            process.wait(timeout=30)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flags(wanted: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in wanted.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags += [flag] if value else []
        else:
            flags += [flag, str(value)]
    return flags
