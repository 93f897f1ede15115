"""The papers' presets: what they say, that they can be planned, sized and varied, and that they ask for a commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentflow import toolset
from agentflow.errors import ConfigError
from agentflow.records import Segment, ToolCall, ToolResult
from agentflow.rendering import completion_spans, prompt_text
from agentflow.rewards.choice import score
from agentflow.rewards.contract import Gold, read_attempt
from agentflow.rewards.mtr import MtrConfig
from agentflow.training.sizing import GIB, GPUS
from flows import sizing
from flows.cli import main
from flows.doctor import base_model
from flows.plan import plan
from flows.presets import PRESETS
from flows.recipes import RECIPES, load_recipe

COMMIT = "--set", "base_model.source.revision=" + "a" * 40
GSM8K = {"question": "What is 1 plus 1?", "answer": "1+1 = 2\n#### 2"}


def agentflow(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files where the presets look for them; a plan only takes their hashes."""
    for name in (
        "gsm8k/train.jsonl", "gsm8k/test.jsonl", "hotpotqa/train_distractor.jsonl", "hotpotqa/dev_distractor.jsonl",
        "musique/train_ans.jsonl", "musique/dev_ans.jsonl", "2wikimultihopqa/train.jsonl", "2wikimultihopqa/dev.jsonl",
        "bamboogle/bamboogle.jsonl",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(GSM8K) + "\n")
    monkeypatch.setenv("AGENTFLOW_DATA", str(tmp_path))
    return tmp_path


def test_presets_are_recipes_and_listed():
    assert PRESETS.items() <= RECIPES.items()
    listed = agentflow("recipes").output
    assert all(name in listed for name in ("deliberate_8b", "deliberate_70b", "reason_act_1_7b", "mtr_7b", "demo"))


@pytest.mark.parametrize("name", ["deliberate_8b", "deliberate_70b"])
def test_paper_a_is_as_printed(name):
    recipe = load_recipe(name)
    settings = recipe.sft.settings
    assert (settings.optimiser.batch_size, settings.optimiser.accumulation, settings.epochs) == (16, 4, 60)
    assert (settings.max_length, settings.four_bit) == (2048, True)
    assert set(settings.lora.targets) >= {"q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}
    prompt = prompt_text("How many?", recipe.stage("sft").prompt)
    assert prompt.startswith(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. "
        "Keep in count if input is provided."
    )
    assert prompt.endswith("Input: How many?\nReason: ")
    assert "Llama-3.1-" in recipe.base_model.source.id
    assert recipe.loss_filter.losers == "keep_without_calls"


def test_paper_b_is_as_printed():
    recipe = load_recipe("reason_act_1_7b")
    sft, grpo = recipe.sft.settings, recipe.grpo
    assert (sft.optimiser.batch_size, sft.optimiser.accumulation, sft.epochs) == (2, 4, 3)
    assert (grpo.optimiser.batch_size, grpo.optimiser.accumulation, grpo.group_size) == (1, 16, 8)
    assert (grpo.beta, grpo.clip, grpo.clip_high, grpo.scale_rewards) == (0.0, 0.2, None, "group")
    assert recipe.cold_start.n_samples < 100
    assert recipe.base_model.source.id == "Qwen/Qwen3-1.7B"
    prompt = prompt_text("How many?", recipe.stage("grpo").prompt)
    assert prompt.startswith("<|im_start|>system\n") and prompt.endswith("<|im_start|>assistant\n")
    assert all(tag in prompt for tag in ("<think>", "<tool_call>", "<answer>"))


def test_the_mtr_preset_searches_on_four_multi_hop_sets():
    recipe = load_recipe("mtr_7b")
    assert [part.kind for part in recipe.questions.source.parts] == [
        "hotpotqa", "musique", "2wikimultihopqa", "bamboogle",
    ]  # fmt: skip
    assert recipe.tools.names == ("Search",) and recipe.base_model.source.id == "Qwen/Qwen2.5-7B"


def test_the_mtr_preset_trains_with_the_trace_reward_of_paper_c_which_its_layout_can_earn():
    grpo = load_recipe("mtr_7b").stage("grpo")
    assert grpo.reward == MtrConfig() and grpo.generation.max_calls == grpo.reward.max_calls
    syntax = toolset.syntax_for(grpo.prompt.syntax)
    call, result = ToolCall("Search", {"query": "capital of France"}), ToolResult("Paris is the capital of France.")
    segments = [Segment("text", text="I look it up."), Segment("call", call=call, result=result)]
    thought = Segment("text", text=" So the answer is Paris.")
    text = "".join(span.text for span in completion_spans([*segments, thought], "Paris", syntax))
    search = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    schemas = [{"type": "function", "function": {"name": "Search", "parameters": search}}]
    gold = Gold("Paris")
    rewards = score(grpo.reward, read_attempt(text, syntax, observations=[result.text]), gold, None, schemas)
    assert rewards.parts == {"accuracy": 1.0, "consistency": 1.0, "format": 1.0} and rewards.total == pytest.approx(1.5)
    assert load_recipe("reason_act_1_7b").grpo.reward.kind == "composite"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_planned_once_it_has_a_commit_and_its_data(name, data):
    nodes = plan(load_recipe(name, [COMMIT[1]]))
    assert ("grpo" in nodes) == (not name.startswith("deliberate"))
    assert "sft" in nodes and "evaluate-sft" in nodes


def test_without_a_commit_a_run_is_refused_with_what_to_set(data, tmp_path):
    refused = agentflow("run", "deliberate_8b", "--root", tmp_path / "runs")
    assert refused.exit_code == 2
    assert "base_model.source.revision of 'meta-llama/Llama-3.1-8B-Instruct' is not set" in refused.output
    assert "--set base_model.source.revision=COMMIT" in refused.output


def test_the_doctor_finds_the_missing_commit():
    finding = base_model(load_recipe("mtr_7b"))
    assert finding.verdict == "missing" and "no commit given for Qwen/Qwen2.5-7B" in finding.line()
    assert base_model(load_recipe("mtr_7b", [COMMIT[1]])).verdict == "ok"


def test_a_plan_needs_no_commit_to_say_what_a_preset_takes(tmp_path):
    planned = agentflow("plan", "deliberate_8b", "--root", tmp_path, "--gpu", "h100")
    assert planned.exit_code == 0
    assert "stages cannot be planned yet: base_model.source.revision" in planned.output
    assert "8,030,261,248 parameters, 41,943,040 trained (0.52%: LoRA r 16)" in planned.output
    assert "989 TFLOPS bf16 dense" in planned.output and "assumed: 40% of the peak" in planned.output
    for word in ("memory sft", "weights", "adapter", "gradients", "optimiser", "activations", "KV cache", "time   sft"):
        assert word in planned.output


def test_a_training_that_is_not_made_is_neither_sized_nor_may_be_evaluated():
    with pytest.raises(ConfigError, match="evaluate.2 asks 'sft', which is not made|evaluate.3 asks 'cold_start'"):
        load_recipe("demo", ["trained_upto=sft"])
    lines = sizing.size_lines(load_recipe("deliberate_8b"), GPUS["H100"], sizing.SIZED)
    assert not any("grpo" in line for line in lines)


def test_what_is_made_already_is_not_sized_again():
    recipe = load_recipe("reason_act_1_7b")
    assert sizing.size_lines(recipe, GPUS["H100"], ["questions", "loss_filter"]) == []
    left = sizing.size_lines(recipe, GPUS["H100"], ["grpo"])
    assert [line.split()[:2] for line in left[2:]] == [["memory", "grpo"], ["memory", "grpo"], ["time", "grpo"]]


def test_an_unknown_gpu_is_refused_with_those_there_are(tmp_path):
    refused = agentflow("plan", "smoke", "--root", tmp_path, "--gpu", "H900")
    assert refused.exit_code == 2 and "no GPU called 'H900' in the table; there are H100, H200" in refused.output


def test_what_does_not_fit_is_said_and_what_is_proposed_fits():
    lines = sizing.size_lines(load_recipe("deliberate_70b"), GPUS["H100"], sizing.SIZED)
    sft = next(i for i, line in enumerate(lines) if line.startswith("memory sft"))
    assert "DOES NOT FIT into 79.1 GiB" in lines[sft] and "fits with --set" in lines[sft + 1]
    settings = [word for word in lines[sft + 1].split(";")[0].split() if "=" in word]
    changed = load_recipe("deliberate_70b", settings)
    same = changed.sft.settings.optimiser
    assert same.batch_size * same.accumulation == 64, "the same step in smaller parts"
    again = sizing.size_lines(changed, GPUS["H100"], sizing.SIZED)
    assert next(line for line in again if line.startswith("memory sft")).endswith(": fits")


def test_the_70b_preset_holds_its_base_in_four_bits_everywhere_since_no_gpu_holds_it_in_sixteen():
    def evaluating(*settings: str) -> sizing.Need:
        recipe = load_recipe("deliberate_70b", settings)
        return next(need for need in sizing.needs(recipe, _70b(), 1) if need.stage == "evaluate")

    assert evaluating().bytes < GPUS["H100"].memory_gib * GIB
    whole = evaluating("base_model.four_bit=false")
    said = sizing.memory_lines(whole, GPUS["H200"], _70b())
    assert "DOES NOT FIT into 139.8 GiB" in said[0]
    assert "fits on no GPU of the table; or with --set base_model.four_bit=true" in said[1]


def _70b():
    from agentflow.models.structure import measure, shaped
    from agentflow.training.config import LoraSettings
    from agentflow.training.placing import lora_config

    return measure(shaped("meta-llama/Llama-3.1-70B"), lora_config(LoraSettings()))
