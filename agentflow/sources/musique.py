"""MuSiQue records to question rows; every hop of the decomposition gives one fact of the rationale.

In: {"id", "question", "answer", "answer_aliases", "answerable", "paragraphs": [{"idx", "title", "paragraph_text",
"is_supporting"}], "question_decomposition": [{"question", "answer", "paragraph_support_idx"}]} (the authors' JSONL), or
{"Question", "answer": [...]}. Out: QUESTIONS columns (without split and source). MuSiQue marks paragraphs and not
sentences: the fact of a hop is, of the sentences of its paragraph that name the hop's answer, the one that shares most
words with the hop's question; of a paragraph that does not name it, the first (ours).
"""

from __future__ import annotations

from typing import Any

from agentflow.hygiene.text import words
from agentflow.sources.facts import Fact, chain, collected, one_line
from agentflow.sources.fields import BadRow, Record, first_named, gold_answers, text_field, text_row
from agentflow.sources.sentences import sentences

KIND = "musique"


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; `meta` holds `hops` [question and answer of each], `facts` (title
    and sentence, in the order of the hops) and `missing_facts` (hops without a paragraph).

    Raises BadRow "unanswerable" (MuSiQue-Full's contrast rows), "no_question", "no_answer", "bad_answer",
    "bad_context" (other shape than published), "bad_meta" or "bad_text".
    """
    question = text_field(record, first_named(record, ("question", "Question")), "no_question")
    if record.get("answerable") is False:
        raise BadRow("unanswerable", "answerable is false: the paragraphs do not hold the answer")
    answers = gold_answers(record)
    facts, hops, missing = _facts(record)
    meta = {"source_id": record.get("id"), "facts": facts, "missing_facts": missing, "hops": hops}
    return text_row(KIND, question, answers, chain(facts), meta)


def _facts(record: Record) -> tuple[list[Fact], list[dict[str, str]], int]:
    try:
        paragraphs = {item["idx"]: item for item in record.get("paragraphs") or ()}
        steps = list(record.get("question_decomposition") or ())
        hops = [{"question": step["question"].strip(), "answer": step["answer"].strip()} for step in steps]
        facts, missing = collected(_fact(paragraphs, step) for step in steps if paragraphs)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise BadRow(
            "bad_context",
            f"{type(error).__name__}: {error}; paragraphs are [{{idx, title, paragraph_text}}, ...], "
            "question_decomposition [{question, answer, paragraph_support_idx}, ...]",
        ) from error
    return facts, hops, missing


def _fact(paragraphs: dict[Any, dict[str, Any]], step: dict[str, Any]) -> Fact | None:
    """The sentence that gives the answer of a hop; None for a hop whose paragraph is not there or has no text."""
    paragraph = paragraphs.get(step.get("paragraph_support_idx"))
    found = [one_line(sentence) for sentence in sentences(paragraph["paragraph_text"])] if paragraph else []
    if not paragraph or not found:
        return None
    answer, asked = step["answer"].strip().casefold(), set(words(step["question"]))
    naming = [sentence for sentence in found if answer in sentence.casefold()]
    best = max(naming, key=lambda sentence: len(asked & set(words(sentence)))) if naming else found[0]
    return Fact(title=one_line(paragraph["title"]), sentence=best)
