"""GRPO of a tiny model with a real tool, really trained through TRL; a failed tool never becomes a reward."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from pipeline_rows import question_rows
from safetensors.torch import load_file
from taught_model import PROMPT, policy_job

from agentflow.access import Access
from agentflow.errors import ToolFailure
from agentflow.models.settings import GenerationConfig
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.rendering import prompt_head, prompt_turn
from agentflow.rewards.composite import RewardConfig
from agentflow.rewards.groups import group_advantages
from agentflow.schemas import ROLLOUTS
from agentflow.stages.grpo import GrpoConfig
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.training.config import OptimiserSettings
from agentflow.training.jobs import SUMMARY, PolicyJob, TrainingSummary
from agentflow.training.policy import RolloutRecorder, policy_arguments, reward_function, train_policy

GROUP = 4


class BrokenCalculator(Calculator):
    """A calculator whose infrastructure is down."""

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        raise ToolFailure("the calculator's host is gone", kind="connection")


class BrokenAccess(Access):
    """Opens tools that are down."""

    @asynccontextmanager
    async def open_toolbox(self, *arguments: Any, **options: Any) -> AsyncIterator[ToolBox]:
        yield ToolBox([BrokenCalculator()])


def job_for(taught: Path, out: Path, access: Access, *, max_new_tokens: int = 40, **changes: Any) -> PolicyJob:
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=max_new_tokens),
        steps=2,
        group_size=GROUP,
        optimiser=OptimiserSettings(learning_rate=1e-3, batch_size=4, accumulation=2, warmup_ratio=0.0),
        **changes,
    )
    return policy_job(taught, out, config, access)


def access_of(folder: Path, kind: type[Access] = Access) -> Access:
    return kind(ledger_url=str(folder / "never-opened.db"), run_id="run")


@pytest.fixture(scope="module")
def trained(taught, tmp_path_factory):
    """Two steps of two groups of four with a working calculator."""
    out = tmp_path_factory.mktemp("grpo")
    job = job_for(taught, out, access_of(out))
    return job, train_policy(job), load_from_disk(str(job.rollouts_out))


def test_the_adapter_changes_and_is_left_as_safetensors(trained, taught):
    job, summary, _ = trained
    assert summary.steps == 2
    assert summary.extra["adapter_before"] != summary.extra["adapter_after"]
    assert {path.suffix for path in job.adapter_out.iterdir()} <= {".safetensors", ".json", ".md"}
    before, after = (load_file(out / "adapter_model.safetensors") for out in (taught / "adapter", job.adapter_out))
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    assert TrainingSummary.model_validate_json((job.out / SUMMARY).read_text()) == summary


def test_all_rollouts_are_kept_in_their_columns(trained):
    job, summary, rollouts = trained
    assert rollouts.features.arrow_schema.names == ROLLOUTS.names
    assert rollouts.features.arrow_schema.types == ROLLOUTS.types
    rows = rollouts.to_list()
    assert len(rows) == len({row["id"] for row in rows}) == 2 * 2 * GROUP == summary.extra["rollouts"]
    assert {row["step"] for row in rows} == {0, 1}
    for row in rows:
        assert row["question_id"] in job.question_ids and row["status"] == "ok" and row["failure"] is None
        assert row["prompt"].endswith("<|im_start|>assistant\n")
        parts = json.loads(row["rewards"])
        assert set(parts) == {"accuracy", "format", "length"} and row["reward"] == pytest.approx(sum(parts.values()))
    assert any(row["n_calls"] for row in rows) and any("[Calculator(1+1) -> 2]" in row["completion"] for row in rows)
    assert summary.extra["groups_with_variance"] > 0, "else there was nothing to learn from"


def test_a_group_is_one_question_and_its_advantages_are_those_of_its_rewards(trained):
    _, _, rollouts = trained
    rows = rollouts.to_list()
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        assert len({row["question_id"] for row in group}) == 1
        assert len({row["completion"] for row in group}) > 1, "every sample of a group has a seed of its own"
        expected = group_advantages([row["reward"] for row in group], GROUP)
        assert [row["advantage"] for row in group] == pytest.approx(expected)


def test_trl_saw_the_same_rewards_as_the_record_says(trained):
    _, summary, rollouts = trained
    logged = [entry["reward"] for entry in summary.log if "reward" in entry]
    for step, reward in enumerate(logged):
        of_step = [row["reward"] for row in rollouts.to_list() if row["step"] == step]
        assert reward == pytest.approx(sum(of_step) / len(of_step), abs=1e-4)
    assert len(logged) == 2


def test_the_same_job_gives_the_same_rollouts_and_weights(trained, tmp_path):
    job, summary, rollouts = trained
    again = train_policy(job.model_copy(update={"out": tmp_path}))
    assert again.extra == summary.extra
    assert load_from_disk(str(tmp_path / "rollouts")).to_list() == rollouts.to_list()


def test_a_rollout_whose_tool_failed_has_no_reward_and_moves_nothing(taught, tmp_path):
    # Long enough to write the call, too short for an answer: all rollouts that count have the same reward, so only
    # a failed one that was taken for a sample could make a difference within a group.
    job = job_for(taught, tmp_path, access_of(tmp_path, BrokenAccess), max_new_tokens=14)
    summary = train_policy(job)
    rows = load_from_disk(str(job.rollouts_out)).to_list()
    failed = [row for row in rows if row["status"] == "failed"]
    counted = [row for row in rows if row["status"] == "ok"]
    assert failed and counted and summary.extra["rollouts_failed"] == len(failed)
    for row in failed:
        assert (row["failure"], row["reward"], row["advantage"], row["rewards"]) == ("connection", None, None, "null")
    assert {row["reward"] for row in counted} == {counted[0]["reward"]} != {0.0}
    groups = [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]
    for group in groups:
        left = [row for row in group if row["status"] == "ok"]
        # Equal rewards are no advantage; a group of which one rollout is left is skipped (grpo.min_group).
        assert {row["advantage"] for row in left} <= {0.0 if len(left) >= 2 else None}
    mixed = any({row["status"] for row in group} == {"ok", "failed"} for group in groups)
    assert mixed, "a group with both kinds is what this test is about"
    assert summary.extra["adapter_before"] == summary.extra["adapter_after"]


def test_every_option_reaches_the_trainer(taught, tmp_path):
    plain = policy_arguments(job_for(taught, tmp_path, access_of(tmp_path)))
    assert (plain.epsilon, plain.epsilon_high, plain.beta, plain.scale_rewards) == (0.2, None, 0.0, "group")
    changes = {"clip_high": 0.28, "scale_rewards": "none", "entropy_bonus": 0.01, "mask_truncated": True}
    changed = policy_arguments(
        job_for(taught, tmp_path, access_of(tmp_path), entropy_quantile=0.2, loss_type="dapo", beta=0.04, **changes)
    )
    assert (changed.epsilon_high, changed.scale_rewards, changed.entropy_coef) == (0.28, "none", 0.01)
    assert (changed.mask_truncated_completions, changed.top_entropy_quantile) == (True, 0.2)
    assert (changed.loss_type, changed.beta) == ("dapo", 0.04)


# ---------------------------------------------------------------- the recorder alone
def rollout(text: str, failure: str | None = None) -> Rollout:
    return Rollout([1], [2], [1], [0.0], text, (ToolCall("Calculator", {}),), failure=failure)


@pytest.fixture
def recorder():
    question = next(row for row in question_rows(1) if row["split"] == "train")
    prompt = prompt_turn(question["question"], PROMPT)
    kept = RolloutRecorder(RewardConfig(), syntax_for("compact"), prompt_head(PROMPT), {prompt: question}, group_size=2)
    return kept, prompt, question


def test_the_length_part_counts_the_models_own_words(recorder):
    kept, _, question = recorder
    own = " ".join(["word"] * 20)
    tools = " [Search(a) -> " + " ".join(["said"] * 200) + "]"
    answer = f"<answer>{question['answer']}</answer>"
    with_tools = kept.parts(rollout(f"<think>{own}{tools}</think>{answer}"), question)
    assert with_tools == kept.parts(rollout(f"<think>{own}</think>{answer}"), question)
    assert with_tools["length"] == 1.0 and with_tools["accuracy"] == 2.0
    padded = kept.parts(rollout(f"<think>{tools}</think>{answer}"), question)
    assert padded["length"] == 0.0, "a tool's words do not fill the model's length"


def test_a_failed_rollout_has_no_parts_whatever_it_wrote(recorder):
    kept, prompt, question = recorder
    failed = rollout(f"<think>so</think><answer>{question['answer']}</answer>", failure="timeout")
    assert kept.parts(failed, question) is None and kept.weighted(None) is None
    for rank in (0, 1):
        kept.record(3, rank, [prompt, prompt], [failed, rollout("a")], [None, kept.parts(rollout("a"), question)])
    first, second, *others = kept.rows
    assert first["prompt"] == prompt_head(PROMPT) + prompt
    assert [row["id"] for row in others] == ["00003-001-000", "00003-001-001"], "workers' groups stand apart"
    assert (first["reward"], first["advantage"], first["status"]) == (None, None, "failed")
    assert (second["advantage"], second["status"]) == (0.0, "ok")
    assert [first["id"], second["id"]] == ["00003-000-000", "00003-000-001"]


def test_the_reward_functions_hand_on_what_was_scored_with_the_rollouts():
    parts = [{"accuracy": 2.0, "format": 1.0, "length": 0.0}, None]
    accuracy = reward_function("accuracy")
    assert accuracy.__name__ == "accuracy"
    assert accuracy(prompts=["p", "p"], completions=["c", "c"], reward_parts=parts, anything="else") == [2.0, None]
