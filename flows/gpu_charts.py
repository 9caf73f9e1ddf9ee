"""The chart of a watch as base64 PNG (both Prefect UIs strip raw SVG)."""

import base64
import io
from typing import Any

from blocks.check_policy import CheckPolicy
from blocks.gpu_window import GpuSeries, GpuWindow

_MOST_LINES = 16
_LABELS = {
    "utilization": "busy, %",
    "memory_used_gib": "memory, %",
    "temperature_c": "°C",
    "power_w": "W",
}


def gpu_png(window: GpuWindow, policy: CheckPolicy) -> str:
    """Utilization, memory, temperature and power over time, a line per GPU; base64 of a PNG.

    Its size depends on neither the window's length nor the number of GPUs: at most 400 points
    and 16 lines per panel. Empty when there is nothing to draw.
    """
    drawn = [series for series in window.gpus[:_MOST_LINES] if series.curves]
    shown = [name for name in _LABELS if any(name in series.curves for series in drawn)]
    if not shown:
        return ""
    import matplotlib  # lazy: a second of import that only a record needs

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.7 + 1.35 * len(shown)), dpi=110, layout="constrained")
    axes: Any = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
    for axis, name in zip(axes[:, 0], shown, strict=True):
        for series in drawn:
            _line(axis, series, name)
        for limit in _limits(name, policy):
            axis.axhline(limit, color="#c62828", linewidth=0.8, linestyle="--")
        axis.set_ylabel(_LABELS[name], fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if name in ("utilization", "memory_used_gib"):
            axis.set_ylim(-3, 103)
    axes[-1, 0].set_xlabel("seconds since the start; dashed: threshold", fontsize=8)
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=8, fontsize=7, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return base64.b64encode(out.getvalue()).decode()


def _line(axis: Any, series: GpuSeries, name: str) -> None:
    if name not in series.curves:
        return
    total = series.worst.memory_total_gib
    if name == "memory_used_gib" and not total:
        return
    factor = 100 / total if name == "memory_used_gib" and total else 1
    factor = 100 if name == "utilization" else factor
    # NaN leaves a gap: what was not measured must not look like a straight line.
    values = [float("nan") if v is None else v * factor for v in series.curves[name]]
    axis.plot(series.times_s, values, linewidth=1, marker=".", markersize=3, label=_name(series))


def _name(series: GpuSeries) -> str:
    return series.worst.label.replace("gpu", "GPU", 1)


def _limits(name: str, policy: CheckPolicy) -> tuple[float, ...]:
    if name == "memory_used_gib":
        return (policy.gpu_memory * 100,)
    if name == "temperature_c":
        return (policy.gpu_temperature_warn_c, policy.gpu_temperature_fail_c)
    return ()
