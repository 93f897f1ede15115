"""The question source: splits that never overlap, stable ids, every line accounted for, configurations refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from agentflow.config import identity
from agentflow.errors import ConfigError, InputError
from agentflow.schemas import QUESTIONS, check_columns
from agentflow.sources import arithmetic, encyclopedia
from agentflow.sources.file_sources import Gsm8kSource, HotpotSource, NqOpenSource
from agentflow.sources.known import known_rows
from agentflow.sources.problems import normalise_question, question_id
from agentflow.sources.sentences import sentences, split_sentences
from agentflow.sources.source import GeneratedSource, Source, load_questions

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data sets are not at {DATA}")
SMALL = GeneratedSource(
    arithmetic_train=96,
    arithmetic_templates=8,
    two_hop_train=48,
    two_hop_templates=8,
    test_arithmetic=48,
    test_two_hop=16,
    test_unseen_arithmetic=24,
    test_unseen_two_hop=8,
)


def clip_rows(n: int) -> list[dict[str, str]]:
    return [
        {
            "question": f"Mia has {i} clips and gets 3. How many?",
            "answer": f"{i}+3 = <<{i}+3={i + 3}>>{i + 3}\n#### {i + 3}",
        }
        for i in range(n)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_split(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    return {s: {row["question"] for row in rows if row["split"] == s} for s in ("train", "test", "test_unseen")}


def test_generated_rows_have_the_declared_columns_and_counts() -> None:
    outcome = load_questions(SMALL)
    table = pa.Table.from_pylist(outcome.rows, schema=QUESTIONS)
    check_columns("questions", table.schema, QUESTIONS)
    assert all(list(row) and set(row) == set(QUESTIONS.names) for row in outcome.rows)
    assert outcome.keys_in == outcome.keys_out == len({row["id"] for row in outcome.rows}) == 240
    assert Counter((row["kind"], row["split"]) for row in outcome.rows) == {
        ("arithmetic", "train"): 96, ("arithmetic", "test"): 48, ("arithmetic", "test_unseen"): 24,
        ("two_hop", "train"): 48, ("two_hop", "test"): 16, ("two_hop", "test_unseen"): 8,
    }  # fmt: skip
    assert load_questions(SMALL) == outcome
    assert all(row["id"] == question_id(row["kind"], row["question"]) for row in outcome.rows)


def test_unseen_templates_are_never_trained_on_and_no_question_is_in_two_splits() -> None:
    rows = load_questions(SMALL).rows
    templates = {s: {row["template"] for row in rows if row["split"] == s} for s in ("train", "test", "test_unseen")}
    assert templates["train"] == templates["test"] == {*arithmetic.TRAINED[:8], *encyclopedia.TRAINED[:8]}
    assert templates["train"].isdisjoint(templates["test_unseen"])
    splits = by_split(rows)
    assert splits["train"].isdisjoint(splits["test"] | splits["test_unseen"])
    assert splits["test"].isdisjoint(splits["test_unseen"])


def test_a_test_problem_is_not_in_train_under_other_names() -> None:
    rows = [row for row in load_questions(SMALL).rows if row["kind"] == "arithmetic"]
    numbers = {s: {(row["template"], row["meta"]) for row in rows if row["split"] == s} for s in ("train", "test")}
    assert numbers["train"].isdisjoint(numbers["test"])


def test_the_tests_stay_the_same_when_more_is_trained_on() -> None:
    more = SMALL.model_copy(update={"arithmetic_train": 300, "two_hop_train": 100})
    small, large = by_split(load_questions(SMALL).rows), by_split(load_questions(more).rows)
    assert small["test"] == large["test"] and small["test_unseen"] == large["test_unseen"]
    other_seed = by_split(load_questions(SMALL.model_copy(update={"seed": 1})).rows)
    assert other_seed["test"] != small["test"]


def test_every_generated_row_is_solved_by_the_solvers() -> None:
    world = encyclopedia.World(SMALL.world_seed)
    for row in load_questions(SMALL).rows:
        solution = arithmetic.solve(row["question"]) or encyclopedia.solve(row["question"], world)
        assert solution is not None and (solution.answer, solution.rationale) == (row["answer"], row["rationale"])


def test_each_line_is_a_row_or_a_reject(tmp_path: Path) -> None:
    good = clip_rows(20)
    path = write(tmp_path / "clips.jsonl", good)
    with open(path, "a") as stream:
        stream.write("{\n")  # 21
        stream.write(json.dumps({"question": "How many?"}) + "\n")  # 22
        stream.write(json.dumps({**good[0], "question": "  mia has 0 CLIPS and  gets 3. how many? "}) + "\n")  # 23
    outcome = load_questions(Gsm8kSource(path=path))
    assert (outcome.keys_in, outcome.keys_out) == (23, 20)
    assert [(reject.key, reject.status, reject.reason) for reject in outcome.rejects[:2]] == [
        ("clips.jsonl:21", "quarantined", "bad_json"),
        ("clips.jsonl:22", "quarantined", "no_answer"),
    ]
    # Which of the twins stays depends on their text and not on their lines.
    twin = outcome.rejects[2]
    assert (twin.status, twin.reason) == ("dropped", "duplicate")
    other = {"clips.jsonl:1": "clips.jsonl:23", "clips.jsonl:23": "clips.jsonl:1"}[twin.key]
    assert f"same question as {other} " in twin.detail
    assert {row["source"] for row in outcome.rows} == {"clips.jsonl"}


def test_the_split_of_a_question_depends_neither_on_order_nor_on_the_limit(tmp_path: Path) -> None:
    rows = clip_rows(300)
    forward = load_questions(Gsm8kSource(path=write(tmp_path / "a.jsonl", rows), test_fraction=0.2)).rows
    backward = load_questions(Gsm8kSource(path=write(tmp_path / "b.jsonl", rows[::-1]), test_fraction=0.2)).rows
    first = load_questions(Gsm8kSource(path=tmp_path / "a.jsonl", limit=40, test_fraction=0.2)).rows
    splits = {row["id"]: row["split"] for row in forward}
    assert {row["id"]: row["split"] for row in backward} == splits
    assert len(first) == 40 and all(splits[row["id"]] == row["split"] for row in first)
    assert 0.1 < len(by_split(forward)["test"]) / 300 < 0.3
    none = load_questions(Gsm8kSource(path=tmp_path / "a.jsonl", test_fraction=0)).rows
    assert {row["split"] for row in none} == {"train"}


@pytest.mark.parametrize("folder", ["", "same_name"])
def test_a_test_file_of_its_own_keeps_its_questions_out_of_train(tmp_path: Path, folder: str) -> None:
    rows = clip_rows(30)
    (tmp_path / "same_name").mkdir()
    train = write(tmp_path / "clips.jsonl", rows)
    test = write(tmp_path / folder / ("clips.jsonl" if folder else "held_out.jsonl"), rows[20:])
    outcome = load_questions(Gsm8kSource(path=train, test_path=test))
    splits = by_split(outcome.rows)
    assert (len(splits["train"]), len(splits["test"])) == (20, 10) and splits["train"].isdisjoint(splits["test"])
    assert (outcome.keys_in, outcome.keys_out, len(outcome.rejects)) == (40, 30, 10)
    assert len({reject.key for reject in outcome.rejects}) == 10


def test_files_without_a_usable_question_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match=r"empty\.jsonl.*it is empty"):
        load_questions(Gsm8kSource(path=empty))
    with pytest.raises(InputError, match=r"wrong\.jsonl.*bad_answer|wrong\.jsonl.*no_answer"):
        load_questions(Gsm8kSource(path=write(tmp_path / "wrong.jsonl", [{"question": "Why?", "answer": "So."}])))
    with pytest.raises(InputError, match="cannot read"):
        load_questions(HotpotSource(path=tmp_path / "missing.jsonl"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "gsm8k"}, "exactly one"),
        ({"kind": "gsm8k", "path": "a", "hub_id": "openai/gsm8k", "revision": "a" * 40}, "exactly one"),
        ({"kind": "gsm8k", "hub_id": "openai/gsm8k"}, "commit hash"),
        ({"kind": "hotpotqa", "hub_id": "hotpotqa/hotpot_qa", "revision": "main"}, "commit hash"),
        ({"kind": "gsm8k", "path": "a", "limit": 0}, "limit"),
        ({"kind": "gsm8k", "path": "a", "test_limit": 5}, "test_path"),
        ({"kind": "triviaqa", "hub_id": "mandarjoshi/trivia_qa", "revision": "0f7faf33"}, "commit hash"),
        ({"kind": "nq_open", "path": "a", "hub_test_split": "validation"}, "hub_test_split"),
        ({"kind": "mixed", "parts": []}, "parts"),
        ({"kind": "mixed", "parts": [{"kind": "generated"}]}, "parts"),
        ({"kind": "gsm8k", "path": "a", "test_fraction": 1.5}, "test_fraction"),
        ({"kind": "generated", "arithmetic_templates": 13}, "arithmetic_templates"),
        ({"kind": "generated", "arithmetic": 3}, "arithmetic"),
        ({"kind": "musiqua"}, "kind"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Source).validate_python(fields)


def test_more_questions_than_the_templates_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="two-hop template"):
        load_questions(GeneratedSource(two_hop_train=5000))


def test_a_file_counts_by_its_content_not_by_its_place(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.jsonl", clip_rows(3)), write(tmp_path / "other.jsonl", clip_rows(3))
    assert identity(Gsm8kSource(path=one)) == identity(Gsm8kSource(path=other))
    assert identity(Gsm8kSource(path=one)) != identity(Gsm8kSource(path=write(tmp_path / "x.jsonl", clip_rows(4))))


def test_known_rows_carry_the_lookups_of_generated_questions() -> None:
    rows = load_questions(SMALL).rows
    known = known_rows(rows)
    assert len(known) == len(rows) and set(known[0]) == {"question", "rationale", "answer", "lookups"}
    two_hop = [row for row, source in zip(known, rows, strict=True) if source["kind"] == "two_hop"]
    assert all([lookup["sentence"] for lookup in row["lookups"]] == [1, 3] for row in two_hop)


def test_tests_can_be_another_split_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {
        "train": [{"question": f"Which sea is number {n}?", "answer": [str(n)]} for n in range(6)],
        "validation": [{"question": f"Which sea is number {n}?", "answer": [str(n)]} for n in range(5, 8)],
    }

    def from_memory(hub_id: str, name: str | None, *, split: str, revision: str) -> datasets.Dataset:
        assert (hub_id, name, revision) == ("google-research-datasets/nq_open", None, "a" * 40)
        return datasets.Dataset.from_list(splits[split])

    monkeypatch.setattr(datasets, "load_dataset", from_memory)
    source = NqOpenSource(
        hub_id="google-research-datasets/nq_open", revision="a" * 40, hub_test_split="validation", test_limit=2
    )
    outcome = load_questions(source)
    assert Counter(row["split"] for row in outcome.rows) == {"train": 5, "test": 2}
    assert [(reject.key, reject.reason) for reject in outcome.rejects] == [
        ("google-research-datasets/nq_open:5", "leak_exact")
    ]
    assert {row["source"] for row in outcome.rows} == {f"google-research-datasets/nq_open@{'a' * 40}"}


@needs_data
def test_real_gsm8k_rows_are_all_read() -> None:
    outcome = load_questions(Gsm8kSource(path=DATA / "gsm8k/train.jsonl", test_path=DATA / "gsm8k/test.jsonl"))
    assert (outcome.keys_in, outcome.keys_out, outcome.rejects) == (2532, 2532, [])
    first = next(row for row in outcome.rows if row["question"].startswith("Natalia sold clips"))
    assert first["answer"] == "72" and first["split"] == "train" and "<<" not in first["rationale"]
    assert first["rationale"].startswith("Natalia sold 48/2 = 24 clips in May.")
    assert all("####" not in row["rationale"] and "," not in row["answer"] for row in outcome.rows)
    pa.Table.from_pylist(outcome.rows, schema=QUESTIONS)


@needs_data
@pytest.mark.parametrize("name", ["train_distractor", "dev_distractor"])
def test_real_hotpotqa_chains_have_their_lookups_in_place(name: str) -> None:
    outcome = load_questions(HotpotSource(path=DATA / f"hotpotqa/{name}.jsonl"))
    assert outcome.rejects == [] and outcome.keys_out == outcome.keys_in > 50
    for row, known in zip(outcome.rows, known_rows(outcome.rows), strict=True):
        facts: dict[str, str] = {}
        for fact in json.loads(row["meta"])["facts"]:
            facts.setdefault(fact["title"], fact["sentence"])
        parts = sentences(known["rationale"])
        assert len(parts) == len(split_sentences(row["rationale"]))
        assert {lookup["query"] for lookup in known["lookups"]} == set(facts)
        assert all(facts[look["query"]].startswith(parts[look["sentence"]]) for look in known["lookups"])


@needs_data
def test_real_questions_without_context_have_no_rationale() -> None:
    outcome = load_questions(HotpotSource(path=DATA / "hotpotqa/dev_qa_only.jsonl", limit=50))
    assert len(outcome.rows) == 50 and known_rows(outcome.rows) == []


def test_equal_questions_are_equal_after_normalisation() -> None:
    assert normalise_question("  Ｈow\u00a0many\tCLIPS? ") == normalise_question("how many clips?")
