"""The sentence splitter: offsets that cover the text, and where it does not split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.sources.sentences import sentences, split_sentences

TEXT_WITH_ENDS = st.text(st.sampled_from("aB1 .!?\n\t\"')Mr\u00a0é"), max_size=60) | st.text(max_size=60)


@given(TEXT_WITH_ENDS)
def test_the_sentences_cover_the_text_without_gap_or_overlap(text: str) -> None:
    spans = split_sentences(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


@given(TEXT_WITH_ENDS)
def test_only_a_blank_text_has_a_blank_sentence(text: str) -> None:
    assert all(sentences(text)) or not text.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It costs 3.5 dollars. He pays.", ["It costs 3.5 dollars.", "He pays."]),
        ("In all 48+24 = 72. That is it.", ["In all 48+24 = 72.", "That is it."]),
        ("Mr. Lund met Dr. Vale. They spoke.", ["Mr. Lund met Dr. Vale.", "They spoke."]),
        ("S. P. L. Lund was a chemist. He lived.", ["S. P. L. Lund was a chemist.", "He lived."]),
        ("It is approx. five, e.g. six. Right.", ["It is approx. five, e.g. six.", "Right."]),
        ("No. 5 wins. The answer is no. Next.", ["No. 5 wins.", "The answer is no.", "Next."]),
        ("1. First add. 2. Then halve.", ["1. First add.", "2. Then halve."]),
        ('"Stop." She left.', ['"Stop."', "She left."]),
        ("So 2 = 2\nThen 3 = 3.\n\nEnd", ["So 2 = 2", "Then 3 = 3.", "End"]),
        ("Wait... Now go.", ["Wait...", "Now go."]),
        ("  Two leading spaces. End.  ", ["Two leading spaces.", "End."]),
        ("So do I. You too.", ["So do I.", "You too."]),
        ("", []),
    ],
)
def test_it_splits_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize("piece", [".", " ", "\n", "a. ", ".\n", ".'", "A."])
def test_long_hostile_text_is_split_too(piece: str) -> None:
    text = piece * 30_000
    spans = split_sentences(text)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
