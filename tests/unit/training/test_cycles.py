"""GRPO and fine-tuning in turns: what is fine-tuned on, that it changes the policy, and that a stopped one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from pipeline_rows import filtered_rows, question_rows, save
from policy_jobs import asked_for, policy_job, rollouts_of
from pydantic import ValidationError
from safetensors.torch import load_file
from stopping import StopAt, Stopped

from agentflow.records import Segment
from agentflow.rendering import completion_spans
from agentflow.schemas import FILTERED, check_columns
from agentflow.toolset import syntax_for
from agentflow.training.config import OptimiserSettings, SupervisedSettings
from agentflow.training.cycles import phases, train_in_cycles
from agentflow.training.jobs import SUMMARY, PolicyJob, TrainingSummary
from agentflow.training.policy_options import CycleSettings
from agentflow.training.solved import solution_row, unsolved_rows, verified_rows
from flows.plan import plan
from flows.recipes import smoke

SYNTAX = syntax_for("compact")
QUESTION = next(row for row in question_rows(1) if row["split"] == "train")
SFT = SupervisedSettings(optimiser=OptimiserSettings(batch_size=2, accumulation=1, learning_rate=5e-3), max_steps=2)


def rollout(completion: str, answer: str | None = None, **changes: Any) -> dict[str, Any]:
    row = {"id": "00000-000-000", "question_id": QUESTION["id"], "completion": completion, "status": "ok", "given": 0}
    return {**row, "answer": QUESTION["answer"] if answer is None else answer, **changes}


def solution(think: str) -> str:
    return f"<think>{think}</think><answer>{QUESTION['answer']}</answer>"


# ---------------------------------------------------------------- rows
@pytest.mark.parametrize("name", ["compact", "json"])
def test_a_rollout_becomes_a_row_that_renders_to_the_same_text(name):
    syntax = syntax_for(name)
    row = filtered_rows(1)[0]
    text = "".join(span.text for span in completion_spans(map(Segment.from_row, row["segments"]), "7", syntax))
    made = solution_row(rollout(text, "7"), QUESTION, syntax)
    assert made is not None and made["n_calls"] == row["n_calls"] > 0
    assert (made["reasoning"], made["answer"], made["decision"]) == (row["reasoning"], "7", "kept")
    spans = completion_spans([Segment.from_row(segment) for segment in made["segments"]], made["answer"], syntax)
    assert "".join(span.text for span in spans) == text
    assert set(made) == set(FILTERED.names)


@pytest.mark.parametrize(
    "completion",
    ["no tags", "<think>a</think>\n<answer>7</answer>", "<think>a[Calculator(1+1) -> 2]</think><answer>7</answer>",
     "<think>a [Calculator(1+1) -></think><answer>7</answer>", "<think>a</think><answer> 7</answer>"],
)  # fmt: skip
def test_a_text_that_no_row_renders_to_is_left_out(completion):
    assert solution_row(rollout(completion, "7"), QUESTION, SYNTAX) is None


def test_the_shortest_different_right_rollouts_are_taken():
    rows = [
        rollout(solution("one two three"), id="00000-000-000"),
        rollout(solution("one two"), id="00000-000-001"),
        rollout(solution("one two"), id="00000-000-002"),
        rollout(solution("one"), id="00000-000-003", status="failed"),
        rollout(solution("so"), "wrong", id="00000-000-004"),
        rollout(solution("given"), id="00000-000-005", given=12),
    ]
    by_id = {QUESTION["id"]: QUESTION}
    assert [row["id"] for row in verified_rows(rows, by_id, SYNTAX, 1)] == ["00000-000-001"]
    assert [row["id"] for row in verified_rows(rows, by_id, SYNTAX, 9)] == ["00000-000-001", "00000-000-000"]


def test_unsolved_are_the_questions_that_were_tried_and_never_solved():
    traces = [{"question_id": name, "id": f"{name}#0"} for name in ("solved", "never", "failed", "untried")]
    questions = {name: {**QUESTION, "id": name} for name in ("solved", "never", "failed", "untried")}
    rows = [
        rollout("", "wrong", question_id="solved"),
        rollout("", question_id="solved"),
        rollout("", "wrong", question_id="never"),
        rollout("", "wrong", question_id="failed", status="failed"),
    ]
    assert [row["id"] for row in unsolved_rows(rows, questions, traces)] == ["never#0"]


# ---------------------------------------------------------------- phases
@pytest.fixture(scope="module")
def right(taught, tmp_path_factory) -> Path:
    """A model whose usual answer is right."""
    return asked_for(taught, tmp_path_factory.mktemp("right"), "2")


def test_steps_and_questions_are_shared_out_over_the_phases(right, tmp_path):
    job = policy_job(right, tmp_path, steps=5, cycles=CycleSettings(n=2))
    parts = phases(job)
    assert [part.config.steps for part in parts] == [2, 2, 1]
    assert sum((part.question_ids for part in parts), ()) == job.question_ids
    assert [part.config.optimiser.seed for part in parts] == [0, 1, 2], "else every phase would sample the same"
    assert len({part.out for part in parts}) == 3 and all(part.config.cycles.n == 0 for part in parts)


def test_cycles_that_cannot_be_are_refused(right, tmp_path):
    with pytest.raises(ValidationError, match=r"cycles.n 2 makes 3 phases of 2 steps; raise steps or lower"):
        policy_job(right, tmp_path, cycles=CycleSettings(n=2))
    with pytest.raises(ValidationError, match="cycles.n 1 with own and unsolved both false has nothing to train on"):
        CycleSettings(n=1, own=False)


def cycles_job(taught: Path, out: Path, **cycles: Any) -> PolicyJob:
    settings = CycleSettings(n=1, settings=SFT, **cycles)
    return policy_job(taught, out, steps=4, checkpoint_steps=1, cycles=settings)


def losses(summary: TrainingSummary) -> list[float]:
    return [entry["loss"] for entry in summary.log if "loss" in entry]


def test_a_policy_is_fine_tuned_on_its_own_solutions_and_a_stopped_one_goes_on(right, tmp_path):
    whole_job, job = cycles_job(right, tmp_path / "whole"), cycles_job(right, tmp_path / "stopped")
    whole = train_in_cycles(whole_job)
    assert (whole.steps, len(losses(whole))) == (4, 4)
    assert [entry["step"] for entry in whole.log if "loss" in entry] == [1, 2, 3, 4]
    (fine_tuning,) = whole.extra["fine_tunings"]
    assert fine_tuning["own"] > 0 and (fine_tuning["unsolved"], fine_tuning["steps"]) == (0, 2)
    rows = rollouts_of(whole_job)
    assert {row["step"] for row in rows} == {0, 1, 2, 3} and len({row["id"] for row in rows}) == len(rows)
    trained_on = load_from_disk(str(whole_job.out / "trainer" / "sft-0" / "trainer" / "rows"))
    check_columns("sft", trained_on.features.arrow_schema, FILTERED)
    assert {row["answer"] for row in trained_on.to_list()} == {"2"}

    before, after, published = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (whole_job.out / "trainer" / "grpo-0", whole_job.out / "trainer" / "sft-0", whole_job.out)
    )
    assert any((before[name] != after[name]).any() for name in before)
    assert any((published[name] != after[name]).any() for name in after)
    assert TrainingSummary.model_validate_json((whole_job.out / SUMMARY).read_text()) == whole

    with pytest.raises(Stopped):  # in the first phase's second step
        train_in_cycles(job, [StopAt(1)])
    first = job.out / "trainer" / "grpo-1"
    with pytest.raises(Stopped):  # nothing begins before step 1 any more but the fine-tuning
        train_in_cycles(job, [StopAt(0)])
    assert not first.exists() and (job.out / "trainer" / "grpo-0" / "adapter").exists()
    resumed = train_in_cycles(job)
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    assert rollouts_of(job) == rows
    assert resumed.extra == {**whole.extra, "adapter_after": resumed.extra["adapter_after"]}


@pytest.fixture(scope="module")
def unsolvable(taught, tmp_path_factory) -> Path:
    """A model that is asked for what it never says."""
    return asked_for(taught, tmp_path_factory.mktemp("unsolvable"), "never said")


def test_unsolved_questions_are_fine_tuned_on_the_filters_traces(unsolvable, tmp_path):
    asked = [row["id"] for row in question_rows(4) if row["split"] == "train"]
    traces = [{**row, "question_id": asked[i]} for i, row in enumerate(filtered_rows(4))]
    job = cycles_job(unsolvable, tmp_path / "out", own=False, unsolved=True)
    job = job.model_copy(update={"traces": save(traces, tmp_path / "traces")})
    (fine_tuning,) = train_in_cycles(job).extra["fine_tunings"]
    tried = {row["question_id"] for row in rollouts_of(job) if row["step"] < 2}
    assert (fine_tuning["own"], fine_tuning["unsolved"], fine_tuning["steps"]) == (0, len(tried), 2)


def test_a_phase_without_solutions_is_followed_by_no_fine_tuning(unsolvable, tmp_path):
    summary = train_in_cycles(cycles_job(unsolvable, tmp_path))
    assert summary.extra["fine_tunings"] == [{"own": 0, "unsolved": 0, "steps": 0}] and summary.steps == 4


def test_the_stage_reads_the_filters_rows_only_for_unsolved_questions():
    recipe = smoke()

    def inputs(**cycles: Any) -> set[str]:
        grpo = recipe.grpo.model_copy(update={"cycles": CycleSettings(**cycles)})
        return set(plan(recipe.model_copy(update={"grpo": grpo}))["grpo"].identity.inputs)

    assert inputs() == inputs(n=1) == inputs(unsolved=True) == {"questions", "cold_start", "base_model"}
    assert inputs(n=1, unsolved=True) == {"questions", "cold_start", "base_model", "loss_filter"}
