"""A platform on this machine, made of stand-ins: directories, ports, configs, and their control.

Each call goes through the supervisor's command line, as the product's `command` runtime does,
so that a service outlives the process that started it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deployments.sandbox import litellm_settings, local_hosts, local_litellm, vllm_settings
from deployments.sandbox.local_service import (
    LITELLM_KEY,
    ConfigStyle,
    LocalService,
    SandboxError,
    as_text,
    free_port,
)
from deployments.sandbox.local_vllm import SERVING, write_config
from deployments.sandbox.processes import write_json

__all__ = ["ConfigStyle", "SERVING", "LocalService", "Sandbox", "SandboxError", "free_port"]

SERVER = Path(__file__).with_name("vllm_server.py")
PROXY = Path(__file__).with_name("litellm_server.py")
HOSTS = "hosts"


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
        home, port = self._place(name, port)
        wanted = {k: v for k, v in {**SERVING, **(serving or {})}.items() if v is not None}
        written = write_config(home, style, wanted, keys or {})
        flags = [*written.flags, "--host", "127.0.0.1", "--port", str(port), *arguments]
        faults = vllm_settings.coerce(params or {})
        env = {"SANDBOX_PRESET": preset, **written.env}
        env |= {f"SANDBOX_{k.upper()}": as_text(v) for k, v in faults.items()}
        spec: dict[str, Any] = {"port": port, "restart": restart, "cwd": str(home), "env": env}
        if style == "env-file":
            spec["env_file"] = str(written.config)
        spec["argv"] = [sys.executable, str(SERVER), *flags]
        write_json(home / "service.json", spec)
        served = str(wanted.get("served_model_name") or wanted.get("model", ""))
        service = LocalService(name, port, home, style, written.config, written.keys, served=served)
        self.services[name] = service
        return service

    def _place(self, name: str, port: int | None) -> tuple[Path, int]:
        """A service's directory, and its port: the given one, or one that nobody has."""
        if name == HOSTS:
            raise SandboxError(f"{name!r} is the folder of the host readings; name it otherwise")
        home = self.dir / name
        home.mkdir(parents=True, exist_ok=True)
        used = {s.port for s in self.services.values()}
        while not port or port in used:
            port = free_port()
        return home, port

    def add_litellm(
        self,
        name: str,
        models: Mapping[str, local_litellm.Model | Sequence[local_litellm.Model]],
        *,
        port: int | None = None,
        master_key: str | None = None,
        params: Mapping[str, Any] | None = None,
        allowed_fails: int = 3,
        cooldown_time: float = 5,
        restart: str = "no",
    ) -> LocalService:
        """Describe one stand-in LiteLLM proxy; it is not started.

        Args:
            name: directory and service name.
            models: alias -> limits and `backend`, the name of a service added before (see
                `local_litellm.config_text`).
            port: fixed port; else a free one.
            master_key: the key it asks for; None: none.
            params: faults, fields of `litellm_settings.ProxySettings`.
            allowed_fails: failures within a minute before a deployment rests.
            cooldown_time: how long it rests, seconds.
            restart: `no` or `on-failure:N`.

        Raises:
            SandboxError: an unknown backend or limit, or a second master key.
        """
        others = {s.master_key for s in self.services.values() if s.master_key}
        if master_key and others - {master_key}:
            raise SandboxError(f"{name}: all proxies share one master key, ${{{LITELLM_KEY}}}")
        text = local_litellm.config_text(
            models,
            self.services,
            master_key=master_key,
            allowed_fails=allowed_fails,
            cooldown_time=cooldown_time,
        )
        home, port = self._place(name, port)
        config = home / "config.yaml"
        config.write_text(text, encoding="utf-8")
        faults = litellm_settings.coerce(params or {})
        flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        spec = {
            "argv": [sys.executable, str(PROXY), *flags],
            "port": port,
            "restart": restart,
            "cwd": str(home),
            "env": {f"SANDBOX_{k.upper()}": as_text(v) for k, v in faults.items()},
        }
        write_json(home / "service.json", spec)
        service = LocalService(
            name, port, home, "litellm", config, engine="litellm", master_key=master_key or ""
        )
        self.services[name] = service
        return service

    def environ(self) -> dict[str, str]:
        """The variables that the inventory's references are resolved from."""
        found = {s.master_key for s in self.services.values() if s.master_key}
        return {LITELLM_KEY: found.pop()} if found else {}

    def host(self, name: str, **values: Any) -> dict[str, Any]:
        """Set readings of a host, healthy and with two GPUs at first (`local_hosts`)."""
        return local_hosts.write_reading(self._host_file(name), values)

    def host_fragment(self, name: str) -> dict[str, Any]:
        """Its entry under `hosts:` of a stack.yaml."""
        return {"kind": "command", "argv": ["cat", str(self._host_file(name))]}

    def _host_file(self, name: str) -> Path:
        return self.dir / HOSTS / f"{name}.json"

    def stack(self, name: str = "sandbox") -> dict[str, Any]:
        """A stack.yaml of everything in here."""
        document: dict[str, Any] = {"name": name}
        hosts = sorted(p.stem for p in (self.dir / HOSTS).glob("[!.]*.json"))
        if hosts:
            document["hosts"] = {h: self.host_fragment(h) for h in hosts}
        document["services"] = {n: s.fragment() for n, s in self.services.items()}
        return document

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
        """Start; with `ready_s`, wait so long until it serves."""
        self._do(name, "start")
        if ready_s:
            self.wait_serving(name, ready_s)

    def stop(self, name: str) -> None:
        """Stop, the whole process group."""
        self._do(name, "stop")

    def restart(self, name: str, *, ready_s: float = 0) -> None:
        """Stop and start; with `ready_s`, wait so long until it serves."""
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
        proxy = self.services[name].engine == "litellm"
        coerce = litellm_settings.coerce if proxy else vllm_settings.coerce
        coerce({k: v for k, v in faults.items() if v is not None and k != "preset"})
        values = [f"{k}={'' if v is None else json.dumps(v)}" for k, v in faults.items()]
        more = ["--clear"] if clear else []
        data: dict[str, Any] = json.loads(self._do(name, "fault", *values, *more))
        return data

    def wait_serving(self, name: str, timeout_s: float = 10) -> None:
        """Until it answers 200; SandboxError when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.services[name].health_url, timeout=1):  # noqa: S310 - our own URL
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
