"""A store in a temporary folder and rows of the `questions` table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.records import Outcomes, Reject
from agentflow.schemas import QUESTIONS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def question() -> Callable[..., dict[str, Any]]:
    """`question("q1", answer="3")`: a whole row of the questions table."""

    def make(row_id: str, **changed: Any) -> dict[str, Any]:
        row = {
            "id": row_id, "question": f"What is {row_id}?", "answer": "72", "aliases": ["72.0"],
            "answer_type": "number", "kind": "arithmetic", "split": "train", "template": "clips",
            "rationale": "", "source": "generated",
            "meta": "{}",
        }  # fmt: skip
        return {**row, **changed}

    return make


@pytest.fixture
def commit(store: Store, question: Callable[..., dict[str, Any]]) -> Callable[..., Artifact]:
    """`commit(3, seed=7)`: an artifact of three questions (or of `rows=`) made with the configuration {"seed": 7}."""

    def make(n: int = 3, *, rows: list[dict[str, Any]] | None = None, rejects: list[Reject] | None = None,
             recipe: str = "smoke", **config: Any) -> Artifact:  # fmt: skip
        chosen = [question(f"q{i}") for i in range(n)] if rows is None else rows
        outcomes = Outcomes(chosen, rejects or [], len(chosen) + len(rejects or []), len(chosen))
        return store.commit_table(Identity("questions", 1, config, {}), outcomes, QUESTIONS, recipe=recipe)

    return make
