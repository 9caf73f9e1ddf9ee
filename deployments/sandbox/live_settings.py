"""Settings that a running stand-in re-reads: a dataclass filled from several layers.

Standard library only. Layers, weakest first: the class' defaults, a preset, the environment
(`SANDBOX_<FIELD>`), the JSON file named by `SANDBOX_FAULTS_FILE`, and what was posted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownSetting(ValueError):
    """A key or value that is not one of the settings."""


def coerce(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the dataclass `kind` from text or JSON; a list becomes a comma list.

    Raises:
        UnknownSetting: for the first bad key or value.
    """
    types = {f.name: str(f.type) for f in fields(kind)}
    out: dict[str, Any] = {}
    for key, value in values.items():
        wanted = types.get(key)
        if wanted is None:
            raise UnknownSetting(f"unknown setting {key!r}; known: {', '.join(sorted(types))}")
        try:
            out[key] = _convert(wanted, value)
        except (TypeError, ValueError, KeyError) as e:
            raise UnknownSetting(f"{key} must be {wanted}, not {value!r}") from e
    return out


def _convert(kind: str, value: Any) -> Any:
    if value is None or value == "":
        if "None" in kind:
            return None
        if kind == "str":
            return ""
        raise ValueError(value)
    if kind == "bool":
        if isinstance(value, str):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                value.lower()
            ]
        return bool(value)
    if kind == "str":
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return int(value) if kind.startswith("int") else float(value)


class Live(Generic[T]):
    """The settings in force now. `current()` notices a changed faults file by itself."""

    def __init__(
        self, kind: type[T], presets: Mapping[str, Mapping[str, Any]], environ: Mapping[str, str]
    ) -> None:
        self._kind, self._presets = kind, presets
        self._path = environ.get("SANDBOX_FAULTS_FILE", "")
        self._posted: dict[str, Any] = {}
        self._stamp: tuple[int, int, int] | None = None
        self.problem = ""
        names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
        given = {n: environ.get(f"SANDBOX_{n.upper()}") for n in names}
        self._preset = environ.get("SANDBOX_PRESET", "")
        self._environ = coerce(kind, {n: v for n, v in given.items() if v is not None})
        self._settings = self._merge({})

    def _merge(self, from_file: Mapping[str, Any]) -> T:
        values = dict(from_file)
        preset = str(values.pop("preset", "") or self._preset or next(iter(self._presets)))
        if preset not in self._presets:
            raise UnknownSetting(f"unknown preset {preset!r}; known: {', '.join(self._presets)}")
        given = coerce(self._kind, values)
        return self._kind(**{**self._presets[preset], **self._environ, **given, **self._posted})

    def post(self, values: Mapping[str, Any]) -> T:
        """Set values for the life of this process; `{}` clears everything posted before."""
        self._posted = {**self._posted, **coerce(self._kind, values)} if values else {}
        self._stamp = None
        self._settings = self._merge({} if not self._path else self._read())
        return self._settings

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as f:
                data = json.load(f)
        except FileNotFoundError:
            return {}
        if not isinstance(data, dict):
            raise UnknownSetting("the faults file must hold one JSON object")
        return data

    def current(self) -> T:
        """The settings now. A broken faults file keeps the last good ones (see `problem`)."""
        if not self._path:
            return self._settings
        try:
            info = os.stat(self._path)
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = self._merge(self._read())
                self.problem = ""
            except (ValueError, OSError) as e:
                self.problem = str(e)
                sys.stderr.write(f"sandbox: faults file ignored: {e}\n")
        return self._settings
