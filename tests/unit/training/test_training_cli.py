"""`agentflow show-tokens` and `agentflow review` on artifacts as a run leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pipeline_rows import filtered_rows

from agentflow.artifacts.store import Store
from agentflow.models.loading import convert
from agentflow.models.sources import TinyModel
from agentflow.records import Outcomes
from agentflow.schemas import FILTERED
from flows.cli import main
from flows.plan import plan
from flows.recipes import load_recipe

ROWS = filtered_rows(6)
LOOSE = ("--set", "cold_start.min_words=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A base model and filtered traces of the smoke recipe."""
    folder = tmp_path_factory.mktemp("root")
    store, nodes = Store.open(folder / "artifacts"), plan(load_recipe("smoke"))
    store.commit_files(nodes["base_model"].identity, lambda path: convert(TinyModel(), path) and None, recipe="smoke")
    outcomes = Outcomes(ROWS, [], len(ROWS), len(ROWS))
    store.commit_table(nodes["loss_filter"].identity, outcomes, FILTERED, recipe="smoke")
    return folder


def agentflow(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_show_tokens_prints_every_token_and_says_what_is_trained_on(root):
    result = agentflow("show-tokens", ROWS[0]["id"], "--root", root)
    assert result.exit_code == 0, result.output
    assert "prompt" in result.output and "result" in result.output and "trained on (underlined)" in result.output
    text = result.output.replace("\n", "").replace("│", "")
    assert "<|im_end|>" in text and "Calculator(" in text


def test_show_tokens_of_an_unknown_row_says_which_there_are(root):
    result = agentflow("show-tokens", "nobody", "--root", root)
    assert result.exit_code == 2 and "'nobody'" in result.output and ROWS[0]["id"].split("#")[0][:6] in result.output


def test_review_writes_the_cold_starts_samples_once(root, tmp_path):
    file = tmp_path / "review.jsonl"
    result = agentflow("review", "smoke", file, *LOOSE, "--root", root)
    assert result.exit_code == 0, result.output
    assert f"--set cold_start.review={file}" in result.output.replace("\n", "")
    assert {json.loads(line)["id"] for line in file.read_text().splitlines()} <= {row["id"] for row in ROWS}
    again = agentflow("review", "smoke", file, *LOOSE, "--root", root)
    assert again.exit_code == 2 and "is there already" in again.output


def test_review_before_the_traces_are_made_says_so(tmp_path):
    result = agentflow("review", "smoke", tmp_path / "r.jsonl", "--root", tmp_path)
    assert result.exit_code == 2 and "has no filtered traces" in result.output
