"""Every published shape becomes one record type: question, answer, aliases, facts in the order of the hops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agentflow.records import ToolCall
from agentflow.rewards.contract import gold_of
from agentflow.schemas import QUESTIONS
from agentflow.sources import musique, open_questions, toolrl, triviaqa, two_wiki
from agentflow.sources.facts import lookups
from agentflow.sources.fields import BadRow
from agentflow.sources.file_sources import (
    BamboogleSource,
    FileSource,
    MusiqueSource,
    NqOpenSource,
    ToolRlSource,
    TriviaQaSource,
    TwoWikiSource,
)
from agentflow.sources.known import known_rows
from agentflow.sources.sentences import sentences
from agentflow.sources.source import load_questions
from agentflow.toolset import syntax_for

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data sets are not at {DATA}")
TRIVIA = Path(__file__).with_name("triviaqa_rc.jsonl")
HOPS = {
    "id": "2hop__1_2",
    "question": "Who founded the company that made Pond?",
    "answer": "Ida Venn",
    "answer_aliases": ["I. Venn", "Ida Venn", " "],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Orle Games", "paragraph_text": "Ida Venn sold it. Orle Games was founded by Ida Venn.",
         "is_supporting": True},
        {"idx": 1, "title": "Elsewhere", "paragraph_text": "Nothing.", "is_supporting": False},
        {"idx": 2, "title": "Pond", "paragraph_text": "Pond is a  game. Orle Games made it.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 1, "question": "Who made Pond?", "answer": "Orle Games", "paragraph_support_idx": 2},
        {"id": 2, "question": "Who founded #1 ?", "answer": "Ida Venn", "paragraph_support_idx": 0},
    ],
}  # fmt: skip
FILMS = {
    "_id": "9340",
    "type": "compositional",
    "question": "When was the singer of Get Low born?",
    "answer": "October 5, 1987",
    "supporting_facts": [["Dillon Francis", 0], ["Get Low", 0]],
    "context": [["Get Low", ["Get Low is a song by Dillon Francis."]], ["Dillon Francis", ["Born October 5, 1987."]]],
    "evidences": [["Get Low", "performer", "Dillon Francis"], ["Dillon Francis", "date of birth", "October 5, 1987"]],
}

TOOLS = "You help.\n\n**Available Tools**\nIn your response, you can use the following tools:\n1. Name: f\n\n"


def turn_record(truth: str, system: str = f"{TOOLS}**Steps for Each Turn**\n1. Think") -> dict[str, Any]:
    """A row in the published shape of ToolRL."""
    user = "**Dialogue Records History**\n<user> Do it. </user>"
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {"prompt": prompt, "reward_model": {"ground_truth": truth}, "extra_info": {"index": 4}}


def test_musique_hops_become_a_chain_of_the_sentences_that_answer_them() -> None:
    row = musique.question_row(HOPS)
    assert (row["answer"], row["aliases"], row["answer_type"]) == ("Ida Venn", ["I. Venn"], "text")
    assert row["rationale"] == "Orle Games made it.\nOrle Games was founded by Ida Venn."
    meta = json.loads(row["meta"])
    assert [fact["title"] for fact in meta["facts"]] == ["Pond", "Orle Games"] and meta["missing_facts"] == 0
    assert meta["hops"][1] == {"question": "Who founded #1 ?", "answer": "Ida Venn"}
    assert lookups(meta) == [{"sentence": 0, "query": "Pond"}, {"sentence": 1, "query": "Orle Games"}]


def test_a_hop_whose_paragraph_is_missing_is_counted() -> None:
    row = musique.question_row({**HOPS, "paragraphs": HOPS["paragraphs"][:2]})
    assert row["rationale"] == "Orle Games was founded by Ida Venn." and json.loads(row["meta"])["missing_facts"] == 1


def test_two_wiki_facts_end_with_the_answer_and_keep_their_triples() -> None:
    row = two_wiki.question_row(FILMS)
    assert row["rationale"] == "Get Low is a song by Dillon Francis.\nBorn October 5, 1987."
    assert json.loads(row["meta"])["evidences"] == FILMS["evidences"]
    compared = two_wiki.question_row({**FILMS, "type": "bridge_comparison"})
    assert compared["rationale"].startswith("Born")


def test_the_hub_forms_of_two_wiki_are_read_alike() -> None:
    context = {"title": [t for t, _ in FILMS["context"]], "sentences": [s for _, s in FILMS["context"]]}
    facts = {"title": [t for t, _ in FILMS["supporting_facts"]], "sent_id": [n for _, n in FILMS["supporting_facts"]]}
    columnar = {**FILMS, "context": context, "supporting_facts": facts}
    texts = {k: json.dumps(v) if isinstance(v, list) else v for k, v in FILMS.items()}
    assert two_wiki.question_row(columnar) == two_wiki.question_row(texts) == two_wiki.question_row(FILMS)


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        ({"question": "Which sea?", "answer": ["Red Sea", "Red Sea", "The Red Sea "]}, ["Red Sea", "The Red Sea"]),
        ({"Question": "Which sea?", "Answer": "Red Sea"}, ["Red Sea"]),
        ({"question": "Which sea?", "golden_answers": ["", "Red Sea"]}, ["Red Sea"]),
        ({"question": "Which sea?", "answer": [",", "Red Sea", "...", "The The"]}, ["Red Sea", "The The"]),
        ({"question": "Which sea?", "answer": ["?", "!"]}, ["?", "!"]),
    ],
)
def test_lists_of_accepted_answers_become_answer_and_aliases(record: dict[str, Any], answers: list[str]) -> None:
    for read in (open_questions.nq_open_row, open_questions.bamboogle_row, musique.question_row, two_wiki.question_row):
        row = read(record)
        assert (
            [row["answer"], *row["aliases"]] == answers and row["rationale"] == "" and row["question"] == "Which sea?"
        )


def test_triviaqa_keeps_the_aliases_as_written_and_the_evidence_pages() -> None:
    outcome = load_questions(TriviaQaSource(path=TRIVIA, test_fraction=0))
    first, second = outcome.rows
    assert first["answer"] == "Sunset Boulevard"
    assert first["aliases"] == ["Sunset Blvd", "West Sunset Boulevard", "Sunset Bulevard"]
    assert json.loads(first["meta"])["pages"] == ["Andrew Lloyd Webber"]
    assert second["aliases"] == ["Sir Henry Campbell-Bannerman", "Henry Campbell-Bannerman"]
    assert [(r.key, r.status, r.reason) for r in outcome.rejects] == [
        ("triviaqa_rc.jsonl:3", "quarantined", "no_answer")  # hidden in the published test split
    ]


@pytest.mark.parametrize(
    ("read", "record", "reason"),
    [
        (musique.question_row, {**HOPS, "answerable": False}, "unanswerable"),
        (musique.question_row, {**HOPS, "answer": None, "answer_aliases": None}, "no_answer"),
        (musique.question_row, {**HOPS, "answer_aliases": [3]}, "bad_answer"),
        (musique.question_row, {**HOPS, "paragraphs": [{"title": "x"}]}, "bad_context"),
        (musique.question_row, {**HOPS, "paragraphs": "text"}, "bad_context"),
        (musique.question_row, {**HOPS, "question_decomposition": [3]}, "bad_context"),
        (musique.question_row, {**HOPS, "id": float("nan")}, "bad_meta"),
        (two_wiki.question_row, {**FILMS, "evidences": [["a", "b"]]}, "bad_context"),
        (two_wiki.question_row, {**FILMS, "evidences": "{"}, "bad_context"),
        (two_wiki.question_row, {**FILMS, "context": "["}, "bad_context"),
        (two_wiki.question_row, {**FILMS, "context": "[" * 100_000}, "bad_context"),
        (two_wiki.question_row, {**FILMS, "evidences": "[" * 100_000}, "bad_context"),
        (two_wiki.question_row, {**FILMS, "_id": b"bytes"}, "bad_meta"),
        (open_questions.nq_open_row, {"question": "Why?", "answer": []}, "no_answer"),
        (open_questions.nq_open_row, {"question": "Why?", "answer": 42}, "bad_answer"),
        (open_questions.nq_open_row, {"question": "Why?", "answer": ["\ud800"]}, "bad_text"),
        (open_questions.bamboogle_row, {"Question": " ", "answer": ["x"]}, "no_question"),
        (triviaqa.question_row, {"question": "Why?", "answer": "x"}, "no_answer"),
        (triviaqa.question_row, {"question": "Why?", "answer": {"value": "x", "aliases": "y"}}, "bad_answer"),
        (triviaqa.question_row, {"question": "Why?", "answer": {"value": "x"}, "entity_pages": 3}, "bad_context"),
        (toolrl.question_row, {"question": "Why?"}, "bad_context"),
        (toolrl.question_row, turn_record("<think>x</think>"), "no_answer"),
        (toolrl.question_row, turn_record("<tool_call>\n\n</tool_call>"), "no_answer"),
        (toolrl.question_row, turn_record("<response>x</response>", system="No tools."), "no_question"),
        (toolrl.question_row, turn_record('<tool_call>{"name": "f"}</tool_call>'), "bad_answer"),
        (toolrl.question_row, turn_record('<tool_call>{"name": "f", "parameters": 3}</tool_call>'), "bad_answer"),
        (toolrl.question_row, turn_record("<tool_call>f(x)</tool_call>"), "bad_answer"),
    ],
)
def test_a_record_of_another_shape_is_refused_by_reason(read: Any, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        read(record)
    assert caught.value.reason == reason and caught.value.detail


def test_toolrl_rows_become_turns_with_gold_calls_or_an_answer() -> None:
    both = '{"name": "f", "parameters": {"x": [1]}}\n{"name": "g", "parameters": {}}'
    row = toolrl.question_row(turn_record(f"<think>so</think>\n<tool_call>\n{both}\n</tool_call> "))
    assert row["question"] == "Tools:\n1. Name: f\n\nDialogue:\n<user> Do it. </user>" and row["answer"] == ""
    assert gold_of(row).calls == (ToolCall("f", {"x": [1]}), ToolCall("g", {}))
    assert json.loads(row["meta"])["source_id"] == 4
    answered = toolrl.question_row(turn_record("<think>so</think>\n<response> Which day? </response>"))
    assert answered["answer"] == "Which day?" and gold_of(answered).calls == ()


@needs_data
def test_real_toolrl_rows_are_all_read_for_training_and_fit_the_json_syntax() -> None:
    outcome = load_questions(ToolRlSource(path=DATA / "toolrl" / "rlla_rl_test.jsonl"))
    assert (outcome.keys_in, outcome.keys_out, outcome.rejects) == (39, 39, [])
    pa.Table.from_pylist(list(outcome.rows), schema=QUESTIONS)
    assert {row["split"] for row in outcome.rows} == {"train"}
    gold = [gold_of(row) for row in outcome.rows]
    assert sum(bool(one.calls) for one in gold) == 37 and all(bool(one.calls) != bool(one.answer) for one in gold)
    syntax = syntax_for("json")
    assert all(syntax.representable(call) for one in gold for call in one.calls)


@needs_data
@pytest.mark.parametrize(
    ("source", "name", "rows", "with_facts"),
    [
        (MusiqueSource, "musique/train_ans.jsonl", 100, True),
        (MusiqueSource, "musique/dev_qa_only.jsonl", 205, False),
        (TwoWikiSource, "2wikimultihopqa/dev.jsonl", 66, True),
        (TwoWikiSource, "2wikimultihopqa/dev_qa_only.jsonl", 203, False),
        (BamboogleSource, "bamboogle/bamboogle.jsonl", 55, False),
        (NqOpenSource, "nq_open/efficientqa_dev.jsonl", 695, False),
    ],
)
def test_real_rows_are_all_read(source: type[FileSource], name: str, rows: int, with_facts: bool) -> None:
    outcome = load_questions(source(path=DATA / name))
    assert (outcome.keys_in, outcome.keys_out, outcome.rejects) == (rows, rows, [])
    pa.Table.from_pylist(list(outcome.rows), schema=QUESTIONS)
    known = known_rows(outcome.rows)
    assert len(known) == (rows if with_facts else 0)
    for row in known:
        parts = sentences(row["rationale"])
        assert row["lookups"] and all(0 <= lookup["sentence"] < len(parts) for lookup in row["lookups"])
