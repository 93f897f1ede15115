"""Paper B's composite reward for completions that end in an answer: accuracy + format + length.

In: the parsed completion, the gold answer, a configuration. Out: `Rewards` with the parts "accuracy", "format" and
"length" and their weighted sum. Differs from the paper: the action is always an answer (calls happen inside the
reasoning, paper A), and the similarity is a string measure, not a cross-encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from agentflow.config import Frozen
from agentflow.metrics.answers import exact_match, is_correct, token_f1
from agentflow.records import Completion
from agentflow.rewards.parts import (
    AccuracyForm,
    Rewards,
    accuracy_reward,
    count_words,
    format_reward,
    length_reward,
)

AnswerSimilarity = Literal["by_type", "numeric_em", "token_f1", "em"]


class RewardConfig(Frozen):
    """Weights and bounds. [P] printed in paper B, [O] ours where its text is lost."""

    accuracy_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O] weight of the accuracy part in the sum.
    format_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O]
    length_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O]
    penalty: float = Field(default=2.0, ge=0, le=1000)
    # [O] subtracted where no answer can be read; the alternatives in use are 1, 2 and 3.
    accuracy_form: AccuracyForm = "1+s"
    # [O] how the similarity s enters: "1+s", "2s" or "3s".
    answer_similarity: AnswerSimilarity = "by_type"
    # [O] s in [0, 1]: numeric_em (1 iff equal numbers), token_f1, em (SQuAD), or by_type: numeric_em for questions
    # whose answer is a number, token_f1 for text.
    min_think_words: int = Field(default=14, ge=0)
    # [P] fewer words in the think block: no length reward. The bound itself counts.
    max_think_words: int = Field(default=100, ge=0)
    # [P] more words: no length reward. The bound itself counts.

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_think_words > self.max_think_words:
            raise ValueError(
                f"min_think_words {self.min_think_words} is above max_think_words {self.max_think_words}; "
                "no completion could earn the length reward; lower the first or raise the second"
            )
        return self


def answer_similarity(
    predicted: str, gold: str, aliases: Sequence[str], answer_type: str, measure: AnswerSimilarity = "by_type"
) -> float:
    """How close an answer is to the gold answer or an alias, in [0, 1]."""
    if measure == "by_type":
        measure = "numeric_em" if answer_type == "number" else "token_f1"
    if measure == "numeric_em":
        return float(is_correct(predicted, gold, aliases, "number"))
    if measure == "em":
        return float(exact_match(predicted, (gold, *aliases)))
    return token_f1(predicted, (gold, *aliases))


def composite(
    completion: Completion,
    gold: str,
    aliases: Sequence[str],
    answer_type: str,
    config: RewardConfig,
    written_think: str | None = None,
) -> Rewards:
    """Paper B's R = w_acc * R_acc + w_fmt * R_fmt + w_len * R_len; total and finite for any completion.

    `written_think`: the think block without calls and results, whose words the length part counts (a model must not
    fill its length with a tool's words). None: the think block as it is, which is right where it holds no calls.
    """
    answer = completion.answer
    readable = bool(answer)
    similarity = answer_similarity(answer, gold, aliases, answer_type, config.answer_similarity) if answer else 0.0
    words = count_words(completion.think if written_think is None else written_think)
    parts = {
        "accuracy": accuracy_reward(readable, similarity, config.penalty, config.accuracy_form),
        "format": format_reward(completion),
        "length": length_reward(words, config.min_think_words, config.max_think_words),
    }
    weights = {
        "accuracy": config.accuracy_weight,
        "format": config.format_weight,
        "length": config.length_weight,
    }
    return Rewards(parts=parts, total=sum(weights[name] * value for name, value in parts.items()))
