"""One stand-in of the sandbox and how it is reached: ports, command lines, its inventory entry."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ConfigStyle = Literal["yaml", "env-file", "arguments", "litellm"]
LITELLM_KEY = "SANDBOX_LITELLM_KEY"
"""The variable that an inventory reads a proxy's master key from."""


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
    engine: Literal["vllm", "litellm"] = "vllm"
    served: str = ""
    """The model name it answers to; empty for a proxy."""
    master_key: str = field(default="", repr=False)
    """A proxy's key; the inventory refers to it as `${SANDBOX_LITELLM_KEY}`."""

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def health_url(self) -> str:
        """What answers 200, without a key, once it serves."""
        return f"{self.url}/health{'/liveliness' if self.engine == 'litellm' else ''}"

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
        """Its entry under `services:` of a stack.yaml.

        Its log is that of the last start with all its automatic restarts, as a journal shows
        them: that a crash repeats is to be seen in it.
        """
        runtime: dict[str, Any] = {"kind": "command", "status_format": "json"}
        runtime |= {verb: self.argv(verb) for verb in ("restart", "stop", "status")}
        runtime["logs"] = self.argv("logs", "--restarts")
        serving: dict[str, Any] = {"kind": self.style}
        if self.config:
            serving["path"] = str(self.config)
            if self.style != "litellm":
                serving["key_map"] = self.keys
        entry = {"url": self.url, "runtime": runtime, "serving": serving}
        if self.engine != "vllm":
            entry = {"engine": self.engine, **entry}
        return entry | ({"api_key": f"${{{LITELLM_KEY}}}"} if self.master_key else {})


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def as_text(value: Any) -> str:
    """A value as a config file, a variable or an argument holds it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flags(wanted: Mapping[str, Any]) -> list[str]:
    """Engine arguments on a command line."""
    flags: list[str] = []
    for name, value in wanted.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags += [flag] if value else []
        else:
            flags += [flag, str(value)]
    return flags
