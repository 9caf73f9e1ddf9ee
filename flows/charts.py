"""Charts of a record as base64 PNG (both Prefect UIs strip raw SVG)."""

import base64
import io

from flows.report import Report

_COLOURS = {"healthy": "#2e7d32", "loading": "#f9a825", "broken": "#c62828", "unknown": "#757575"}
_LEVEL = {"broken": 0, "unknown": 1, "loading": 2, "healthy": 3}


def timeline_png(report: Report) -> str:
    """What each verification saw over time, one line per act; base64 of a PNG."""
    import matplotlib  # lazy: a second of import that only a record needs

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = report.attempts
    figure = Figure(figsize=(8, 1.2 + 1.1 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for number, (axis, attempt) in enumerate(zip(axes, rows, strict=True), 1):
        looks = attempt.verification.looks
        axis.step(
            [look.at_s for look in looks],
            [_LEVEL[look.status] for look in looks],
            where="post",
            color="#90a4ae",
            linewidth=1,
        )
        axis.scatter(
            [look.at_s for look in looks],
            [_LEVEL[look.status] for look in looks],
            c=[_COLOURS[look.status] for look in looks],
            s=16,
            zorder=3,
        )
        axis.set_yticks(list(_LEVEL.values()), list(_LEVEL), fontsize=8)
        axis.set_ylim(-0.5, 3.5)
        kept = "kept" if attempt.kept else "undone"
        axis.set_title(f"act {number} ({kept}): {attempt.plan.summary()}", fontsize=9, loc="left")
        axis.grid(alpha=0.25)
    axes[-1].set_xlabel("seconds since the start", fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return base64.b64encode(out.getvalue()).decode()
