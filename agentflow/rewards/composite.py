"""Paper B's composite reward: accuracy + format + length.

In: an attempt, what was asked for, a configuration. Out: `Rewards` with the parts "accuracy", "format" and "length" and
their weighted sum. The right action is an answer, or (where the question carries gold calls) calls. A whole rollout
with executed calls (paper A) always ends in an answer; the turns of paper B are one action each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from agentflow.metrics.answers import exact_match, is_correct, token_f1
from agentflow.rewards.contract import Attempt, Gold, Part, RewardConfig, Rewards
from agentflow.rewards.parts import (
    AccuracyForm,
    accuracy_reward,
    calls_similarity,
    count_words,
    format_reward,
    length_reward,
)

ModelSimilarity = Literal["bi_encoder", "cross_encoder"]
AnswerSimilarity = Literal["by_type", "numeric_em", "token_f1", "em", ModelSimilarity]


class CompositeConfig(RewardConfig):
    """Weights and bounds. [P] printed in paper B, [O] ours where its text is lost."""

    accuracy_part: ClassVar[str] = "accuracy"
    format_part: ClassVar[str | None] = "format"
    kind: Literal["composite"] = "composite"
    accuracy_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O] weight of the accuracy part in the sum.
    format_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O]
    length_weight: float = Field(default=1.0, ge=0, le=1000)
    # [O]
    penalty: float = Field(default=2.0, ge=0, le=1000)
    # [O] subtracted where the action is of the wrong type or unreadable; the alternatives in use are 1, 2 and 3.
    accuracy_form: AccuracyForm = "1+s"
    # [O] how the similarity s enters: "1+s", "2s" or "3s".
    call_form: AccuracyForm | None = None
    # [O] the same for calls, where they are to have a form of their own ("3s": S_tool in [0, 3]); None: accuracy_form.
    answer_similarity: AnswerSimilarity = "by_type"
    # [O] s in [0, 1]: numeric_em (1 iff equal numbers), token_f1, em (SQuAD), or by_type: numeric_em for questions
    # whose answer is a number, token_f1 for text. cross_encoder: sigmoid of its logit ([P] the family, [O] the
    # sigmoid); bi_encoder: cosine of two embeddings, at least 0 [O]. These two need a model: `grpo.similarity_model`.
    normalise_arguments: bool = False
    # [O] texts in a call's arguments are compared without case and outer white space.
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

    @property
    def model_similarity(self) -> ModelSimilarity | None:
        """The kind of model that says how close an answer is; None where a string measure does."""
        named = [name for name in get_args(ModelSimilarity) if name == self.answer_similarity]
        return named[0] if named else None

    def parts(self) -> tuple[Part, ...]:
        """R_acc in [-penalty, 2 or 3], R_fmt and R_len 0 or 1."""
        highest = max(accuracy_reward(True, 1.0, form=form) for form in (self.accuracy_form, self._form_of_calls))
        return (
            Part("accuracy", self.accuracy_weight, -self.penalty, highest),
            Part("format", self.format_weight, 0.0, 1.0),
            Part("length", self.length_weight, 0.0, 1.0),
        )

    def best(self, gold: Gold) -> float:
        """Calls and answers have forms of their own, and so different highest values."""
        return accuracy_reward(True, 1.0, form=self._form_of_calls if gold.calls else self.accuracy_form)

    @property
    def _form_of_calls(self) -> AccuracyForm:
        return self.call_form or self.accuracy_form

    def accuracy(self, attempt: Attempt, gold: Gold, similarity: float | None) -> float:
        """R_acc of an attempt."""
        if gold.calls:
            close = calls_similarity(attempt.completion.calls, gold.calls, self.normalise_arguments)
            return accuracy_reward(attempt.action == "call", close, self.penalty, self._form_of_calls)
        answer = attempt.completion.answer
        if attempt.action != "answer" or not answer:
            return accuracy_reward(False, 0.0, self.penalty, self.accuracy_form)
        if self.model_similarity is None:
            similarity = answer_similarity(answer, gold.answer, gold.aliases, gold.answer_type, self.answer_similarity)
        elif similarity is None:
            raise ValueError(f"answer_similarity {self.answer_similarity!r}: its model was not asked")
        return accuracy_reward(True, similarity, self.penalty, self.accuracy_form)


def answer_similarity(
    predicted: str, gold: str, aliases: Sequence[str], answer_type: str, measure: AnswerSimilarity = "by_type"
) -> float:
    """How close an answer is to the gold answer or an alias, in [0, 1], by a measure of strings.

    Raises ValueError for a measure that needs a model.
    """
    if measure == "by_type":
        measure = "numeric_em" if answer_type == "number" else "token_f1"
    match measure:
        case "numeric_em":
            return float(is_correct(predicted, gold, aliases, "number"))
        case "em":
            return float(exact_match(predicted, (gold, *aliases)))
        case "token_f1":
            return token_f1(predicted, (gold, *aliases))
    raise ValueError(f"{measure!r} is no measure of strings")


def composite(attempt: Attempt, gold: Gold, config: CompositeConfig, similarity: float | None = None) -> Rewards:
    """Paper B's R = w_acc * R_acc + w_fmt * R_fmt + w_len * R_len; total and finite for any attempt.

    `similarity` in [0, 1]: what a model said of answer and gold, for the two measures that need one. Raises ValueError
    if it is missing there.
    """
    words = count_words(attempt.completion.think if attempt.written_think is None else attempt.written_think)
    return config.weighted(
        {
            "accuracy": config.accuracy(attempt, gold, similarity),
            "format": format_reward(attempt.completion),
            "length": length_reward(words, config.min_think_words, config.max_think_words),
        }
    )
