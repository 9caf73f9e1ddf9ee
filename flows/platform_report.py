"""The report of a check of a whole platform: findings, worst first, and the verdict they make."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from blocks.errors import GuardReason
from blocks.journal import Verdict
from blocks.models import Frozen
from blocks.stack import StackSpec
from flows.decisions.finding import WORST_FIRST, Finding, Status
from flows.report import WORST, Source


class PlatformReport(Frozen):
    """What a check saw of one platform, or of several (`stack` is then `*`).

    It has the attributes of `flows.report.Report` that state, exit code and console need.
    """

    procedure: str
    stack: str
    run_id: str
    actor: str
    source: Source
    started_at: datetime
    duration_s: float
    verdict: Verdict
    message: str
    """One sentence: how much of what was found."""
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    services: tuple[str, ...] = ()
    """The services of the inventory: what `--service` may name."""
    next_step: str = ""
    notes: tuple[str, ...] = ()
    blocked_by: GuardReason | None = None

    @property
    def headline(self) -> str:
        """`FAILED check-platform lab: ...`."""
        return f"{self.verdict.upper()} {self.procedure} {self.stack}: {self.message}"


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """`failed` where anything failed, else `inconclusive` where anything is unknown.

    Nothing measured at all is inconclusive too: no finding is no proof.
    """
    found = {finding.status for finding in findings}
    if "fail" in found:
        return "failed"
    return "inconclusive" if "unknown" in found or not found else "passed"


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first; within one status in the order of the checks, as they came."""
    return tuple(sorted(findings, key=lambda f: WORST_FIRST.index(f.status)))


_WORDS: dict[Status, str] = {
    "fail": "failed",
    "unknown": "unknown",
    "warn": "to look at",
    "ok": "ok",
}


def summary(findings: Sequence[Finding], services: int) -> str:
    """`2 failed, 1 unknown, 3 to look at, 40 ok: 12 services`."""
    counts = Counter(finding.status for finding in findings)
    if not findings:
        return "nothing was checked"
    of = f"of {services} service{'s' * (services != 1)}"
    if set(counts) == {"ok"}:
        return f"all {counts['ok']} findings ok, {of}"
    parts = [f"{counts[s]} {_WORDS[s]}" for s in WORST_FIRST if counts[s]]
    return f"{', '.join(parts)}; {of}"


def not_looked_at(spec: StackSpec) -> str:
    """What no check looks at, because the inventory does not say where it is; empty: nothing.

    What has no finding is not well: it is not known.
    """
    aims = any(
        value is not None
        for one in spec.services.values()
        for value in one.slo.model_dump().values()
    )
    missing = [
        (not (spec.prometheus or spec.alertmanager), "alerts (prometheus, alertmanager)"),
        (not spec.hosts, "machines (hosts)"),
        (not aims, "latency, error rate, throughput (slo of a service)"),
    ]
    parts = [what for lacks, what in missing if lacks]
    return f"not looked at, for the inventory does not name it: {', '.join(parts)}" if parts else ""


class Row(Frozen):
    """Findings that say the same of several subjects: one line of a table."""

    first: Finding
    """Its check names all checks that say so, its subject is the first one."""
    subjects: tuple[str, ...]

    @property
    def what(self) -> str:
        """`decoding · wintermute`, `drift · 5 of them: a, b, ...`."""
        return f"{self.first.check} · {self.names()}"

    def names(self, most: int = 3) -> str:
        """The subjects, or how many there are."""
        if len(self.subjects) <= most:
            return ", ".join(self.subjects)
        return f"{len(self.subjects)} of them: {', '.join(self.subjects[: most - 1])}, ..."


def folded(findings: Iterable[Finding]) -> list[Row]:
    """Equal findings of several subjects as one row, in the order of the first.

    What is unknown of one thing for one and the same reason is one finding first: a dead
    machine is one line, and not one for each check.
    """
    rows: dict[Finding, list[str]] = {}
    for finding in _one_reason(findings):
        rows.setdefault(finding.model_copy(update={"subject": ""}), []).append(finding.subject)
    return [
        Row(first=said.model_copy(update={"subject": subjects[0]}), subjects=tuple(subjects))
        for said, subjects in rows.items()
    ]


def _one_reason(findings: Iterable[Finding]) -> list[Finding]:
    found: dict[object, Finding] = {}
    for number, finding in enumerate(findings):
        same = finding.status == "unknown" and finding.evidence and not finding.value
        # A check's own advice is not for the others.
        whose = (finding.subject, finding.evidence, finding.suggests, finding.advice)
        key: object = whose if same else number
        before = found.get(key)
        if before is not None:
            checks = dict.fromkeys([*before.check.split(", "), finding.check])
            more = {"check": ", ".join(checks), "threshold": ""}
            finding = before.model_copy(update=more if len(checks) > 1 else {})
        found[key] = finding
    return list(found.values())


def command(report: PlatformReport, finding: Finding) -> str:
    """The suggested procedure as a command that can be copied; empty when there is none."""
    if not finding.suggests:
        return ""
    aim = _AIMED.get(finding.suggests, "--service")
    more = f" {finding.advice}" if finding.advice.startswith("-p ") else ""
    return f"runbooks run {finding.suggests}{_names(report, finding, aim)}{more}"


_AIMED = {"align-token-limits": "-p proxy="}
"""Procedures whose `--service` is something else than what the finding is about."""


def advice(report: PlatformReport, finding: Finding) -> str:
    """What a person is to do where no procedure does it, its command completed."""
    if finding.advice.startswith("-p "):
        return ""
    look = "runbooks diagnose"
    if finding.advice.endswith(look):
        return f"{finding.advice.removesuffix(look)}`{look}{_names(report, finding)}`"
    return finding.advice


def _names(report: PlatformReport, finding: Finding, aim: str = "--service") -> str:
    stack, subject = report.stack, finding.subject
    known = subject in report.services
    if stack == "*":
        stack, _, subject = subject.partition("/")
    name = f" {aim}{'' if aim.endswith('=') else ' '}{subject}" if known else ""
    return f" --stack {stack}{name}"


def together(reports: Sequence[PlatformReport]) -> PlatformReport:
    """Several platforms as one report: the worst decides; subjects are `stack/subject`."""
    if len(reports) == 1:
        return reports[0]
    worst = max(reports, key=lambda r: WORST.index(r.verdict))
    findings = [
        finding.model_copy(update={"subject": f"{report.stack}/{finding.subject}"})
        for report in reports
        for finding in report.findings
    ]
    said = "; ".join(f"{r.stack} {r.verdict}: {r.message}" for r in reports)
    return worst.model_copy(
        update={
            "stack": "*",
            "message": said,
            "findings": ordered(findings),
            "services": tuple(f"{r.stack}/{name}" for r in reports for name in r.services),
            "duration_s": round(sum(r.duration_s for r in reports), 3),
            "started_at": min(r.started_at for r in reports),
            "notes": tuple(f"{r.stack}: {note}" for r in reports for note in r.notes),
        }
    )
