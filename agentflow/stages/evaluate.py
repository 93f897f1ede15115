"""evaluate: QUESTIONS + base_model (+ adapter) -> EVALUATIONS.

Answers held-out questions with tools really executed while the model writes.

Prompt styles: "trained" (the prompt of training, strict reading of <answer>), and for an untrained base model "tools"
(the call syntax explained with worked examples) and "plain" (no tools), both read leniently; a report takes the better
of the two as the base line. A question whose tool failed is a failed key and no row: in no denominator, and asked again
by the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from agentflow.clients.search import SearchConfig
from agentflow.config import Frozen
from agentflow.examples import examples_head
from agentflow.metrics.answers import is_correct, lenient_correct, read_answer
from agentflow.models.settings import GenerationConfig
from agentflow.records import Outcomes, Reject, Rollout, canonical_json
from agentflow.rendering import PromptConfig, parse_completion, prompt_head
from agentflow.syntax import Syntax
from agentflow.toolset import ToolsConfig, syntax_for

PromptStyle = Literal["trained", "tools", "plain"]

PLAIN_SYSTEM = "You are a careful assistant. Think step by step, then end with the final answer as: Answer: <answer>"
TOOLS_SYSTEM = (
    "Think step by step inside <think></think>. To calculate, write [Calculator(expression) -> and the result is "
    "filled in. To look up a fact, write [Search(question) -> and the result is filled in. Then give the final answer "
    "as <answer>answer</answer>."
)
TOOLS_SYSTEM_JSON = (
    'Think step by step inside <think></think>. To use a tool, write <tool_call>{"name": "Calculator", "arguments": '
    '{"expression": "..."}}</tool_call> or <tool_call>{"name": "Search", "arguments": {"query": "..."}}</tool_call>; '
    "the result is filled in. "
    "Then give the final answer as <answer>answer</answer>."
)


class EvaluateConfig(Frozen):
    """What is asked and how the model may answer."""

    model: Literal["base", "sft", "cold_start", "grpo"]
    # Whose adapter; also its name in reports.
    style: PromptStyle = "trained"
    splits: tuple[str, ...] = ("test", "test_unseen")
    prompt: PromptConfig = PromptConfig()
    tools: ToolsConfig = ToolsConfig()
    search: SearchConfig = SearchConfig()
    generation: GenerationConfig = GenerationConfig(max_new_tokens=256)
    limit: int | None = Field(None, ge=1)
    # Questions a split; None is all.
    edition: str = "1"
    failure_budget: int = Field(0, ge=0)
    # Questions whose tool may fail (the service, not the model) without failing the stage.


def chosen(rows: Sequence[dict[str, Any]], config: EvaluateConfig) -> list[dict[str, Any]]:
    """The questions asked, by split then id."""
    picked: list[dict[str, Any]] = []
    for split in config.splits:
        picked += sorted((row for row in rows if row["split"] == split), key=lambda row: row["id"])[: config.limit]
    return picked


def batches(rows: Sequence[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """`rows` in batches of at most `size` that take equally long: the same kind of question, similar length.

    Which batch a row is in depends on the rows and `size` alone, not on who answers it.
    """
    order = sorted(rows, key=lambda row: (row["kind"], len(row["question"]), row["id"]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def prompt_head_of(config: EvaluateConfig) -> str:
    """What stands before every question in the configured style; encoded once for a batch."""
    if config.style == "trained":
        return prompt_head(config.prompt)
    if config.style == "plain":
        return prompt_head(config.prompt, system=PLAIN_SYSTEM)
    system = TOOLS_SYSTEM if config.prompt.syntax == "compact" else TOOLS_SYSTEM_JSON
    return examples_head(2, config.prompt, syntax_for(config.prompt.syntax), system=system)


def judge(rows: Sequence[dict[str, Any]], rollouts: Sequence[Rollout], config: EvaluateConfig) -> Outcomes:
    """One EVALUATIONS row per question; the untrained base is read leniently, trained models strictly.

    A question whose tool failed is a failed Reject that keeps the row.
    """
    rows_and_rollouts = list(zip(rows, rollouts, strict=True))
    judged = [_judge(row, rollout, config) for row, rollout in rows_and_rollouts if rollout.failure is None]
    failed = [_failed(row, rollout, config) for row, rollout in rows_and_rollouts if rollout.failure is not None]
    return Outcomes(judged, failed, len(rows_and_rollouts), len(judged))


def _failed(row: dict[str, Any], rollout: Rollout, config: EvaluateConfig) -> Reject:
    reason = str(rollout.failure)
    asked = rollout.calls[-1] if rollout.calls else None
    detail = f"{reason} of the tool in " + (canonical_json(asked.arguments)[:400] if asked else "an unread call")
    return Reject(row["id"], "failed", reason, detail, _judge(row, rollout, config))


def _own_words(rollout: Rollout, syntax: Syntax) -> str:
    """What the model said itself, without its calls and what they gave: nobody is right by what a search found."""
    # Calls are found before results are cut out: without its result, a call would end at the model's own next "]".
    calls = [(found.start, found.end) for found in syntax.find_calls(rollout.text)]
    kept, position = [], 0
    for begin, end in sorted([*calls, *rollout.injected]):
        kept.append(rollout.text[position:begin])
        position = max(position, end)
    return "".join([*kept, rollout.text[position:]])


def _judge(row: dict[str, Any], rollout: Rollout, config: EvaluateConfig) -> dict[str, Any]:
    syntax = syntax_for(config.prompt.syntax)
    completion = parse_completion(rollout.text, syntax)
    gold = (row["answer"], row["aliases"], row["answer_type"])
    said = _own_words(rollout, syntax)
    if config.style == "trained":
        predicted = parse_completion(said, syntax).answer
        correct = is_correct(predicted, *gold)
    else:
        predicted = read_answer(said, row["answer_type"])
        correct = lenient_correct(said, *gold)
    failed = rollout.failure is not None
    return {
        **{name: row[name] for name in ("id", "kind", "split", "template", "question")},
        "model": config.model,
        "prompt_style": config.style,
        "gold": row["answer"],
        "completion": rollout.text,
        "predicted": predicted,
        "correct": None if failed else correct,
        "well_formed": None if failed else completion.well_formed,
        "n_calls": len(rollout.results),
        "n_tokens": len(rollout.completion_ids),
        "status": "failed" if failed else "ok",
        "failure": rollout.failure,
    }
