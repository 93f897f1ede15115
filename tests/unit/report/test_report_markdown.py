"""Markdown for Prefect's UI shows model text and never acts on it."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_rows import manifest

from agentflow.report.markdown import safe_cell, safe_code, stage_markdown
from agentflow.report.visible import visible


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "`code` and **bold**",
        "<script>alert(1)</script>",
        "![i](https://attacker.example/x.png)",
        "https://attacker.example www.attacker.example me@attacker.example",
        "\u202eabc \x1b[31m",
        "=cmd()",
        "&lt;b&gt; &#60;",
        "\\[x](y)",
    ],
)
def test_a_cell_holds_no_live_markdown_html_or_link(text):
    cell = safe_cell(text)
    assert not re.search(r"[|`<>\[\]\\!*_\x00-\x1f\u202a-\u202e]", cell)
    assert "://" not in cell and "www." not in cell and "@" not in cell


def test_a_cell_reads_as_the_text_it_was_made_of():
    text = "Mia has 48 | 2 `clips` & <b>more</b> [x](https://y.z)"
    assert html.unescape(safe_cell(text)) == text


def test_long_values_are_capped_and_none_is_a_dash():
    assert html.unescape(safe_cell("x" * 1000, 10)) == "xxxxxxxxxx … [990 more characters]"
    assert safe_cell(None) == "–"


@given(st.text())
def test_any_text_stays_on_one_line_of_printable_characters(text):
    cell = safe_cell(text)
    assert "\n" not in cell and "|" not in cell
    assert all(char.isprintable() or char == " " or char >= "\u00a0" for char in cell)


@given(st.text(alphabet=st.one_of(st.sampled_from("`[]()<>!&*_ \\~#|\n"), st.characters())))
def test_a_code_span_shows_any_text_as_it_is_and_acts_on_nothing(text):
    inline = [token for token in MarkdownIt("commonmark").parse(safe_code(text)) if token.type == "inline"]
    (span,) = inline[0].children
    assert span.type == "code_inline"
    assert span.content.strip() == visible(text).replace("\n", " ↵ ").replace("\t", " ").strip()


def test_a_code_span_reads_well_where_it_is_shown_as_plain_text():
    assert safe_code('Search {"query":"a_b"}') == '`Search {"query":"a_b"}`'
    assert safe_code(None) == "–"


def test_the_artifact_of_a_stage_shows_counts_reasons_and_samples():
    text = stage_markdown(
        manifest("traces", 10, 7, {"wrong_answer": 2}, failed={"timeout": 1}),
        [{"id": "q1#0", "question": "How many | pipes?", "segments": [{"kind": "text"}]}] * 9,
    )
    lines = text.splitlines()
    assert "| 10 | 7 | 7 | 2 | 0 | 1 |" in lines
    assert "| dropped | wrong&#95;answer | 2 |" in lines
    assert "| failed | timeout | 1 |" in lines
    samples = [line for line in lines if line.startswith("| q1")]
    assert len(samples) == 5
    assert all(line.count("|") == 3 for line in samples)
    assert "segments" not in text
