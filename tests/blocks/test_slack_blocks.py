"""The renderer: whatever it is given, Slack takes the result; nothing mentions anybody."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks import slack_blocks as kit
from deployments.sandbox.slack_rules import faults_of_blocks
from deployments.sandbox.slack_state import Message

TEXT = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["", " ", "\n", "```", "<!channel>", "&", "<@U1>", "🔥", "\ud800", "a\x00b"]),
    st.builds(
        lambda part, n: part * n,
        st.sampled_from(["x", "&", "<", ">", "`", "é", "🔥", "<!here> ", "line\n", "```\n"]),
        st.integers(1, 4000),
    ),
)
BUTTON = st.builds(
    kit.button,
    TEXT,
    st.sampled_from(["approve", "reject", "open", "ack"]),
    TEXT,
    style=st.sampled_from(["", "primary", "danger"]),
    confirm=st.none() | st.builds(kit.confirmation, TEXT, TEXT, TEXT),
    url=st.sampled_from(["", "https://example.com/x"]),
)
BLOCK = st.one_of(
    st.builds(kit.header, TEXT),
    st.builds(kit.section, TEXT),
    st.builds(lambda t: kit.section(kit.code(t)), TEXT),
    st.builds(kit.context, TEXT),
    st.builds(kit.fields, st.lists(st.tuples(TEXT, TEXT), max_size=14)),
    st.builds(kit.actions, st.lists(BUTTON, max_size=30)),
    st.builds(kit.divider),
)
LINK = st.sampled_from(["", "https://prefect.example/runs/1?a=1&b=2", "javascript:x", "h" * 9000])


@settings(max_examples=150, deadline=None)
@given(st.lists(BLOCK, max_size=70), LINK)
def test_slack_takes_whatever_is_rendered(blocks: list[dict[str, Any]], link: str) -> None:
    shown = kit.message(blocks, link)
    assert faults_of_blocks(shown) == []
    assert len(json.dumps(shown, ensure_ascii=False)) <= kit.TOTAL_LIMIT
    assert Message("C1", "1", "", shown).mentions == []
    assert kit.message(shown, link) == shown, "twice is once"
    json.dumps(shown).encode()


@settings(max_examples=300, deadline=None)
@given(TEXT, st.integers(100, 3000))
def test_a_cut_text_is_within_the_limit_and_has_no_half_of_anything(text: str, limit: int) -> None:
    cut = kit.clip(text, limit)
    assert len(cut.encode("utf-16-le")) // 2 <= limit
    bare = re.sub(r"&(amp|lt|gt);", "", cut)
    assert "&" not in bare and "<" not in bare
    assert kit.code(text).count("```") == 2 == kit.clip(kit.code(text), limit).count("```")


def test_what_is_escaped_is_what_was_meant() -> None:
    assert kit.escape("a < b && c > d") == "a &lt; b &amp;&amp; c &gt; d"
    assert kit.escape("> quoted <!here>") == "> quoted &lt;!here&gt;"
    assert kit.escape(kit.escape("&")) == "&amp;", "once"
    assert kit.code("> a `b` <!here>") == "```\n&gt; a 'b' &lt;!here&gt;\n```"
    assert kit.join(kit.mention("U1"), " <@U2>") == "<@U1> &lt;@U2&gt;"
    assert kit.mention("S1AB") == "<!subteam^S1AB>"
    assert kit.mention("ada <!here>") == "ada &lt;!here&gt;"
    assert kit.link("https://x.example/?a&b", "A|<B>") == "<https://x.example/?a&amp;b|A¦&lt;B&gt;>"
    assert kit.link("javascript:alert(1)", "x") == "x"
    assert kit.link("https://x.example/|<!here>", "x") == "x"
    assert kit.section("")["text"]["text"] == "-"
    assert kit.header("<!here>")["text"]["text"] == "<!here>", "plain text has no markup"


def test_what_was_cut_is_said_with_the_records_address() -> None:
    long = kit.section("x" * 5000)
    assert long["text"]["text"].endswith("(cut; see the record)")
    (shown,) = kit.message([long], "https://x.example/r")
    assert shown["text"]["text"].endswith("(cut; <https://x.example/r|see the record>)")
    assert len(shown["text"]["text"]) <= 3000


@pytest.mark.parametrize("cut_at", range(80, 140))
def test_a_link_is_whole_or_not_there(cut_at: int) -> None:
    text = kit.join("x" * 60, kit.link("https://x.example/" + "p" * 20, "label"), "y" * 200)
    cut = kit.clip(text, cut_at)
    assert cut.count("<") == cut.count(">") and len(cut) <= cut_at


def test_too_many_blocks_lose_text_before_buttons() -> None:
    rows = kit.actions([kit.button("Approve", "approve", "v")])
    many = [kit.header("h"), *(kit.section(str(i)) for i in range(80)), rows]
    shown = kit.message(many, "https://x.example/r")
    assert len(shown) == 50 and rows in shown and shown[0] == many[0]
    assert "more was cut" in json.dumps(shown[-1], ensure_ascii=False)
    huge = [kit.section("z" * 3000) for _ in range(20)]
    assert rows in kit.message([*huge, rows])


def test_rows_are_split_and_a_value_is_never_cut() -> None:
    same = [kit.button(str(i), "run", str(i)) for i in range(3)]
    many = [kit.button(str(i), f"run{i}", "v") for i in range(26)]
    assert [len(b["elements"]) for b in kit.message([kit.actions(same)])] == [1, 1, 1]
    assert [len(b["elements"]) for b in kit.message([kit.actions(many)])] == [25, 1]
    long = kit.button("Approve", "approve", "x" * 2001)
    (left,) = kit.message([kit.actions([long])])
    assert left["type"] == "context" and "left out" in left["elements"][0]["text"]
    whole = kit.button("Approve", "approve", "x" * 2000)
    assert kit.message([kit.actions([whole])])[0]["elements"] == [whole]


def test_fields_of_more_than_ten_are_split() -> None:
    shown = kit.message([kit.fields([(str(i), "v") for i in range(23)])])
    assert [len(b["fields"]) for b in shown] == [10, 10, 3]
