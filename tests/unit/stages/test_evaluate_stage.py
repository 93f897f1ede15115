"""Rollouts judged: strictly for trained models, leniently for the base, not at all where a tool failed."""

from __future__ import annotations

import pytest
from pipeline_rows import question_rows

from agentflow.examples import EXAMPLES
from agentflow.records import Rollout, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, prompt_text, prompt_turn
from agentflow.schemas import EVALUATIONS
from agentflow.stages.evaluate import EvaluateConfig, chosen, judge, prompt_head_of

ROWS = [row for row in question_rows(6) if row["split"] == "test"]
TRAINED = EvaluateConfig(model="grpo")


def rollout(text, **changes):
    return Rollout(**{"prompt_ids": [1], "completion_ids": [2, 3], "model_written": [1, 1], "logprobs": [0.0, 0.0],
                      "text": text, **changes})  # fmt: skip


def judged(text, config=TRAINED, **changes):
    outcomes = judge(ROWS[:1], [rollout(text, **changes)], config)
    assert (outcomes.keys_in, outcomes.keys_out, outcomes.rejects) == (1, 1, [])
    assert set(outcomes.rows[0]) == set(EVALUATIONS.names)
    return outcomes.rows[0]


def test_a_right_answer_in_its_tags_is_correct():
    row = judged(f"<think>so</think><answer> {ROWS[0]['answer']} </answer>")
    assert (row["correct"], row["well_formed"], row["status"]) == (True, True, "ok")
    assert row["predicted"] == row["gold"] == ROWS[0]["answer"]
    assert (row["model"], row["prompt_style"], row["n_tokens"]) == ("grpo", "trained", 2)


@pytest.mark.parametrize("text", ["{gold}", "Answer: {gold}", "<answer>{gold}</answer><answer>{gold}</answer>", ""])
def test_a_trained_model_must_put_its_one_answer_in_tags(text):
    row = judged(text.format(gold=ROWS[0]["answer"]))
    assert (row["correct"], row["well_formed"], row["predicted"]) == (False, False, None)


def test_a_right_answer_without_reasoning_is_correct_but_not_well_formed():
    row = judged(f"<answer>{ROWS[0]['answer']}</answer>")
    assert (row["correct"], row["well_formed"]) == (True, False)


@pytest.mark.parametrize("style", ["plain", "tools"])
@pytest.mark.parametrize("text", ["Answer: {gold}", "The answer is {gold}.", "<think>a</think><answer>{gold}</answer>"])
def test_the_untrained_base_is_read_leniently(style, text):
    row = judged(text.format(gold=ROWS[0]["answer"]), EvaluateConfig(model="base", style=style))
    assert row["correct"] is True and row["prompt_style"] == style


@pytest.mark.parametrize(
    "found, said, right",
    [
        ("Mira directed it, in {gold} days.", "I do not know.", False),
        ("Answer: {gold}", "I do not know.", False),
        ("nothing", "It is {gold}.", True),
        ("Answer: {gold}", "Answer: no idea", False),
    ],
)
def test_nobody_is_right_by_what_a_search_found(found, said, right):
    gold = ROWS[0]["answer"]
    before, result, after = "<think>[Search(film) -> ", found.format(gold=gold), f"] </think>{said.format(gold=gold)}"
    where = (len(before), len(before) + len(result))
    call, answer = ToolCall("Search", {"query": "film"}), ToolResult(result)
    row = judged(
        before + result + after, EvaluateConfig(model="base", style="tools"),
        calls=(call,), results=(answer,), injected=(where,),
    )  # fmt: skip
    assert row["correct"] is right and row["completion"] == before + result + after


@pytest.mark.parametrize("asked", ["[Search({gold}) -> ]", "[Calculator({gold}) -> {gold}]"])
def test_nobody_is_right_by_what_was_asked_or_made_up_as_a_result(asked):
    text = f"<think>{asked.format(gold=ROWS[0]['answer'])}</think>I do not know."
    assert judged(text, EvaluateConfig(model="base", style="tools"))["correct"] is False


def test_brackets_of_the_model_behind_a_result_stay_its_own_words():
    gold = ROWS[0]["answer"]
    before, result = "<think>so [Calculator(1+1) ->", " 2]"
    text = f"{before}{result} and \\[ x = {gold} \\]</think>"
    row = judged(
        text, EvaluateConfig(model="base", style="tools"), calls=(ToolCall("Calculator", {"expression": "1+1"}),),
        results=(ToolResult("2"),), injected=((len(before), len(before) + len(result)),),
    )  # fmt: skip
    assert row["correct"] is True


@pytest.mark.parametrize("said, right", [("", False), (" {gold}", True)])
def test_a_trained_model_is_not_right_by_a_call_inside_its_answer(said, right):
    gold = ROWS[0]["answer"]
    before, result = "<think>so</think><answer>[Search(how many) ->", f" {gold}]"
    row = judged(
        f"{before}{result}{said.format(gold=gold)}</answer>", calls=(ToolCall("Search", {"query": "how many"}),),
        results=(ToolResult(gold),), injected=((len(before), len(before) + len(result)),),
    )  # fmt: skip
    assert row["correct"] is right and row["predicted"] == (gold if right else "")


def test_calls_count_where_they_were_run():
    row = judged("text", calls=(ToolCall("a", {}), ToolCall("b", {})), results=(ToolResult("1"),))
    assert row["n_calls"] == 1


def test_a_question_whose_tool_failed_is_a_failed_key_that_keeps_what_was_written():
    calls = (ToolCall("Search", {"query": "who"}),)
    text = f"<think>a</think><answer>{ROWS[0]['answer']}</answer>"
    outcomes = judge(ROWS[:2], [rollout(text, calls=calls, failure="timeout", finished=False), rollout("b")], TRAINED)
    assert (outcomes.keys_in, outcomes.keys_out, [row["id"] for row in outcomes.rows]) == (2, 1, [ROWS[1]["id"]])
    (reject,) = outcomes.rejects
    assert (reject.key, reject.status, reject.reason) == (ROWS[0]["id"], "failed", "timeout")
    assert '{"query":"who"}' in reject.detail
    assert (reject.row["status"], reject.row["failure"], reject.row["completion"]) == ("failed", "timeout", text)
    assert reject.row["correct"] is None and reject.row["well_formed"] is None


def test_rows_and_rollouts_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        judge(ROWS[:2], [rollout("a")], TRAINED)


def test_questions_are_taken_by_split_then_id_up_to_the_limit():
    rows = question_rows(6)
    config = EvaluateConfig(model="base", splits=("test", "train"), limit=2)
    picked = chosen(rows[::-1], config)
    assert [row["split"] for row in picked] == ["test", "test", "train", "train"]
    for split in ("test", "train"):
        assert [r["id"] for r in picked if r["split"] == split] == sorted(r["id"] for r in rows if r["split"] == split)[
            :2
        ]
    assert chosen(rows, EvaluateConfig(model="base", splits=("test_unseen",))) == []


def test_a_trained_model_sees_the_prompt_of_training():
    assert prompt_head_of(TRAINED) + prompt_turn("q", TRAINED.prompt) == prompt_text("q", PromptConfig())


@pytest.mark.parametrize("syntax, written", [("compact", "[Calculator("), ("json", "<tool_call>")])
def test_the_base_is_shown_the_syntax_with_worked_examples(syntax, written):
    config = EvaluateConfig(model="base", style="tools", prompt=PromptConfig(syntax=syntax))
    head = prompt_head_of(config)
    assert all(example.question in head for example in EXAMPLES)
    assert head.count(written) >= 3
    assert head.endswith("</answer><|im_end|>\n"), "the last example is a finished turn"


def test_the_plain_prompt_speaks_of_no_tools():
    head = prompt_head_of(EvaluateConfig(model="base", style="plain"))
    assert "Calculator" not in head and "Search" not in head and "Answer: <answer>" in head
