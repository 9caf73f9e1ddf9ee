"""The report of one watch of a machine's GPUs: its verdict, and the page a person reads."""

from datetime import datetime

from blocks.check_policy import CheckPolicy
from blocks.errors import GuardReason
from blocks.gpu_window import GpuSeries, GpuWindow, Spread
from blocks.journal import Verdict
from blocks.models import Frozen
from flows.decisions.check_hosts import judge_gpus
from flows.decisions.finding import WORST_FIRST, Finding
from flows.report import Source

_MOST_ROWS = 16
_MOST_FINDINGS = 24
_MOST_CHARACTERS = 300
_SIGN = {"passed": "✓", "planned": "✎", "failed": "✗", "error": "✗"}
_STATUS = {"fail": "✗ fail", "unknown": "? unknown", "warn": "⚠ warn", "ok": "✓ ok"}


class GpuWatch(Frozen):
    """What a watch saw. It has the attributes of `flows.report.Report` that state, exit code and
    console need.
    """

    procedure: str = "watch-gpus"
    stack: str
    host: str
    run_id: str
    actor: str
    source: Source
    started_at: datetime
    duration_s: float
    verdict: Verdict
    message: str
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    window: GpuWindow = GpuWindow()
    """Without its curves: they are in the CSV."""
    next_step: str = ""
    notes: tuple[str, ...] = ()
    blocked_by: GuardReason | None = None

    @property
    def headline(self) -> str:
        """`FAILED watch-gpus motoko: ...`."""
        return f"{self.verdict.upper()} {self.procedure} {self.host}: {self.message}"


def judged(
    host: str, window: GpuWindow, policy: CheckPolicy
) -> tuple[Verdict, str, tuple[Finding, ...]]:
    """Verdict, sentence and findings, worst first, of the worst that the window saw.

    `passed` only where everything that is judged was measured and stayed below its threshold.
    """
    found = judge_gpus(host, window.worst(), policy)
    found = sorted(found, key=lambda f: WORST_FIRST.index(f.status))
    seen = f"{window.samples} samples of {_gpus(len(window.gpus))} in {window.took_s:.0f} s"
    if not window.samples:
        why = "; ".join(window.problems[:2]) or "no reading came back"
        return "inconclusive", f"nothing was sampled: {why}"[:500], tuple(found)
    over = [f for f in found if f.status in ("fail", "warn")]
    unknown = [f for f in found if f.status == "unknown"]
    if over:
        said = "; ".join(f"{f.check} {f.value}" for f in over[:3])
        more = f" and {len(over) - 3} more" if len(over) > 3 else ""
        return "failed", f"{said}{more}, in {seen}", tuple(found)
    if unknown:
        said = unknown[0].evidence
        return "inconclusive", f"nothing was exceeded in {seen}, but {said}"[:500], tuple(found)
    if window.failed > window.samples:
        said = f"{window.failed} readings of {window.failed + window.samples} failed"
        return "inconclusive", f"nothing was exceeded in {seen}, but {said}", tuple(found)
    return "passed", f"no threshold was exceeded, and no error seen, in {seen}", tuple(found)


def next_step(verdict: Verdict, findings: tuple[Finding, ...], window: GpuWindow) -> str:
    """What a person does now; empty when nothing."""
    if advised := [f for f in findings if f.advice and f.status in ("fail", "warn")]:
        return f"{advised[0].check}: {advised[0].advice}"
    if verdict == "failed":
        return "see which process holds the memory; lower gpu_memory_utilization or move it"
    if verdict == "inconclusive":
        return (window.problems or ("look at the host",))[0][:_MOST_CHARACTERS]
    return ""


def page(report: GpuWatch, chart: str = "") -> str:
    """The markdown page; `chart` is base64 PNG. Its length does not grow with the window."""
    parts = [
        f"# {_SIGN.get(report.verdict, '⚠')} {report.verdict.capitalize()}: GPUs of "
        f"{report.stack}/{report.host}",
        f"**{report.message}**",
    ]
    if report.next_step:
        parts.append(f"> **What to do now:** {report.next_step}")
    parts += [f"> **Note:** {note}" for note in report.notes]
    wrong = [f for f in report.findings if f.status != "ok"]
    if wrong:
        parts.append(_findings(wrong))
    if report.window.gpus:
        parts.append(_table(report.window))
    if chart:
        parts.append(f"![GPUs over the window](data:image/png;base64,{chart})")
    parts.append(_facts(report))
    return "\n\n".join(parts) + "\n"


def slack_text(report: GpuWatch) -> str:
    """The message people get."""
    lines = [f"*{report.verdict.upper()}* `{report.stack}/{report.host}`: {report.message}"]
    if report.next_step:
        lines.append(f"*You* {report.next_step}")
    return "\n".join([*lines, f"_by {report.actor} from {report.source}, run {report.run_id[:8]}_"])


def _findings(found: list[Finding]) -> str:
    rows = ["| | what | measured | threshold | how it is known |", "|---|---|---|---|---|"]
    rows += [
        f"| {_STATUS[f.status]} | {_cell(f.check)} | {_cell(f.value)} | {_cell(f.threshold)} "
        f"| {_cell(f.evidence)} |"
        for f in found[:_MOST_FINDINGS]
    ]
    more = len(found) - _MOST_FINDINGS
    return "\n".join(rows) + (
        f"\n\n{more} more in the artifact watch-gpus-data." if more > 0 else ""
    )


def _table(window: GpuWindow) -> str:
    head = "| GPU | utilization | memory, GiB | temperature, °C | power, W | ECC | Xid |"
    rows = [f"## Least / mean / most\n\n{head}", "|---|---|---|---|---|---|---|"]
    rows += [_row(series) for series in window.gpus[:_MOST_ROWS]]
    more = len(window.gpus) - _MOST_ROWS
    return "\n".join(rows) + (f"\n\n{more} more GPUs are in the CSV." if more > 0 else "")


def _row(series: GpuSeries) -> str:
    gpu, spreads = series.worst, series.spreads
    total = f" of {gpu.memory_total_gib:.0f}" if gpu.memory_total_gib else ""
    cells = [
        f"{gpu.label.removeprefix('gpu ')} {gpu.name}" + (" **lost**" if gpu.lost else ""),
        _spread(spreads.get("utilization"), 100, "%"),
        _spread(spreads.get("memory_used_gib"), 1, total, digits=1),
        _spread(spreads.get("temperature_c")),
        _spread(spreads.get("power_w")),
        _count(gpu.ecc_uncorrected),
        {None: "not measured", 0: "none seen"}.get(gpu.xid, str(gpu.xid)),
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _spread(spread: Spread | None, factor: float = 1, unit: str = "", digits: int = 0) -> str:
    if spread is None:
        return "not measured"
    values = (spread.least, spread.mean, spread.most)
    return " / ".join(f"{value * factor:.{digits}f}" for value in values) + unit


def _facts(report: GpuWatch) -> str:
    window = report.window
    rows = [
        ("Samples", f"{window.samples}, and {window.failed} readings that failed"),
        ("Driver", window.driver_version or "not measured"),
        ("Every sample", f"`{window.csv}` on the worker" if window.csv else "no CSV was written"),
        ("Asked for by", f"{report.actor}, from {report.source}"),
        ("Started", f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {report.duration_s:.1f} s"),
        ("Run", f"`{report.run_id}`"),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows)])
    said = "".join(f"\n- {_cell(problem)}" for problem in window.problems)
    return f"## Run\n\n{table}" + (f"\n\n## What could not be measured\n{said}" if said else "")


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count != 1)}"


def _count(value: int | None) -> str:
    return "not measured" if value is None else str(value)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")[:_MOST_CHARACTERS]
