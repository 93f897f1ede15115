"""The teacher's lookups are checked before they are used, and land between sentences."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import MalformedAnswer
from agentflow.insertion.lookups import Lookup, Lookups, question_message, read_lookups, response_format

TEXT = "First I need where Mira works. Mira works at the harbour.\nThe harbour lies in Ost. "


NONE = Lookups(())


def answer(*lookups: object) -> str:
    return json.dumps({"lookups": lookups})


def taken(content: str, reasoning: str = TEXT) -> list[Lookup]:
    found = read_lookups(content, reasoning)
    assert found.refused == {}
    return list(found.taken)


def test_a_lookup_lands_behind_the_sentence_before():
    found = taken(answer({"sentence": 1, "query": "Where does Mira work?"}))
    assert found == [Lookup(at=30, sentence=1, query="Where does Mira work?")]
    assert TEXT[:30].endswith("works.") and TEXT[30:].startswith(" Mira")


def test_a_lookup_before_the_first_sentence_lands_at_the_very_start():
    assert taken(answer({"sentence": 0, "query": "q"}))[0].at == 0
    assert taken(answer({"sentence": 0, "query": "q"}), "  Spaced. Text.")[0].at == 0


def test_a_line_break_stays_behind_the_call():
    at = taken(answer({"sentence": 2, "query": "q"}))[0].at
    assert TEXT[at:].startswith("\nThe harbour")


def test_lookups_come_in_the_order_of_the_text_and_each_query_once():
    content = answer(
        {"sentence": 2, "query": "Ost"}, {"sentence": 1, "query": "Mira  Tal"}, {"sentence": 2, "query": "mira tal"}
    )
    assert [(item.sentence, item.query) for item in taken(content)] == [(1, "Mira Tal"), (2, "Ost")]


def test_no_lookup_is_an_answer():
    assert read_lookups('{"lookups": []}', TEXT) == NONE
    assert read_lookups('{"lookups": [], "note": "x"}', TEXT) == NONE


@pytest.mark.parametrize(
    "around",
    ["{}", "```json\n{}\n```", "```json{}```", "```{}```", "\ufeff{}", "\ufeff```JSON {} ```\n", "```\n\ufeff{}```"],
)
def test_what_models_and_hosts_put_around_the_json_does_no_harm(around):
    content = answer({"sentence": 0, "query": "what ``` means"})
    assert [one.query for one in taken(around.replace("{}", content))] == ["what ``` means"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "lookups: no JSON"),
        ("no lookups needed", "no JSON"),
        ('{"lookups": [', "no JSON"),
        ("[]", "no object with one list"),
        ('{"searches": []}', "no object with one list"),
        ('{"lookups": {"sentence": 0, "query": "q"}}', "no object with one list"),
        ('{"lookups": [], "lookups": [{"sentence": 0, "query": "q"}]}', "no object with one list"),
        ("[" * 15_000, "lookups"),
        (" " * 30_000, "30000 characters, at most 20000 are read"),
    ],
)
def test_an_answer_without_a_list_of_lookups_is_malformed(content, message):
    with pytest.raises(MalformedAnswer, match=message):
        read_lookups(content, TEXT)


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('{"sentence": 3, "query": "q"}', "lookup_sentence"),
        ('{"sentence": -1, "query": "q"}', "lookup_sentence"),
        ('{"sentence": "1", "query": "q"}', "lookup_sentence"),
        ('{"sentence": true, "query": "q"}', "lookup_sentence"),
        ('{"sentence": 1.0, "query": "q"}', "lookup_sentence"),
        ('{"sentence": NaN, "query": "q"}', "lookup_sentence"),
        ('{"query": "q"}', "lookup_sentence"),
        ('{"sentence": 1}', "lookup_query"),
        ('{"sentence": 1, "query": ["q"]}', "lookup_query"),
        ('{"sentence": 1, "query": ""}', "lookup_query"),
        ('{"sentence": 1, "query": " \\n"}', "lookup_query"),
        ('{"sentence": 1, "query": "half \\ud83d"}', "lookup_query"),
        (f'{{"sentence": 1, "query": "{"q" * 201}"}}', "lookup_query"),
        ('{"sentence": 1, "query": "q", "why": "x"}', "lookup_other_keys"),
        ('{"sentence": 1, "query": "q", "query": "r"}', "lookup_no_object"),
        ('[1, "q"]', "lookup_no_object"),
        ("null", "lookup_no_object"),
    ],
)
def test_an_item_that_does_not_fit_is_refused_and_counted_and_the_others_are_taken(bad, reason):
    good = '{"sentence": 1, "query": "Mira"}'
    found = read_lookups(f'{{"lookups": [{bad}, {good}, {bad}]}}', TEXT)
    assert [(one.sentence, one.query) for one in found.taken] == [(1, "Mira")] and found.refused == {reason: 2}


def test_of_too_many_lookups_the_first_in_the_text_are_taken():
    content = answer(*[{"sentence": 2 - i % 3, "query": str(i)} for i in range(11)])
    found = read_lookups(content, TEXT)
    assert [one.sentence for one in found.taken] == [0, 0, 0, 1, 1, 1, 1, 2]
    assert found.refused == {"lookup_too_many": 3}


def test_no_sentence_can_be_named_in_an_empty_text():
    found = read_lookups(answer({"sentence": 0, "query": "q"}), "")
    assert found == Lookups((), {"lookup_sentence": 1})


@given(st.text(), st.text())
def test_any_answer_gives_lookups_or_a_typed_failure(content, reasoning):
    try:
        assert read_lookups(content, reasoning) == NONE
    except MalformedAnswer as error:
        assert str(error).startswith("lookups: ") and not error.stops_run


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sentence", "query", "x"]), inner),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=12), st.text())
def test_whatever_the_items_are_each_is_taken_or_counted(items, reasoning):
    found = read_lookups(answer(*items), reasoning)
    assert len(found.taken) <= 8 and all(0 <= one.at <= len(reasoning) for one in found.taken)
    assert len(found.taken) + sum(found.refused.values()) <= len(items)


@given(st.text(min_size=1), st.integers(0, 5))
def test_every_place_lies_in_the_text(reasoning, sentence):
    found = read_lookups(answer({"sentence": sentence, "query": "q"}), reasoning)
    assert len(found.taken) + found.refused.get("lookup_sentence", 0) == 1
    assert all(0 <= one.at <= len(reasoning) for one in found.taken)


def test_the_request_numbers_the_sentences_as_the_answer_is_read():
    message = json.loads(question_message("Where?", TEXT))
    assert message["question"] == "Where?"
    assert message["sentences"][1] == "Mira works at the harbour."
    form = response_format()
    assert form["json_schema"]["name"] == "lookups" and form["json_schema"]["schema"]["required"] == ["lookups"]
