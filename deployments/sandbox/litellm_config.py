"""LiteLLM's own config file, as far as the stand-in proxy needs it.

The only module of the stand-in that is not standard library: the file is YAML, and ruamel.yaml
takes 10 ms to import.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

_NUMBERS = ("rpm", "tpm", "max_parallel_requests", "weight")
_LENGTHS = ("max_input_tokens", "max_output_tokens")


class ConfigError(Exception):
    """The file cannot be used; the message is the last line of LiteLLM's traceback."""


@dataclass(frozen=True)
class Deployment:
    """One entry of `model_list`."""

    alias: str
    model: str
    """With the provider: hosted_vllm/wintermute."""
    api_base: str
    api_key: str = ""
    rpm: int | None = None
    tpm: int | None = None
    max_parallel_requests: int | None = None
    weight: float | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other `model_info`, passed through by /model/info."""

    @property
    def backend_model(self) -> str:
        """The name that the backend knows."""
        return self.model.partition("/")[2] or self.model

    @property
    def provider(self) -> str:
        """The provider as LiteLLM writes it in exceptions."""
        return (self.model.partition("/")[0] if "/" in self.model else "openai").capitalize()

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and path of `api_base`."""
        parts = urlsplit(self.api_base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return parts.hostname or "", port, parts.path.rstrip("/")


@dataclass(frozen=True)
class Config:
    """The whole file."""

    deployments: tuple[Deployment, ...]
    master_key: str = ""
    allowed_fails: int = 3
    cooldown_time: float = 5.0
    pre_call_checks: bool = True
    """LiteLLM's own default is false; here only an explicit false turns the checks off."""

    @property
    def aliases(self) -> list[str]:
        """Model names in the order of the file, each once."""
        return list(dict.fromkeys(d.alias for d in self.deployments))


def load(path: str, environ: Mapping[str, str]) -> Config:
    """Read the file.

    Raises:
        ConfigError: missing, no YAML, or not of LiteLLM's shape.
    """
    try:
        with open(path, encoding="utf-8") as f:
            data = YAML(typ="safe").load(f)
    except FileNotFoundError as e:
        raise ConfigError(f"Exception: Config file not found: {path}") from e
    except MarkedYAMLError as e:
        mark = e.problem_mark
        where = f'\n  in "{path}", line {mark.line + 1}, column {mark.column + 1}' if mark else ""
        raise ConfigError(f"yaml.scanner.{type(e).__name__}: {e.problem}{where}") from e
    except (YAMLError, UnicodeDecodeError, OSError) as e:
        raise ConfigError(f"{type(e).__name__}: {e}") from e
    if not isinstance(data, dict):
        raise ConfigError("Exception: Config cannot be None or Empty.")
    general, router = _mapping(data, "general_settings"), _mapping(data, "router_settings")
    models = data.get("model_list") or []
    if not isinstance(models, list):
        raise ConfigError("TypeError: model_list must be a list of mappings")
    return Config(
        deployments=tuple(_deployment(entry, environ) for entry in models),
        master_key=_secret(general.get("master_key"), environ),
        allowed_fails=int(router.get("allowed_fails", 3)),
        cooldown_time=float(router.get("cooldown_time", 5)),
        pre_call_checks=router.get("enable_pre_call_checks", True) is not False,
    )


def _mapping(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"AttributeError: '{type(value).__name__}' object ({name}) has no 'get'")
    return value


def _secret(value: Any, environ: Mapping[str, str]) -> str:
    """A value, or the variable it names as `os.environ/NAME`."""
    text = "" if value is None else str(value)
    return environ.get(text[11:], "") if text.startswith("os.environ/") else text


def _deployment(entry: Any, environ: Mapping[str, str]) -> Deployment:
    if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
        raise ConfigError("KeyError: 'litellm_params'")
    params, info = dict(entry["litellm_params"]), dict(entry.get("model_info") or {})
    for required, owner in (("model", params), ("model_name", entry)):
        if not owner.get(required):
            raise ConfigError(
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for "
                f"LiteLLM_Params\n{required}\n  Field required [type=missing]"
            )
    given = {n: _number(n, params.get(n)) for n in _NUMBERS}
    given |= {n: _number(n, info.pop(n, None)) for n in _LENGTHS}
    identity = json.dumps([entry["model_name"], params], default=str, sort_keys=True)
    return Deployment(
        alias=str(entry["model_name"]),
        model=str(params["model"]),
        api_base=_secret(params.get("api_base"), environ),
        api_key=_secret(params.get("api_key"), environ),
        id=str(info.pop("id", None) or hashlib.sha256(identity.encode()).hexdigest()),
        extra=info,
        **given,
    )


def _number(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for "
            f"LiteLLM_Params\n{name}\n  Input should be a valid integer, unable to parse string as "
            f"an integer [type=int_parsing, input_value={value!r}, "
            f"input_type={type(value).__name__}]"
        ) from None
