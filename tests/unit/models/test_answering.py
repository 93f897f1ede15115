"""Answering questions in batches: one rollout each, in the order of the questions, whatever the batches."""

from __future__ import annotations

import pytest
from pipeline_rows import question_rows

from agentflow.access import Access
from agentflow.models.answering import answer_questions
from agentflow.models.settings import GenerationConfig
from agentflow.stages.evaluate import EvaluateConfig, judge
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
    told = []
    batched = answer_questions(ROWS, config(style), tiny_base, None, ACCESS, batch_size=3, on_batch=told.append)
    single = answer_questions(ROWS, config(style), tiny_base, None, ACCESS, batch_size=1)
    assert told == [3, 6, 7]
    assert [rollout.completion_ids for rollout in batched] == [rollout.completion_ids for rollout in single]
    for row, rollout in zip(ROWS, batched, strict=True):
        prompt = tiny_tokenizer.decode(rollout.prompt_ids)
        assert prompt.endswith(f"{row['question']}<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.startswith("<|im_start|>system\n") and prompt.count("<|im_start|>system") == 1
    assert judge(ROWS, batched, config(style)).keys_out == len(ROWS)
