"""The questions stage: every line accounted for, leaks and duplicates named, generated questions left alone."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentflow.artifacts.fingerprint import identity_of
from agentflow.artifacts.store import Store
from agentflow.config import identity
from agentflow.errors import InputError
from agentflow.hygiene.config import HygieneConfig
from agentflow.records import Outcomes
from agentflow.schemas import QUESTIONS, STAGES
from agentflow.sources.file_sources import Gsm8kSource, NqOpenSource
from agentflow.sources.source import MixedSource, load_questions
from agentflow.stages.questions import QuestionsConfig, cleaned_questions, questions
from flows.recipes import demo, smoke

TEST = "Mia has {} clips and buys {} boxes of {} more clips at the shop for {} coins. How many clips has she in all?"
TRAIN = [
    "Sell the old boat for {} coins, then paint {} fences at {} coins each; what is in the purse of the painter?",
    "Of {} geese by the pond {} fly away before noon and {} come back in the evening. How many geese are there now?",
    "A library lends {} books on Monday, {} on Tuesday and takes {} back. How many of its books are out?",
]


def row(question: str, answer: int = 7) -> dict[str, str]:
    return {"question": question, "answer": f"So it is {answer}.\n#### {answer}"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def planted() -> list[dict[str, str]]:
    """Training rows: three clean ones, one of every class, and a bad one."""
    return [
        *(row(text.format(12, 5, 30)) for text in TRAIN),
        row(TEST.format(48, 3, 12, 5).lower()),  # leak_exact, by its normal form
        row(TEST.format(48, 3, 12, 5).replace("?", "")),  # leak_exact, by its words
        row("Read: buys 3 boxes of 12 more clips at the shop for 5 coins. What did she say?"),  # leak_ngram
        row(TEST.format(20, "nine", "1,000", 2)),  # leak_number_swap
        row(TEST.format(48, 3, 12, 5).replace(" at ", " in ")),  # leak_near
        row(TRAIN[0].format(12, 5, 30), 9),  # duplicate with another answer
        row(f"Please: {TRAIN[1].format(12, 5, 30)}"),  # near_duplicate
        row(""),
    ]


def source(folder: Path, rows: list[dict[str, str]] | None = None) -> Gsm8kSource:
    folder.mkdir(exist_ok=True)
    test = write(folder / "test.jsonl", [row(TEST.format(48, 3, 12, 5))])
    return Gsm8kSource(path=write(folder / "train.jsonl", rows or planted()), test_path=test)


def ends(outcomes: Outcomes) -> Counter[str]:
    return Counter(reject.reason for reject in outcomes.rejects)


def test_every_line_ends_once_and_every_drop_names_its_twin(tmp_path: Path) -> None:
    config = QuestionsConfig(source=source(tmp_path))
    cleaned = cleaned_questions(config)
    found = ends(cleaned.outcomes)
    assert found == {
        "leak_exact": 2, "leak_ngram": 1, "leak_number_swap": 1, "leak_near": 1, "duplicate": 1, "near_duplicate": 1,
        "no_question": 1,
    }  # fmt: skip
    assert cleaned.outcomes.keys_in == 12 == len(cleaned.outcomes.rows) + len(cleaned.outcomes.rejects)
    assert cleaned.facts == {
        "checked": 8, "evaluation": 1, "against": {},
        "dropped": {"leak_exact": 2, "leak_ngram": 1, "leak_number_swap": 1, "leak_near": 1, "duplicate": 1,
                    "near_duplicate": 1},
    }  # fmt: skip
    test_id = next(one["id"] for one in cleaned.outcomes.rows if one["split"] == "test")
    for reject in cleaned.outcomes.rejects:
        if reject.reason.startswith("leak"):
            assert test_id in reject.detail and "test" in reject.detail and reject.row["question"]
        if reject.reason == "duplicate":
            assert "which has the answer" in reject.detail
    # The store takes it: counts add up, ids are unique, columns are the declared ones.
    artifact = Store.open(tmp_path / "store").commit_table(
        identity_of(STAGES["questions"], config, {}), cleaned.outcomes, QUESTIONS, recipe="test"
    )
    assert artifact.manifest.counts is not None and artifact.manifest.counts.dropped == cleaned.facts["dropped"]
    assert artifact.manifest.rows == 4 and len(artifact.rejects()) == 8


def test_the_same_questions_stay_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    expected = None
    for seed in range(4):
        rows = planted()
        random.Random(seed).shuffle(rows)
        outcomes = questions(QuestionsConfig(source=source(tmp_path / str(seed), rows)))
        staying = sorted(json.dumps(one, sort_keys=True) for one in outcomes.rows)
        assert expected in (None, (staying, ends(outcomes)))
        expected = (staying, ends(outcomes))


def test_evaluation_sets_that_are_only_read_count_against_training(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [{"question": TRAIN[2].format(4, 4, 4), "answer": ["8"]}])
    against = HygieneConfig(against=(NqOpenSource(path=other),))
    plain = cleaned_questions(QuestionsConfig(source=source(tmp_path)))
    checked = cleaned_questions(QuestionsConfig(source=source(tmp_path), hygiene=against))
    assert len(checked.outcomes.rows) == len(plain.outcomes.rows) - 1
    assert checked.facts["against"] == {"other.jsonl": 1} and checked.facts["evaluation"] == 2
    assert checked.facts["dropped"]["leak_number_swap"] == 2
    assert any("(other.jsonl, against)" in reject.detail for reject in checked.outcomes.rejects)
    assert checked.outcomes.keys_in == plain.outcomes.keys_in
    # Its content enters the identity, its place does not.
    moved = HygieneConfig(against=(NqOpenSource(path=write(tmp_path / "x.jsonl", [json.loads(other.read_text())])),))
    assert identity(moved) == identity(against) != identity(HygieneConfig())


def test_each_rule_can_be_switched_off(tmp_path: Path) -> None:
    off = QuestionsConfig(source=source(tmp_path), hygiene=HygieneConfig(on=False))
    cleaned = cleaned_questions(off)
    assert ends(cleaned.outcomes) == {"leak_exact": 1, "duplicate": 1, "no_question": 1} and cleaned.facts == {}
    for field in ("ngram", "near_duplicate"):
        config = off.model_copy(update={"hygiene": HygieneConfig(**{field: None})})
        assert ends(questions(config))[{"ngram": "leak_ngram", "near_duplicate": "near_duplicate"}[field]] == 0
    swap = off.model_copy(update={"hygiene": HygieneConfig(number_swap=False, near_duplicate=None)})
    assert ends(questions(swap))["leak_number_swap"] == 0


def test_generated_questions_are_left_as_they_are() -> None:
    for recipe in (demo(), smoke()):
        assert questions(recipe.questions) == load_questions(recipe.questions.source)


def test_several_sets_are_one_source_and_share_nothing(tmp_path: Path) -> None:
    first, second = source(tmp_path / "a"), source(tmp_path / "b")
    mixed = questions(QuestionsConfig(source=MixedSource(parts=(first, second))))
    alone = questions(QuestionsConfig(source=first))
    assert [one["question"] for one in mixed.rows] == [one["question"] for one in alone.rows]
    keys = [reject.key for reject in mixed.rejects]
    assert mixed.keys_in == 24 == len(mixed.rows) + len(set(keys)) and len(keys) == len(set(keys))
    assert {key.split(":")[1] for key in keys} == {"1", "2"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ngram": 3}, "ngram"),
        ({"near_duplicate": 0.2}, "near_duplicate"),
        ({"against": [{"kind": "generated"}]}, "against"),
        ({"against": [{"kind": "gsm8k", "hub_id": "openai/gsm8k", "revision": "main"}]}, "commit hash"),
        ({"ngrams": 13}, "ngrams"),
    ],
)
def test_a_wrong_option_is_refused_with_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HygieneConfig.model_validate(fields)


def test_a_missing_evaluation_set_stops_the_stage(tmp_path: Path) -> None:
    against = HygieneConfig(against=(NqOpenSource(path=tmp_path / "nowhere.jsonl"),))
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        questions(QuestionsConfig(source=source(tmp_path), hygiene=against))
