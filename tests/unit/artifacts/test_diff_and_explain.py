"""Two artifacts side by side, and one row through all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.diff import RowChange, diff
from agentflow.artifacts.explain import explain
from agentflow.artifacts.fingerprint import Change, Identity
from agentflow.artifacts.store import Store
from agentflow.records import Outcomes, Reject
from agentflow.schemas import TRACES

Commit = Callable[..., Artifact]
Question = Callable[..., dict[str, Any]]


def trace(trace_id: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TRACES.names, "x")
    return {**row, "id": trace_id, "question_id": trace_id.split("#")[0], "aliases": []}


def test_a_diff_names_changed_fields_counts_rows_and_columns(commit: Commit, question: Question) -> None:
    rows = [question(f"q{i}") for i in range(5)]
    a = commit(rows=rows[:4], rejects=[Reject("z", "dropped", "wrong_answer")], seed=1)
    b = commit(rows=[question("q1", answer="73", kind="two_hop"), *rows[2:]], seed=2)
    found = diff(a, b)
    assert found.identity == [Change("config.seed", 1, 2)]
    assert ("dropped: wrong_answer", 1, 0) in found.counts
    assert (found.only_a, found.only_b) == (["q0"], ["q4"])
    change = RowChange(
        "q1", ("answer", "kind"), {"answer": "72", "kind": "arithmetic"}, {"answer": "73", "kind": "two_hop"}
    )
    assert found.changed == [change]
    assert found.changed_columns == {"answer": 1, "kind": 1}
    text = "\n".join(found.lines())
    for part in ("config.seed: 1 -> 2", "- q0", "+ q4", 'answer: "72" -> "73"', "content differs"):
        assert part in text


def test_a_diff_of_the_same_content_says_so(commit: Commit) -> None:
    found = diff(commit(4, seed=1), commit(4, seed=2))
    assert found.same_content
    assert (found.n_only_a, found.n_only_b, found.n_changed) == (0, 0, 0)
    assert "same content" in found.lines()


def test_a_diff_counts_all_and_shows_the_first_few(commit: Commit, question: Question) -> None:
    a = commit(rows=[question(f"a{i:04}") for i in range(1500)], seed=1)
    b = commit(rows=[question(f"b{i:04}") for i in range(1200)], seed=2)
    found = diff(a, b, n=2)
    assert (found.n_only_a, found.n_only_b, found.n_changed) == (1500, 1200, 0)
    assert (found.only_a, found.only_b) == (["a0000", "a0001"], ["b0000", "b0001"])


def test_checkpoints_are_compared_file_by_file(store: Store) -> None:
    def made(seed: int, **contents: str) -> Artifact:
        def write(folder: Path) -> None:
            for name, content in contents.items():
                (folder / name).write_text(content)

        return store.commit_files(Identity("sft", 1, {"seed": seed}, {}), write, recipe="smoke")

    found = diff(made(1, weights="aa", config="{}", old="x"), made(2, weights="ab", config="{}", new="x"))
    assert (found.only_a, found.only_b) == (["old"], ["new"])
    assert [(change.id, change.columns) for change in found.changed] == [("weights", ("sha256",))]
    assert not found.same_content


@pytest.fixture
def followed(store: Store, commit: Commit, question: Question) -> Store:
    """Questions q1, q10, q2; of q1 two traces, of q2 none but a reject."""
    commit(rows=[question("q1"), question("q10"), question("q2")], seed=1)
    rows = [trace("q1#0"), trace("q1#1"), trace("q10#0")]
    rejects = [Reject("q2", "dropped", "wrong_answer", "71 is not 72", {"predicted": "71"})]
    outcomes = Outcomes(rows, rejects, keys_in=3, keys_out=2)
    store.commit_table(Identity("traces", 1, {}, {}), outcomes, TRACES, recipe="smoke")
    store.commit_files(Identity("sft", 1, {}, {}), lambda folder: (folder / "w").touch(), recipe="smoke")
    return store


@pytest.mark.parametrize(
    "row_id, expected",
    [
        ("q1", [("questions", "row", "q1"), ("traces", "row", "q1#0"), ("traces", "row", "q1#1")]),
        ("q1#1", [("questions", "row", "q1"), ("traces", "row", "q1#1")]),
        ("q2", [("questions", "row", "q2"), ("traces", "reject", "q2")]),
        ("q2#0", [("questions", "row", "q2"), ("traces", "reject", "q2")]),
        ("q3", []),
        ("\ud800", []),
    ],
)
def test_a_row_is_found_in_every_stage_that_saw_it(
    followed: Store, row_id: str, expected: list[tuple[str, str, str]]
) -> None:
    found = explain(followed, row_id)
    assert [(one.stage, one.kind, one.row.get("id") or one.row["key"]) for one in found] == expected


def test_a_reject_is_explained_with_its_reason_and_row(followed: Store) -> None:
    reject = explain(followed, "q2")[1].row
    assert (reject["reason"], reject["detail"], reject["row"]) == ("wrong_answer", "71 is not 72", {"predicted": "71"})


def test_a_damaged_artifact_does_not_hide_the_others(followed: Store, caplog: pytest.LogCaptureFixture) -> None:
    damaged = followed.latest("questions")
    assert damaged is not None
    (damaged.path / "state.json").write_text("{}")
    assert [one.stage for one in explain(followed, "q1#0")] == ["traces"]
    assert "left out" in caplog.text


def test_what_a_training_left_out_and_its_rollouts_are_found(store: Store) -> None:
    def trained(folder: Path) -> None:
        rejects = [{"key": f"q{i}#0", "reason": "too_long", "detail": "700 tokens, at most 512"} for i in range(2)]
        (folder / "summary.json").write_text(json.dumps({"rejects": rejects}))
        rows = {"id": ["0-q1-0", "0-q2-0"], "question_id": ["q1", "q2"], "completion": ["a", "b"]}
        Dataset.from_dict(rows).save_to_disk(str(folder / "rollouts"))

    store.commit_files(Identity("grpo", 1, {}, {}), trained, recipe="night")
    row, reject = explain(store, "q1#0")
    assert (row.stage, row.kind, row.row["id"]) == ("grpo", "row", "0-q1-0")
    assert (reject.kind, reject.row["key"], reject.row["reason"]) == ("reject", "q1#0", "too_long")
    assert explain(store, "q3") == []
