"""What a log says went wrong: one of 32 labels, the lines that decided, and the numbers in them.

The rule: fatal causes beat degradations, degradations beat benign lines; a consequence
(`engine_dead`) wins only where no cause is visible. The last start in the log counts, unless
it shows nothing; errors that a start survived do not count against it.
"""

from blocks.models import Frozen
from flows.decisions.diagnosis_advice import DEFINITIONS, REMEDIES, advise
from flows.decisions.diagnosis_evidence import RULES, Hit, Shortage, Start, lines_of, read_starts
from flows.decisions.diagnosis_facts import Facts, facts_of, held_by_others
from flows.decisions.diagnosis_rules import Label
from flows.decisions.diagnosis_rules_weak import FRAME_WEIGHT, WEAK_WEIGHT
from flows.decisions.diagnosis_text import redact

PHASE_LABELS: dict[str, Label] = {
    "weights": "oom_startup_weights",
    "profile": "oom_startup_profile",
    "capture": "oom_cudagraph",
    "kv": "oom_kv_cache",
    "runtime": "oom_runtime",
}

ENGINE_DEAD_WEIGHT = 50
STALL_WEIGHT = 44
EXIT_WEIGHTS: dict[int, tuple[Label, int]] = {
    137: ("host_oom_killed", 75),
    135: ("shm_too_small", 74),
    -9: ("host_oom_killed", 75),
    -7: ("shm_too_small", 74),
}
"""Exit codes that name a signal: stronger than any consequence, weaker than a stated cause."""
CLEAN_EXITS = (None, 0, 130, 143, -2, -15)


class Diagnosis(Frozen):
    """The verdict on one log, ready to be shown to a person or handed to a procedure."""

    label: Label
    evidence: tuple[str, ...] = ()
    """The lines that decided, in the order of the log, secrets removed."""
    facts: Facts = {}
    advice: str = ""
    remedy: str | None = None
    """The procedure that can act on it; None where only a person can."""
    ready: bool = False
    """The latest start had come up before: what only a start can fail of is not its cause."""
    crashes: int = 0
    """Starts in the log that show a failure (count)."""


class _Claim:
    """A label with the weight and the lines that speak for it."""

    def __init__(self, label: Label, weight: int, hit: Hit | None) -> None:
        self.label, self.weight, self.hit = label, weight, hit

    def rank(self) -> tuple[int, int]:
        """Heavier first, then earlier in the log."""
        return self.weight, -(self.hit.order if self.hit else 0)


def _shortage_label(shortage: Shortage) -> Label:
    phase = shortage.phase()
    if phase in ("weights", "runtime") and "at_runtime" not in shortage.frames():
        if held_by_others(shortage.hit.text) and "ready" not in shortage.seen:
            return "gpu_memory_held"
    return PHASE_LABELS[phase]


def _claims(start: Start) -> list[_Claim]:
    """Every label that the lines of one start speak for; survived errors left out."""
    claims = []
    for (number, after_ready), (first, last) in start.hits.items():
        if start.ready and not after_ready:
            continue
        rule = RULES[number]
        if rule.weight <= FRAME_WEIGHT and not start.unknown[after_ready]:
            continue
        if rule.says == "oom":
            shortage = start.shortages[after_ready]
            claims.append(_Claim(_shortage_label(shortage), rule.weight, first))
        elif rule.says == "fp8e4nv":
            near = start.fp8[after_ready][1]
            label: Label = "fp8_kv_unsupported" if near else "gpu_arch_unsupported"
            claims.append(_Claim(label, rule.weight, first))
        else:
            hit = last if rule.says == "kv_preemption" else first  # the count so far is in the last
            claims.append(_Claim(rule.says, rule.weight, hit))  # type: ignore[arg-type]
    if start.stalled is not None and not start.ready and start.last - start.stalled.order < 2:
        claims.append(_Claim("tokenizer_error", STALL_WEIGHT, start.stalled))
    if start.waits >= 3 and start.ready:
        claims.append(_Claim("engine_dead", ENGINE_DEAD_WEIGHT, None))
    return claims


def _exit_claims(exit_code: int | None, oom_killed: bool) -> list[_Claim]:
    claims = []
    if oom_killed:
        claims.append(_Claim("host_oom_killed", 1000, None))
    if exit_code in EXIT_WEIGHTS:
        label, weight = EXIT_WEIGHTS[exit_code]
        claims.append(_Claim(label, weight, None))
    elif exit_code not in CLEAN_EXITS:
        claims.append(_Claim("engine_dead", ENGINE_DEAD_WEIGHT - 1, None))
    return claims


def diagnose(log: object, exit_code: int | None = None, oom_killed: bool = False) -> Diagnosis:
    """The root cause that a log shows.

    Args:
        log: str, bytes, an open file, or an iterable of str or bytes chunks of any size
            (lines keep their line ends: the chunks are simply joined). Read once, in bounded
            memory.
        exit_code: of the process or container, where it has ended. 137 beats consequences
            and degradations, not a cause that the log states.
        oom_killed: the runtime's own word that the kernel killed it: it beats everything.
    """
    starts, any_line, ill = read_starts(log)
    last = starts[-1]
    claims = _claims(last)
    shown, recovered = last, False
    died_later = last.ready and exit_code not in CLEAN_EXITS
    if not claims and len(starts) > 1 and not died_later:
        claims = _claims(starts[0])
        if claims:
            shown, recovered = starts[0], last.ready
    claims += _exit_claims(exit_code, oom_killed)
    facts: Facts = {}
    if exit_code is not None:
        facts["exit_code"] = exit_code
    if oom_killed:
        facts["oom_killed"] = "true"
    if not claims:
        return _nothing(last, any_line, facts, ill)
    best = max(claims, key=_Claim.rank)
    hits = [claim.hit for claim in claims if claim.label == best.label and claim.hit is not None]
    evidence = lines_of(hits)
    facts |= facts_of(hits, shown.settings.values())
    if best.hit is not None and best.weight <= WEAK_WEIGHT:
        facts["weak_evidence"] = "true"
    if recovered:
        facts["recovered_in_last_start"] = "true"
    return Diagnosis(
        label=best.label,
        evidence=evidence,
        facts=facts,
        advice=advise(best.label, facts),
        remedy=None if recovered else REMEDIES.get(best.label),
        ready=last.ready,
        crashes=ill,
    )


def without_cause(found: Diagnosis) -> Diagnosis:
    """The diagnosis of a service that is known to be down: a clean log is then no good news."""
    if found.label != "healthy_noise":
        return found
    return found.model_copy(
        update={
            "facts": {**found.facts, "no_evidence": "true"},
            "advice": "The log names no cause: somebody stopped it, it was cut off, or it hangs "
            "without a word. Bring it back, and keep the log if it happens again.",
            "remedy": "remediate_outage",
        }
    )


def _nothing(last: Start, any_line: bool, facts: Facts, ill: int) -> Diagnosis:
    """No rule spoke: benign, unless lines look like errors that no rule knows."""
    unknown = last.unknown[True] if last.ready else last.unknown[False]
    if unknown or not any_line:
        facts["no_evidence"] = "true"
    return Diagnosis(
        label="healthy_noise",
        evidence=tuple(" ".join(redact(line).split())[:400] for line in unknown),
        facts=facts | facts_of([], last.settings.values()),
        advice=advise("healthy_noise", facts),
        ready=last.ready,
        crashes=ill,
    )


def explain(d: Diagnosis) -> str:
    """The diagnosis in markdown, at most 25 lines, for a person."""
    meaning = DEFINITIONS[d.label]
    if d.facts.get("no_evidence"):
        meaning = "nothing was recognised in it, which is no proof of health"
    lines = [f"### {d.label}", "", meaning[0].upper() + meaning[1:] + ".", ""]
    if d.evidence:
        lines += ["```text", *(line.replace("```", "'''") for line in d.evidence[:8]), "```"]
    if d.facts:
        shown = [f"{name} = {value}" for name, value in list(d.facts.items())[:16]]
        lines += ["", "Numbers: " + ", ".join(shown)]
    lines += ["", f"**What to do:** {' '.join(d.advice.split())}", ""]
    otherwise = "none needed" if d.label == "healthy_noise" else "none; for a person"
    how = f"`runbooks run {d.remedy.replace('_', '-')}`" if d.remedy else otherwise
    lines.append(f"**Procedure:** {how}")
    return "\n".join(lines)
