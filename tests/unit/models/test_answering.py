"""Answering questions in batches: one rollout each, in the order of the questions, whatever the batches."""

from __future__ import annotations

import pytest
from pipeline_rows import question_rows

from agentflow.access import Access
from agentflow.models.answering import AnsweringModel
from agentflow.models.settings import GenerationConfig
from agentflow.stages.evaluate import EvaluateConfig, batches, judge
from agentflow.toolset import ToolsConfig

ROWS = [row for row in question_rows(5, two_hop=2) if row["split"] == "train"]
ACCESS = Access(ledger_url="never-opened.db", run_id="run")


def config(style):
    return EvaluateConfig(
        model="base",
        style=style,
        tools=ToolsConfig(names=("Calculator",)),
        generation=GenerationConfig(max_new_tokens=6),
    )


@pytest.mark.parametrize("style", ["trained", "tools", "plain"])
def test_answers_come_in_the_order_of_the_questions_and_do_not_depend_on_the_batches(style, tiny_base, tiny_tokenizer):
    model = AnsweringModel(tiny_base, None)
    batched = model.answer(ROWS, config(style), ACCESS)
    single = [rollout for row in ROWS for rollout in model.answer([row], config(style), ACCESS)]
    assert [rollout.completion_ids for rollout in batched] == [rollout.completion_ids for rollout in single]
    for row, rollout in zip(ROWS, batched, strict=True):
        prompt = tiny_tokenizer.decode(rollout.prompt_ids)
        assert prompt.endswith(f"{row['question']}<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.startswith("<|im_start|>system\n") and prompt.count("<|im_start|>system") == 1
    assert judge(ROWS, batched, config(style)).keys_out == len(ROWS)


def test_a_rows_batch_depends_on_the_rows_and_the_size_alone():
    planned = batches(ROWS, 3)
    assert [len(batch) for batch in planned] == [3, 3, 1]
    assert sorted(row["id"] for batch in planned for row in batch) == sorted(row["id"] for row in ROWS)
    assert batches(ROWS[::-1], 3) == planned and batches([], 3) == []
    kinds = [row["kind"] for batch in planned for row in batch]
    assert kinds == sorted(kinds), "neighbours take equally long"
