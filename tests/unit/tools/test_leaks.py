"""Search results that give away the answers of public data sets are kept out, wherever they are."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.tools.leaks import DATASET_MIRRORS, Subject, is_blocked

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
NATALIA = Subject(
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May?",
    ("72",),
)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/openai/gsm8k/viewer",
        "HTTPS://HuggingFace.CO./datasets/x",
        "https://datasets-server.huggingface.co/rows?dataset=hotpot_qa",
        "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
        "https://cdn.jsdelivr.net/gh/openai/grade-school-math@3101c7d/grade_school_math/data/test.jsonl",
        "https://cdn.jsdelivr.net//GH/openai/x",
        "https://www.kaggle.com/datasets/thedevastator/grade-school-math-8k-q-a",
        "https://paperswithcode.com/dataset/gsm8k",
        "https://web.archive.org/web/2023/https://huggingface.co/datasets/gsm8k",
        "https://webcache.example.com/search?q=https%3A%2F%2Fkaggle.com%2Fx",
        "https://huggingface-co.translate.goog/datasets/gsm8k?_x_tr_sl=en",
        "https://hf--mirror-com.translate.goog/datasets/gsm8k",
        "https://user:pass@kaggle.com:443/",
        "https://web.archive.org/web/2020/huggingface.co/datasets/gsm8k",
        "https://web.archive.org/web/2020id_/www.kaggle.com:80//datasets/x",
        "https://cache.example.com/search?q=huggingface.co%2Fdatasets%2Fgsm8k",
        "https://cache.example.com/search?q=cache:ab12:huggingface.co/datasets/gsm8k&hl=en",
        "https://proxy.example.com/huggingface-co.translate.goog/datasets/gsm8k",
        "https://somebody-gsm8k-viewer.hf.space/",
        "https://zenodo.org/record/17",
        "https://zenodo.org/records/17/files/train.jsonl",
        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_train_v1.1.json",
        "http://nlp.cs.washington.edu/triviaqa/data/triviaqa-rc.tar.gz",
        "https://kaggle。com/x",
        "http://[bad",
    ],
)
def test_places_with_data_sets_are_blocked_however_they_are_written(url: str) -> None:
    assert is_blocked(url, DATASET_MIRRORS)


@pytest.mark.parametrize(
    "url",
    [
        "https://en.wikipedia.org/wiki/Kaggle", "https://example.org/kaggle.com", "https://notkaggle.com/",
        "https://example.org/?ref=github.com&x=/1", "https://example.org/a?mail=me@github.com/x",
        "https://example.org/mykaggle.com/x", "https://nlp.cs.washington.edu/people", "https://github.company.org/x",
        "https://cdn.jsdelivr.net/npm/katex", "https://cdn.jsdelivr.net/ghost", "local://passages/1", "",
    ],
)  # fmt: skip
def test_other_places_are_not(url: str) -> None:
    assert not is_blocked(url, DATASET_MIRRORS)


def test_the_list_is_the_users() -> None:
    assert is_blocked("https://a.example.org/data/x", ["example.org/data"])
    assert not is_blocked("https://example.org/other", ["example.org/data"])
    assert not is_blocked("https://kaggle.com/x", [])


@pytest.mark.parametrize("part", ["a.", "a-", "/a.bc", "/a.bc/", "https://a.bc/", "=a.bc/x"])
def test_a_long_address_is_read_in_one_pass(part: str) -> None:
    assert not is_blocked(f"https://example.org/{part * 20_000}", DATASET_MIRRORS)


@given(st.text(max_size=80))
def test_any_address_is_judged(url: str) -> None:
    assert is_blocked(url, DATASET_MIRRORS) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        f"Question: {NATALIA.question} Answer: 72",
        f"q17 | {NATALIA.question.upper()} | #### 72.",
        NATALIA.question.replace("her friends", "her best friends").replace("?", "") + " 48+24 = 72 clips",
    ],
)
def test_a_result_with_question_and_answer_gives_it_away(text: str) -> None:
    assert NATALIA.given_away_by(text)


@pytest.mark.parametrize(
    "text",
    [
        NATALIA.question,
        "The answer is 72.",
        f"{NATALIA.question} The answer is 172, or 72000.",
        "Clips were sold in April and in May: 48 and 24, which makes 72 altogether.",
        "",
    ],
)
def test_a_result_with_one_of_them_does_not(text: str) -> None:
    assert not NATALIA.given_away_by(text)


def test_every_answer_that_counts_as_right_counts() -> None:
    subject = Subject("Who wrote the opera that opened in Dresden?", ("Richard Strauss", "Strauss"))
    assert subject.given_away_by("Who wrote the opera that opened in Dresden? STRAUSS!")
    assert not Subject("", ("x",)).given_away_by("x") and not Subject("Who?", ()).given_away_by("Who?")
    assert Subject("Who?", ("Ada",)).given_away_by("who ada")


def csv_line(question: str, answer: str) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(["5a8b57f2", question, answer, "bridge"])
    return line.getvalue()


WRITTEN = {
    "sentence": lambda question, answer: f"{question} {answer}",
    "csv": csv_line,
    "tsv": lambda question, answer: f"{question}\t{answer}\t17",
    "json": lambda question, answer: json.dumps({"id": 5, "question": question, "answer": answer}),
    "compact json": lambda question, answer: json.dumps([question, answer], separators=(",", ":")),
    "html": lambda question, answer: f"<tr><td>{html.escape(question)}</td><td>{html.escape(answer)}</td></tr>",
    "tight table": lambda question, answer: f"|{question}|{answer}|",
    "invisible": lambda question, answer: "\u200b".join(f"{question} {answer}") + "\u00ad",
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize(
    "question, answer",
    [
        ("Who directed the 1986 film shot in Leland, North Carolina?", "Stephen King"),
        ('Who wrote the song "Café\u2019s End" for the U.S. market?', "José O'Neill & Sons"),
        (NATALIA.question, "72"),
        ("How many people lived in Leland at the 2010 census?", "13,527"),
    ],
)
def test_a_row_of_a_data_set_gives_itself_away_in_any_file_format(form: str, question: str, answer: str) -> None:
    subject = Subject(question, (answer,))
    assert subject.given_away_by(WRITTEN[form](question, answer))
    assert not subject.given_away_by(WRITTEN[form](question, "Somebody Else"))
    assert not subject.given_away_by(WRITTEN[form]("Who else was there, and when did the others come?", answer))


def test_a_number_is_the_same_with_and_without_separators() -> None:
    subject = Subject("How many people lived in the town of Leland in 2010?", ("13527",))
    assert subject.given_away_by("How many people lived in the town of Leland in 2010? 13,527.")


def test_a_megabyte_is_read_in_one_pass() -> None:
    assert not NATALIA.given_away_by("Natalia sold clips " * 60_000)
    assert NATALIA.given_away_by("word " * 200_000 + NATALIA.question + " 72")


@pytest.mark.parametrize("form", WRITTEN)
def test_every_real_row_is_found_in_any_file_format(form: str) -> None:
    path = DATA / "hotpotqa" / "dev_qa_only.jsonl"
    if not path.exists():
        pytest.skip(f"real questions are not here: {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    missed = [
        row
        for row in rows
        if not Subject(row["question"], (row["answer"],)).given_away_by(WRITTEN[form](row["question"], row["answer"]))
    ]
    assert len(rows) == 1000 and missed == []


def test_passages_that_answer_real_questions_do_not_count_as_leaks() -> None:
    questions, corpus = DATA / "hotpotqa" / "train_distractor.jsonl", DATA / "search_corpus" / "hotpotqa.jsonl"
    if not corpus.exists():
        pytest.skip(f"real questions are not here: {corpus}")
    for line in questions.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        subject = Subject(record["question"], (record["answer"],))
        for _, sentences in record["context"]:
            assert not subject.given_away_by(" ".join(sentences))
            assert subject.given_away_by(f"{' '.join(sentences)} {record['question']} {record['answer']}")
