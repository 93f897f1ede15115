"""The teacher's lookups are checked before they are used, and land between sentences."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import MalformedAnswer
from agentflow.insertion.lookups import Lookup, question_message, read_lookups, response_format

TEXT = "First I need where Mira works. Mira works at the harbour.\nThe harbour lies in Ost. "


def answer(*lookups: object) -> str:
    return json.dumps({"lookups": lookups})


def test_a_lookup_lands_behind_the_sentence_before():
    found = read_lookups(answer({"sentence": 1, "query": "Where does Mira work?"}), TEXT)
    assert found == [Lookup(at=30, sentence=1, query="Where does Mira work?")]
    assert TEXT[:30].endswith("works.") and TEXT[30:].startswith(" Mira")


def test_a_lookup_before_the_first_sentence_lands_at_the_very_start():
    assert read_lookups(answer({"sentence": 0, "query": "q"}), TEXT)[0].at == 0
    assert read_lookups(answer({"sentence": 0, "query": "q"}), "  Spaced. Text.")[0].at == 0


def test_a_line_break_stays_behind_the_call():
    at = read_lookups(answer({"sentence": 2, "query": "q"}), TEXT)[0].at
    assert TEXT[at:].startswith("\nThe harbour")


def test_lookups_come_in_the_order_of_the_text_and_each_query_once():
    content = answer(
        {"sentence": 2, "query": "Ost"}, {"sentence": 1, "query": "Mira  Tal"}, {"sentence": 2, "query": "mira tal"}
    )
    assert [(item.sentence, item.query) for item in read_lookups(content, TEXT)] == [(1, "Mira Tal"), (2, "Ost")]


def test_no_lookup_is_an_answer():
    assert read_lookups('{"lookups": []}', TEXT) == []
    assert read_lookups('```json\n{"lookups": []}\n```', TEXT) == []


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "lookups: the answer: Invalid JSON"),
        ("no lookups needed", "Invalid JSON"),
        ('{"lookups": [', "Invalid JSON"),
        ("[]", "the answer"),
        ('{"searches": []}', "lookups"),
        ('{"lookups": [], "note": "x"}', "note: Extra inputs"),
        (answer({"sentence": 3, "query": "q"}), r"sentence 3 does not exist; allowed: 0 to 2"),
        (answer({"sentence": -1, "query": "q"}), "lookups.0.sentence"),
        (answer({"sentence": "1", "query": "q"}), "lookups.0.sentence"),
        (answer({"sentence": True, "query": "q"}), "lookups.0.sentence"),
        (answer({"sentence": 1.5, "query": "q"}), "lookups.0.sentence"),
        (answer({"sentence": 1}), "lookups.0.query: Field required"),
        (answer({"sentence": 1, "query": ""}), "lookups.0.query"),
        (answer({"sentence": 1, "query": " \n"}), "a query of 0 characters; allowed: 1 to 200"),
        (answer({"sentence": 1, "query": "q" * 201}), "a query of 201 characters"),
        (answer(*[{"sentence": 1, "query": str(i)} for i in range(9)]), "9 given, at most 8 allowed"),
        ("[" * 15_000, "lookups"),
        (" " * 30_000, "30000 characters, at most 20000 are read"),
    ],
)
def test_anything_but_the_promised_shape_is_malformed(content, message):
    with pytest.raises(MalformedAnswer, match=message):
        read_lookups(content, TEXT)


def test_no_sentence_can_be_named_in_an_empty_text():
    with pytest.raises(MalformedAnswer):
        read_lookups(answer({"sentence": 0, "query": "q"}), "")


@given(st.text(), st.text())
def test_any_answer_gives_lookups_or_a_typed_failure(content, reasoning):
    try:
        assert read_lookups(content, reasoning) == []
    except MalformedAnswer as error:
        assert str(error).startswith("lookups: ") and not error.stops_run


@given(st.text(min_size=1), st.integers(0, 5))
def test_every_place_lies_in_the_text(reasoning, sentence):
    try:
        found = read_lookups(answer({"sentence": sentence, "query": "q"}), reasoning)
    except MalformedAnswer:
        return
    assert 0 <= found[0].at <= len(reasoning)


def test_the_request_numbers_the_sentences_as_the_answer_is_read():
    message = json.loads(question_message("Where?", TEXT))
    assert message["question"] == "Where?"
    assert message["sentences"][1] == "Mira works at the harbour."
    form = response_format()
    assert form["json_schema"]["name"] == "lookups" and form["json_schema"]["schema"]["required"] == ["lookups"]
