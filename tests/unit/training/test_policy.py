"""GRPO of a tiny model with a real tool, really trained through TRL; a failed tool never becomes a reward."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from pipeline_rows import question_rows, save
from safetensors.torch import load_file
from taught_model import PROMPT, policy_job

from agentflow.access import Access
from agentflow.errors import GraderFailed, InputError, ToolFailure
from agentflow.models.settings import GenerationConfig
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, prompt_head, prompt_turn
from agentflow.rewards.contract import GOLD_CALLS
from agentflow.rewards.grading import out_of_range
from agentflow.rewards.groups import group_advantages
from agentflow.rewards.process import Grader
from agentflow.schemas import QUESTIONS, ROLLOUTS
from agentflow.stages.grpo import GraderConfig, GrpoConfig, ToolFailureLimit, choose_prompts
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import ToolBox
from agentflow.toolset import ToolsConfig, syntax_for
from agentflow.training.config import OptimiserSettings
from agentflow.training.grading import Graded, RolloutGrader
from agentflow.training.jobs import SUMMARY, PolicyJob, TrainingSummary
from agentflow.training.policy import policy_arguments, reward_function, train_policy
from agentflow.training.rollouts import RolloutRecorder, written_spans

GROUP = 4
ADDING = {"name": "Calculator", "arguments": {"expression": "1+1"}}
# What the taught model usually calls.

NEVER = ToolFailureLimit(max_failed_share=1.0)


class BrokenCalculator(Calculator):
    """A calculator whose infrastructure is down."""

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        raise ToolFailure("the calculator's host is gone", kind="connection")


class BrokenAccess(Access):
    """Opens tools that are down."""

    @asynccontextmanager
    async def open_toolbox(self, *arguments: Any, **options: Any) -> AsyncIterator[ToolBox]:
        yield ToolBox([BrokenCalculator()])


@pytest.fixture(scope="module")
def calling(taught, tmp_path_factory) -> Path:
    """The taught model's questions, which ask for its usual call instead of an answer."""
    rows = load_from_disk(str(taught / "questions")).to_list()
    asking = [{**row, "answer": "", "meta": json.dumps({GOLD_CALLS: [ADDING]})} for row in rows]
    return save(asking, tmp_path_factory.mktemp("calling"), QUESTIONS)


def job_for(
    taught: Path,
    out: Path,
    access: Access,
    *,
    max_new_tokens: int = 40,
    questions: Path | None = None,
    generation: dict[str, Any] | None = None,
    steps: int = 2,
    **changes: Any,
) -> PolicyJob:
    config = GrpoConfig(
        prompt=PROMPT,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(temperature=1.3, max_new_tokens=max_new_tokens, **(generation or {})),
        steps=steps,
        group_size=GROUP,
        optimiser=OptimiserSettings(learning_rate=1e-3, batch_size=4, accumulation=2, warmup_ratio=0.0),
        **changes,
    )
    return policy_job(taught, out, config, access, questions)


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


def test_every_rollout_says_who_wrote_which_part_of_it(trained):
    _, _, rollouts = trained
    for row in rollouts.to_list():
        spans, text = row["spans"], row["completion"]
        assert "".join(text[span["begin"] : span["end"]] for span in spans) == text
        results = [span for span in spans if span["role"] == "result"]
        assert len(results) == row["n_calls"] and {span["tool"] for span in results} <= {"Calculator"}
        assert all(text[: span["begin"]].endswith("->") for span in results)
        assert all(span["ledger_key"] is None for span in spans), "a local tool costs nothing"
        assert {span["role"] for span in spans} <= {"text", "call", "result"}


def test_the_spans_of_a_rollout_name_tools_paid_calls_and_what_was_given():
    given, asked, told, end = (
        "<think>As given,",
        " [Search(who) -> me] [Search(x) ->",
        " A [Search(y) -> B]",
        " so.</think>",
    )
    lengths = [len(given), len(given + asked), len(given + asked + told)]
    rollout = Rollout(
        [1], [2], [1], [0.0], given + asked + told + end,
        calls=(ToolCall("Search", {"query": "x"}),), results=(ToolResult("A [Search(y) -> B", ledger_key="k1"),),
        injected=((lengths[1], lengths[2]),),
    )  # fmt: skip
    spans = written_spans(rollout, lengths[0], syntax_for("compact"))
    read = [(one["role"], rollout.text[one["begin"] : one["end"]], one["tool"], one["ledger_key"]) for one in spans]
    assert read == [
        ("given", given, None, None),
        ("call", " [Search(who) ->", "Search", None),
        ("text", " me]", None, None),
        ("call", " [Search(x) ->", "Search", None),
        ("result", told, "Search", "k1"),
        ("text", end, None, None),
    ]


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
    job = job_for(taught, tmp_path, access_of(tmp_path, BrokenAccess), max_new_tokens=14, tool_failures=NEVER)
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


# ---------------------------------------------------------------- rewards by name
@pytest.mark.parametrize(
    "reward, generation, asks_for_calls",
    [
        ({"kind": "toolrl", "correct_weight": 0.5}, {"calls": "end"}, True),
        ({"kind": "binary"}, {"calls": "execute"}, True),
        ({"kind": "composite", "accuracy_form": "3s", "length_weight": 0.0}, {"calls": "collect"}, True),
        ({"kind": "mtr"}, {"calls": "execute"}, False),
    ],
)
def test_the_chosen_reward_is_logged_by_part_and_its_weighted_sum_is_optimised(
    taught, calling, tmp_path, reward, generation, asks_for_calls
):
    changes = {"reward": reward, "generation": generation, "questions": calling if asks_for_calls else None}
    job = job_for(taught, tmp_path, access_of(tmp_path), steps=1, **changes)
    summary = train_policy(job)
    rows = load_from_disk(str(job.rollouts_out)).to_list()
    config = job.config.reward
    for row in rows:
        parts = json.loads(row["rewards"])
        assert row["status"] == "ok" and out_of_range(config, parts) is None
        assert row["reward"] == pytest.approx(sum(part.weight * parts[part.name] for part in config.parts()))
    (log,) = [entry for entry in summary.log if "reward" in entry]
    for part in config.parts():
        mean = sum(json.loads(row["rewards"])[part.name] for row in rows) / len(rows)
        assert log[f"rewards/{part.name}/mean"] == pytest.approx(mean, abs=1e-4)
    assert log["reward"] == pytest.approx(sum(row["reward"] for row in rows) / len(rows), abs=1e-4)
    assert summary.extra["reward"]["kind"] == reward["kind"]
    assert set(summary.extra["reward"]["parts"]) == {part.name for part in config.parts()}
    assert (summary.extra["grader_failures"], summary.extra["grader_failure_rate"]) == (0, 0.0)
    assert summary.extra.get("guard_silent") == (["reward_hacking"] if reward["kind"] == "binary" else None)


def test_a_single_turn_policy_learns_from_calls_that_were_never_run(taught, calling, tmp_path):
    access = access_of(tmp_path, BrokenAccess)
    job = job_for(taught, tmp_path, access, reward={"kind": "toolrl"}, generation={"calls": "end"}, questions=calling)
    summary = train_policy(job)
    rows = load_from_disk(str(job.rollouts_out)).to_list()
    assert {row["status"] for row in rows} == {"ok"}, "a tool that is down does not matter: none is called"
    calling = [row for row in rows if row["completion"].endswith("[Calculator(1+1) ->")]
    assert calling and all(json.loads(row["rewards"])["correct"] == 3.0 for row in calling)
    assert all(row["n_calls"] == 1 for row in calling) and {row["gold"] for row in rows} == {json.dumps([ADDING])}
    assert summary.extra["adapter_before"] != summary.extra["adapter_after"]


def test_a_perfect_call_is_right_on_the_scale_of_its_own_form(taught, calling, tmp_path):
    reward = {"kind": "composite", "accuracy_form": "3s", "call_form": "1+s"}
    changes: dict[str, Any] = {"reward": reward, "generation": {"calls": "end"}, "prompt_weighting": "accuracy"}
    job = job_for(taught, tmp_path, access_of(tmp_path), questions=calling, **changes)
    train_policy(job)
    rows = load_from_disk(str(job.rollouts_out)).to_list()
    perfect = [row for row in rows if row["completion"].endswith("[Calculator(1+1) ->")]
    assert perfect and len(perfect) < len(rows)
    assert {json.loads(row["rewards"])["accuracy"] for row in perfect} == {2.0}, "of 1+s, whatever answers could get"
    assert any(row["advantage"] for row in rows), "a question that is solved now and then has a weight"


@pytest.mark.parametrize(
    "reward, asks_for_calls, message",
    [
        ({"kind": "toolrl"}, False, "none of the 4 questions carries any"),
        ({"kind": "mtr"}, True, "asks for calls, and reward 'mtr' judges answers"),
        ({"kind": "composite"}, True, "asks for calls as the whole turn, and generation.calls is 'execute'"),
    ],
)
def test_questions_that_do_not_fit_the_reward_are_refused_before_training(
    taught, calling, tmp_path, reward, asks_for_calls, message
):
    with pytest.raises(InputError, match=message):
        job_for(taught, tmp_path, access_of(tmp_path), reward=reward, questions=calling if asks_for_calls else None)


def test_a_gold_call_that_the_syntax_cannot_hold_is_refused_with_the_one_that_can(calling):
    row = load_from_disk(str(calling)).to_list()[0]
    foreign = {**row, "meta": json.dumps({GOLD_CALLS: [{"name": "book", "arguments": {"day": "Monday", "seats": 2}}]})}
    config = GrpoConfig(generation={"calls": "end"}, steps=1)
    with pytest.raises(InputError, match="gold call 'book' .* cannot be written in syntax 'compact'; set prompt"):
        choose_prompts([foreign], config, workers=1)
    assert choose_prompts([foreign], config.model_copy(update={"prompt": PromptConfig(syntax="json")}), workers=1)


SILENT = "import json, sys\ninput()\nprint(json.dumps({'ready': True}), flush=True)\nfor line in sys.stdin:\n    pass\n"


def test_a_grader_that_fails_too_often_stops_the_stage_and_nothing_is_published(taught, tmp_path, monkeypatch):
    (tmp_path / "silent.py").write_text(SILENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("agentflow.training.grading.Grader", functools.partial(Grader, program="silent"))
    job = job_for(taught, tmp_path, access_of(tmp_path), grader=GraderConfig(timeout_s=0.1))
    with pytest.raises(GraderFailed, match=r"8 of 8 rollouts could not be graded, allowed are 1.0%.*timeout_s"):
        train_policy(job)
    assert not job.adapter_out.exists()


# ---------------------------------------------------------------- the recorder alone
def rollout(text: str, failure: str | None = None) -> Rollout:
    return Rollout([1], [2], [1], [0.0], text, (ToolCall("Calculator", {}),), failure=failure)


@pytest.fixture
def recorder():
    question = next(row for row in question_rows(1) if row["split"] == "train")
    prompt = prompt_turn(question["question"], PROMPT)
    kept = RolloutRecorder(GrpoConfig(prompt=PROMPT, group_size=2), {prompt: question})
    return kept, prompt, question


@pytest.fixture(scope="module")
def grader():
    with RolloutGrader(GrpoConfig(prompt=PROMPT, grader=GraderConfig(timeout_s=20)), []) as one:
        yield one


def test_the_length_part_counts_the_models_own_words(recorder, grader):
    _, _, question = recorder
    own = " ".join(["word"] * 20)
    tools = " [Search(a) -> " + " ".join(["said"] * 200) + "]"
    answer = f"<answer>{question['answer']}</answer>"
    thoughts = [f"{own}{tools}", own, tools]
    graded = grader.grade([rollout(f"<think>{think}</think>{answer}") for think in thoughts], [question] * 3)
    with_tools, without, padded = (one.parts for one in graded)
    assert with_tools == without
    assert with_tools["length"] == 1.0 and with_tools["accuracy"] == 2.0
    assert padded["length"] == 0.0, "a tool's words do not fill the model's length"


def test_a_failed_rollout_has_no_parts_whatever_it_wrote(recorder, grader):
    kept, prompt, question = recorder
    failed = rollout(f"<think>so</think><answer>{question['answer']}</answer>", failure="timeout")
    graded = grader.grade([failed, rollout("a")], [question, question])
    assert graded[0] == Graded(failed, None, None) and kept.weighted(None) is None
    for rank in (0, 1):
        kept.record(3, rank, [prompt, prompt], graded)
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
