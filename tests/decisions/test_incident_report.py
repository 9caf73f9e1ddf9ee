"""The draft says what the facts say, in the order of time, and calls the rest unknown."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from blocks.escalation import ChecklistItem, SeveritySpec
from blocks.incidents import Acknowledged, Ended, Heard, Incident, Opened, Telling, Told
from flows.decisions.checklist import Box, Seen, boxes
from flows.decisions.incident_report import UNKNOWN, Action, Facts, draft, harmless

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def opened(**more: Any) -> Opened:
    return Opened.model_validate(
        {
            "id": "0badcafe",
            "stack": "lab",
            "service": "chat",
            "severity": "P0",
            "title": "chat answers no request",
            "source": "alert",
            "at": NOON,
            **more,
        }
    )


def telling(number: int, person: str, way: str, minutes: float, **heard: Any) -> Telling:
    return Telling(
        number=number,
        told=Told(role=f"role{number}", person=person, way=way, at=after(minutes)),
        heard=Heard(at=after(minutes), **heard) if heard else None,
    )


FIX = Action(
    procedure="remediate-oom",
    service="chat",
    run_id="1f0c2a9e-0000",
    at=after(1),
    ended_at=after(3),
    verdict="passed",
    message="max_model_len 16384 -> 8192; it decodes",
    by="alert, from alert",
    approver="ada, from slack",
    changes=(("max_model_len", "16384", "8192"),),
    kept=1,
    undone=2,
    cause="oom_kv_cache: the KV cache does not fit",
    evidence=("ValueError: 4.2 GiB KV cache is needed",),
    next_step="restore-context steps it back up",
)
WHOLE = Facts(
    incident=Incident(
        opened=opened(alert={"name": "VllmDown", "summary": "no answer for 1 min"}),
        acknowledged=Acknowledged(by="ada", source="slack", at=after(2)),
        ended=Ended(by="alertmanager", how="resolved", at=after(34)),
    ),
    told=(
        telling(0, "ada", "pagerduty", 0.1, sent=True),
        telling(1, "ada", "slack", 0.2, sent=False, problem="Slack does not answer"),
    ),
    actions=(FIX,),
    drafted_at=after(35),
)


def part(text: str, name: str) -> str:
    return text.split(f"\n## {name}")[1].split("\n## ")[0]


def test_a_whole_incident_is_told_in_the_order_of_time() -> None:
    text = draft(WHOLE)
    rows = [r for r in part(text, "Timeline").splitlines() if r.startswith("| 2026")]
    times = [r.split("|")[1] for r in rows]
    assert times == sorted(times)
    order = ["opened as P0", "told by pagerduty", "FAILED, Slack does", "began", "acknowledged by",
             "remediate-oom: passed", "resolved by"]  # fmt: skip
    assert all(word in row for word, row in zip(order, rows, strict=True)), rows
    assert "| Acknowledged | by ada after 2 min |" in text
    assert "| Lasted | 34 min |" in text
    assert "| max_model_len | 16384 | 8192 |" in part(text, "Actions")
    assert "Approved by ada, from slack." in part(text, "Actions")
    assert "Taken back because it did not help: 2." in part(text, "Actions")
    assert "oom_kv_cache: the KV cache does not fit" in part(text, "Cause")
    assert "4.2 GiB KV cache" in part(text, "Evidence")
    assert "slack did not reach ada: Slack does not answer" in part(text, "Follow-ups")
    assert "restore-context steps it back up" in part(text, "Follow-ups")
    assert "no answer for 1 min" in part(text, "Impact")
    assert part(text, "What is not known").strip() == (
        "- how many users and requests were affected"
    )


def test_what_no_fact_says_is_unknown() -> None:
    text = draft(Facts(incident=Incident(opened=opened()), drafted_at=after(60)))
    assert f"| Lasted | {UNKNOWN} |" in text and "not over at the time" in text
    assert "by nobody" in text
    assert part(text, "Cause").strip().startswith(UNKNOWN)
    assert "No procedure was run" in part(text, "Actions")
    assert "None on record" in part(text, "Evidence")
    unknown = part(text, "What is not known")
    for words in ("users", "the cause", "nobody acknowledged", "when it ended", "by hand"):
        assert words in unknown
    for invented in ("oom", "passed", "ada", "resolved"):
        assert invented not in text


def test_a_telling_cut_off_and_a_run_without_record_are_open_questions() -> None:
    silent = FIX.model_copy(update={"verdict": "", "message": "", "changes": (), "cause": ""})
    facts = WHOLE.model_copy(
        update={"told": (telling(0, "bob", "email", 1),), "actions": (silent,)}
    )
    unknown = part(draft(facts), "What is not known")
    assert "whether bob was reached by email" in unknown
    assert "remediate-oom (run 1f0c2a9e) came to: it left no record" in unknown
    assert "the cause" in unknown
    assert "whether it went out is not known" in part(draft(facts), "Timeline")


def test_boxes_are_ticked_by_what_was_seen_and_by_nothing_else() -> None:
    row = SeveritySpec(
        path=("primary",),
        via=("slack",),
        respond_min=15,
        checklist=(
            ChecklistItem(text="Acknowledge alert", ticked="acknowledged"),
            ChecklistItem(text="Check Grafana dashboards"),
            ChecklistItem(text="Monitor for 15 minutes", ticked="watched"),
        ),
    )
    lines = [b.line for b in boxes(row, {"acknowledged": Seen(at=NOON, how="ada")})]
    assert lines == [
        "[x] Acknowledge alert (ada, 12:00 UTC)",
        "[ ] Check Grafana dashboards (yours to do)",
        "[ ] Monitor for 15 minutes",
    ]
    own = SeveritySpec(path=("p",), via=("slack",), respond_min=1, watch_min=30)
    assert "Watched for 30 minutes" in [b.text for b in boxes(own, {})]
    quick = own.model_copy(update={"watch_min": 0})
    assert not [b for b in boxes(quick, {}) if "Watched" in b.text]


NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(NASTY, NASTY, NASTY)
def test_no_text_breaks_a_table_or_adds_a_heading(title: str, said: str, evidence: str) -> None:
    facts = WHOLE.model_copy(
        update={
            "incident": Incident(opened=opened(title=title, alert={"summary": said})),
            "actions": (FIX.model_copy(update={"message": said, "evidence": (evidence,)}),),
        }
    )
    text = draft(facts)
    outside = text.split("## Evidence")[0]
    rows = [r for r in part(text, "Timeline").split("\n") if r.startswith("|")]
    assert all(r.replace("\\|", "").count("|") == 3 and r.endswith("|") for r in rows)
    heads = [h for h in outside.split("\n") if h.startswith("## ")]
    assert heads == ["## Summary", "## Impact", "## Timeline (UTC)", "## Actions", "## Cause"]
    assert text.count("```") == 2
    assert draft(facts) == text


@given(NASTY)
def test_no_text_mentions_shows_or_links(said: str) -> None:
    line = harmless(said)
    assert "\n" not in line and not re.search(r"@(?!\u200b)|<(?!\u200b)", line)
    plain = re.sub(r"\\\\", "", line)  # a pair is one backslash that is shown
    assert not re.search(r"(?<!\\)[\[\]!]", plain)


def test_an_image_in_an_alert_is_text_in_the_report_and_the_boxes_stay() -> None:
    alert = {"name": "Down", "summary": "![x](http://evil/p.png) @here <b>"}
    boxes = (Box(text="Look [here](http://evil)", seen=Seen(at=NOON)),)
    incident = Incident(opened=opened(alert=alert, title="[down](http://evil)"))
    text = draft(WHOLE.model_copy(update={"incident": incident, "checklist": boxes}))
    assert "![x]" not in text and "[down](" not in text.replace("\\[down\\](", "")
    assert "\\!\\[x\\](http://evil/p.png) @\u200bhere &lt;b>" in text
    assert "- [x] Look \\[here\\](http://evil) (12:00 UTC)" in text
