"""Where a stand-in vLLM server's numbers are written down, in each style a handbook knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deployments.sandbox.local_service import ConfigStyle, as_flags, as_text

SERVING: dict[str, Any] = {
    "model": "/models/wintermute-tiny",
    "served_model_name": "wintermute",
    "max_model_len": 8192,
    "gpu_memory_utilization": 0.92,
    "max_num_seqs": 8,
}
"""What a stand-in serves unless told otherwise."""
_VARIABLES = {"model": "MODEL_NAME"}


class Written(NamedTuple):
    """What one style makes of the numbers."""

    config: Path | None
    keys: dict[str, str]
    """Serving field -> key or variable of the file."""
    flags: list[str]
    env: dict[str, str]


def write_config(
    home: Path, style: ConfigStyle, wanted: Mapping[str, Any], keys: Mapping[str, str]
) -> Written:
    """Write the numbers where `style` has them; `keys` are the YAML file's own names."""
    if style == "arguments":
        return Written(None, {}, as_flags(wanted), {})
    if style == "yaml":
        config = home / "config.yaml"
        names = {f: keys.get(f, f.replace("_", "-")) for f in wanted}
        lines = [f"{names[f]}: {as_text(v)}\n" for f, v in wanted.items()]
        config.write_text("# vLLM server arguments\n" + "".join(lines), encoding="utf-8")
        renamed = json.dumps({names[f]: f for f in wanted})
        return Written(config, names, ["--config", str(config)], {"SANDBOX_CONFIG_KEYS": renamed})
    config = home / ".env"
    names = {f: _VARIABLES.get(f, f.upper()) for f in wanted}
    lines = [f"{names[f]}={as_text(v)}\n" for f, v in wanted.items()]
    config.write_text("# vLLM server settings\n" + "".join(lines), encoding="utf-8")
    return Written(config, names, [], {"SANDBOX_ENV_FILE": str(config)})
