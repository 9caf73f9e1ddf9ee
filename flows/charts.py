"""Charts of a record as base64 PNG (both Prefect UIs strip raw SVG)."""

import base64
import io
import textwrap
from itertools import groupby
from typing import Any

from flows.report import Attempt, Report

_COLOURS = {"healthy": "#2e7d32", "loading": "#f9a825", "broken": "#c62828", "unknown": "#757575"}
_MEANING = {
    "healthy": "decoding",
    "loading": "loading",
    "broken": "broken",
    "unknown": "could not be measured",
}


def timeline_png(report: Report) -> str:
    """What each verification saw over time, one bar per act; base64 of a PNG."""
    import matplotlib  # lazy: a second of import that only a record needs

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = report.attempts
    figure = Figure(figsize=(7, 1.05 + 0.6 * len(rows)), dpi=150, layout="constrained")
    axis: Any = figure.subplots()
    for number, attempt in enumerate(rows):
        _bar(axis, number, attempt)
    axis.set_ylim(len(rows) - 0.45, -0.75)
    axis.set_yticks(
        range(len(rows)),
        [f"act {n}: {'kept' if a.kept else 'undone'}" for n, a in enumerate(rows, 1)],
        fontsize=9,
    )
    last = max(a.verification.total_s for a in rows)
    axis.set_xlim(0, max(last, 0.1) * 1.02)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("seconds since the restart", fontsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    seen = {look.status for a in rows for look in a.verification.looks}
    axis.legend(
        handles=[Patch(color=_COLOURS[s], label=_MEANING[s]) for s in _COLOURS if s in seen],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return base64.b64encode(out.getvalue()).decode()


def _bar(axis: Any, row: int, attempt: Attempt) -> None:
    """Stretches of one status, a dot for every look, and the moment of the first token."""
    looks = attempt.verification.looks
    stretches = [list(group) for _, group in groupby(looks, key=lambda look: look.status)]
    starts = [0.0, *(s[0].at_s for s in stretches[1:]), attempt.verification.total_s]
    for stretch, begin, end in zip(stretches, starts, starts[1:], strict=False):
        axis.barh(row, end - begin, left=begin, height=0.36, color=_COLOURS[stretch[0].status])
    axis.scatter(
        [look.at_s for look in looks],
        [row] * len(looks),
        s=14,
        c=[_COLOURS[look.status] for look in looks],
        edgecolors="white",
        linewidths=0.8,
        zorder=3,
        clip_on=False,
    )
    note = textwrap.shorten(attempt.plan.summary(), 90, placeholder=" …")
    if (first := attempt.verification.first_token_s) is not None:
        note += f"   first token after {first:.1f} s"
    # Outside the layout: a long plan must not squeeze the bars to nothing.
    axis.text(0, row - 0.27, note, fontsize=8, va="bottom", ha="left").set_in_layout(False)
